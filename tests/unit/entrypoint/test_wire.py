"""The wire between PID 1 and the agent: whole messages only, whatever the cuts."""

import pytest

from entrypoint.init import wire

MESSAGES = [
    {"start": {"argv": ["a b", "\n", ""], "env": {"UTF": "grüße ☃", "Q": "'\"\\"}}},
    {"verdict": {}},
    {"memo": None, "draining": True},
    {"undecodable": b"\xff\xfe".decode(errors="surrogateescape")},
]


@pytest.mark.parametrize("size", [1, 2, 3, 7, 64, 1 << 16])
def test_messages_arrive_whole_however_they_are_cut(size):
    sent = b"".join(map(wire.encode, MESSAGES))
    decoder = wire.Decoder()
    arrived = []
    for start in range(0, len(sent), size):
        arrived += decoder.feed(sent[start : start + size])
    assert arrived == MESSAGES


def test_a_message_is_one_line():
    for message in MESSAGES:
        assert wire.encode(message).count(b"\n") == 1


def test_a_cut_message_never_counts():
    decoder = wire.Decoder()
    assert decoder.feed(wire.encode({"a": 1}) + wire.encode({"b": 2})[:-1]) == [{"a": 1}]
    assert decoder.feed(b"\n") == [{"b": 2}]


def test_a_large_environment_fits():
    message = {"start": {"env": {str(number): "x" * 100_000 for number in range(20)}}}
    assert wire.Decoder().feed(wire.encode(message)) == [message]


@pytest.mark.parametrize("line", [b"garbage", b"[1]", b"5", b"null", b"", b"\xff", b'{"a": }'])
def test_what_is_no_object_is_refused(line):
    with pytest.raises(ValueError, match=r".*"):
        wire.Decoder().feed(line + b"\n")


def test_a_line_without_end_is_refused():
    decoder, part = wire.Decoder(), b"x" * (1 << 20)
    for _ in range(wire.MESSAGE_LIMIT_BYTES // len(part)):
        assert decoder.feed(part) == []
    with pytest.raises(ValueError, match="a message over 32 MiB"):
        decoder.feed(b"x")
