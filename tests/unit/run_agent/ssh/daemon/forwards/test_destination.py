"""Which destinations are this replica's own, however they are spelled."""

import asyncio
import socket

import asyncssh
import pytest

from run_agent.ssh.authorized_keys import AuthorizedKey
from run_agent.ssh.daemon.forwards import destination
from run_agent.ssh.daemon.forwards.look_ups import LookUps

ANY = AuthorizedKey("ssh-ed25519", b"")


def answers(*addresses):
    """Return a name server that knows one name, and only once what it says here."""
    asked = []

    async def look_up(host, port):
        assert not asked, "a second answer could be another one"
        asked.append(host)
        return [(0, 0, 0, "", endpoint(address, port)) for address in addresses]

    return look_up


def endpoint(address, port):
    return (address, port, 0, 0) if ":" in address else (address, port)


def find(host, port=80, key=ANY, look_up=None):
    return asyncio.run(destination.find(key, host, port, look_up or LookUps().look_up))


def refusal(*arguments, **options) -> asyncssh.ChannelOpenError:
    with pytest.raises(asyncssh.ChannelOpenError) as caught:
        find(*arguments, **options)
    return caught.value


async def nobody(host, port):
    raise AssertionError("asked")


@pytest.mark.parametrize("name", ["localhost", "LocalHost", "localhost.", "LOCALHOST."])
def test_localhost_is_both_loopback_addresses_without_asking_anybody(name):
    assert find(name, look_up=nobody) == [("127.0.0.1", 80), ("::1", 80, 0, 0)]


@pytest.mark.parametrize(
    ("spelling", "meant"),
    [
        ("127.0.0.1", ("127.0.0.1", 80)),
        ("127.9.9.9", ("127.9.9.9", 80)),
        ("0x7f.1", ("127.0.0.1", 80)),
        ("2130706433", ("127.0.0.1", 80)),
        ("0177.1", ("127.0.0.1", 80)),
        ("0.0.0.0", ("127.0.0.1", 80)),
        ("0", ("127.0.0.1", 80)),
        ("::1", ("::1", 80, 0, 0)),
        ("::", ("::1", 80, 0, 0)),
        ("::ffff:127.0.0.1", ("127.0.0.1", 80)),
        ("::ffff:0.0.0.0", ("127.0.0.1", 80)),
        ("0:0:0:0:0:0:0:1", ("::1", 80, 0, 0)),
    ],
)
def test_every_spelling_of_loopback_is_normalised_without_asking_anybody(spelling, meant):
    assert find(spelling, look_up=nobody) == [meant]


@pytest.mark.parametrize(
    "address",
    [
        "198.51.100.1",
        "8.8.8.8",
        "169.254.169.254",  # where clouds keep credentials
        "0xa9fea9fe",
        "224.0.0.1",
        "ff02::1",
        "2001:db8::1",
        "::ffff:8.8.8.8",
        "::ffff:169.254.169.254",
        "::127.0.0.1",
        "64:ff9b::7f00:1",
        "2002:7f00:1::",
        "fd00:ec2::254",
    ],
)
def test_any_other_address_is_prohibited(address):
    refused = refusal(address)
    assert refused.code == asyncssh.OPEN_ADMINISTRATIVELY_PROHIBITED
    assert "this replica's own" in refused.reason


def test_the_replicas_own_address_is_reachable(monkeypatch):
    monkeypatch.setattr(destination, "_binds", lambda at: at[0] == "10.1.2.3")
    assert find("10.1.2.3") == [("10.1.2.3", 80)]
    refusal("10.1.2.4")


def test_where_the_kernel_lets_anybody_bind_anything_only_loopback_is_reachable(monkeypatch):
    monkeypatch.setattr(destination, "_binds", lambda _: True)
    refusal("10.1.2.3")
    assert find("127.0.0.1")


def test_a_name_is_as_good_as_all_of_its_addresses():
    ours = answers("127.0.0.1", "::1", "127.0.0.1")
    assert find("app", look_up=ours) == [("127.0.0.1", 80), ("::1", 80, 0, 0)]
    refusal("app", look_up=answers("127.0.0.1", "198.51.100.1"))
    refusal("app", look_up=answers("198.51.100.1", "127.0.0.1"))


def test_a_name_that_means_loopback_within_ipv6_is_normalised():
    assert find("app", look_up=answers("::ffff:127.0.0.1")) == [("127.0.0.1", 80)]


def test_a_name_that_nobody_knows_is_a_failure_with_a_reason():
    async def unknown(host, port):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    refused = refusal("nowhere", look_up=unknown)
    assert refused.code == asyncssh.OPEN_CONNECT_FAILED
    assert refused.reason == "name or service not known"


def test_a_name_server_that_is_silent_has_a_deadline(monkeypatch):
    async def silent(host, port):
        await asyncio.Event().wait()

    monkeypatch.setattr(destination, "LOOK_UP_SECONDS", 0.01)
    refused = refusal("slow", look_up=silent)
    assert refused.code == asyncssh.OPEN_CONNECT_FAILED
    assert "within 0.01 s" in refused.reason


@pytest.mark.parametrize("name", ["", "a" * 256, "x" * 70 + ".de", "a\0b", "\udcff", "\n"])
def test_what_is_no_name_is_refused(name):
    assert refusal(name).code == asyncssh.OPEN_CONNECT_FAILED


@pytest.mark.parametrize("port", [0, 65536, (1 << 32) - 1])
def test_what_is_no_port_is_refused(port):
    assert "no such port" in refusal("localhost", port).reason


def test_a_key_without_forwards_forwards_nothing():
    key = AuthorizedKey("ssh-ed25519", b"", allows_forwards=False)
    refused = refusal("localhost", key=key)
    assert refused.code == asyncssh.OPEN_ADMINISTRATIVELY_PROHIBITED
    assert "this key" in refused.reason


@pytest.mark.parametrize(
    ("host", "port", "allowed"),
    [
        ("localhost", 80, True),
        ("LOCALHOST.", 80, True),
        ("localhost", 81, False),
        ("127.0.0.1", 80, False),  # the name counts, not what it stands for: sshd(8)
        ("::1", 5000, True),
        ("other", 7000, True),
        ("", 80, False),
    ],
)
def test_permitopen_limits_a_key_to_what_it_names(host, port, allowed):
    key = AuthorizedKey(
        "ssh-ed25519",
        b"",
        permitted_forwards=(("localhost", 80), ("::1", None), ("*", 7000)),
    )
    assert destination.allows(key, host, port) is allowed


def test_permitopen_never_leads_further_than_this_replica():
    key = AuthorizedKey("ssh-ed25519", b"", permitted_forwards=(("198.51.100.1", 80),))
    assert "own" in refusal("198.51.100.1", key=key).reason
