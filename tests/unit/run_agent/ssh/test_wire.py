"""The wire: messages stay whole, descriptors belong to theirs, a link never holds up its loop."""

import asyncio
import os
import socket
from contextlib import closing

import pytest

from run_agent.ssh import wire

DEADLINE_SECONDS = 20


@pytest.fixture
def pair():
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        yield ours, theirs


def in_a_loop(program):
    async def limited():
        async with asyncio.timeout(DEADLINE_SECONDS):
            return await program

    return asyncio.run(limited())


def test_messages_arrive_whole_and_in_order(pair):
    ours, theirs = pair
    wire.send(ours, {"a": 1})
    wire.send(ours, {"b": "ü"})
    assert wire.receive(theirs) == ({"a": 1}, None)
    assert wire.receive(theirs) == ({"b": "ü"}, None)


def test_a_descriptor_comes_with_its_message_and_is_not_inherited(pair, tmp_path):
    ours, theirs = pair
    (tmp_path / "file").write_text("content")
    with (tmp_path / "file").open() as file:
        wire.send(ours, {"plain": True})
        wire.send(ours, {"with": True}, file.fileno())
    assert wire.receive(theirs) == ({"plain": True}, None)
    message, descriptor = wire.receive(theirs)
    with os.fdopen(descriptor) as passed:
        assert message == {"with": True}
        assert passed.read() == "content"
        assert not os.get_inheritable(descriptor)


def test_an_end_that_has_gone_is_none(pair):
    ours, theirs = pair
    ours.close()
    assert wire.receive(theirs) is None


def test_where_none_is_there_it_says_so(pair):
    _, theirs = pair
    theirs.setblocking(False)
    with pytest.raises(BlockingIOError):
        wire.receive(theirs)


class Ends:
    """A link, and what it was told."""

    def __init__(self, peer):
        self.messages, self.reasons, self.undelivered = [], [], []
        self.ended = asyncio.Event()
        self.link = wire.Link(peer, heard=self._heard, lost=self._lost)

    def _heard(self, message, _):
        self.messages.append(message)
        if message.get("bad"):
            raise ValueError("no such message")

    def _lost(self, reason, undelivered):
        self.reasons.append(reason)
        self.undelivered = undelivered
        self.ended.set()


def test_a_full_link_keeps_what_waits_and_sends_it_in_order_later(pair):
    ours, theirs = pair

    async def program():
        ends = Ends(ours)
        for number in range(2000):
            ends.link.send({"number": number})
        theirs.setblocking(False)
        received = []
        while len(received) < 2000:
            try:
                received.append(wire.receive(theirs)[0]["number"])
            except BlockingIOError:
                await asyncio.sleep(0)
        assert received == list(range(2000))
        assert ends.link._stuck is None
        ends.link.close()
        assert not ends.reasons

    in_a_loop(program())


def test_a_socket_that_is_passed_on_is_closed_here_once_it_is_sent(pair):
    ours, theirs = pair

    async def program():
        ends = Ends(ours)
        near, far = socket.socketpair()
        with closing(far):
            ends.link.send({"take": True}, near)
            assert near.fileno() == -1
            _, descriptor = wire.receive(theirs)
            far.send(b"x")
            assert os.read(descriptor, 1) == b"x"
            os.close(descriptor)
        ends.link.close()

    in_a_loop(program())


def test_who_takes_nothing_is_given_up_and_what_was_not_sent_comes_back(pair, monkeypatch):
    ours, _ = pair
    monkeypatch.setattr(wire, "STUCK_SECONDS", 0.05)

    async def program():
        ends = Ends(ours)
        for number in range(2000):
            ends.link.send({"number": number})
        await ends.ended.wait()
        sent = 2000 - len(ends.undelivered)
        assert 0 < sent < 2000
        assert ends.undelivered[0] == ({"number": sent}, None)
        assert "taken nothing" in ends.reasons[0]
        assert ours.fileno() == -1

    in_a_loop(program())


def test_closing_closes_the_sockets_that_still_wait(pair):
    ours, _ = pair

    async def program():
        ends = Ends(ours)
        for number in range(2000):
            ends.link.send({"number": number})
        near, far = socket.socketpair()
        with closing(far):
            ends.link.send({"take": True}, near)
            assert near.fileno() >= 0
            ends.link.close()
            assert near.fileno() == -1
        assert not ends.reasons

    in_a_loop(program())


@pytest.mark.parametrize("packet", [b"{", b"\xff\xff", b'{"bad": true}'])
def test_a_peer_that_is_not_understood_is_given_up(pair, packet):
    ours, theirs = pair

    async def program():
        ends = Ends(ours)
        theirs.send(packet)
        await ends.ended.wait()
        assert "not understood" in ends.reasons[0]

    in_a_loop(program())


def test_a_peer_that_has_gone_is_noticed_once(pair):
    ours, theirs = pair

    async def program():
        ends = Ends(ours)
        wire.send(theirs, {"last": "words"})
        theirs.close()
        await ends.ended.wait()
        assert ends.messages == [{"last": "words"}]
        assert len(ends.reasons) == 1

    in_a_loop(program())
