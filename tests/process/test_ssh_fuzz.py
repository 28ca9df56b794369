"""Mutated packets at the stage before authentication: no crash, no hang, no growth.

Two kinds of client. One writes plain packets, from the identification line to what follows NEWKEYS.
The other exchanges keys as it should, so that what it mutates then is decrypted and parsed.
"""

import asyncio
import os
import random
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Self

import psutil
import pytest
from asyncssh import SSHClient, SSHClientConnection, SSHClientConnectionOptions
from asyncssh.packet import Boolean, Byte, NameList, String, UInt32

from support.ssh import Daemon, Key, daemons, make_key
from support.wait import PATIENCE_SECONDS, until

SEED = 20_251_121

PLAIN_CONNECTIONS, PLAIN_PACKETS = 2000, 6
ENCRYPTED_CONNECTIONS, ENCRYPTED_PACKETS = 1000, 10
AT_ONCE = 10

CLIENT_SECONDS = 20.0
"""Longer than the daemon may take with anything; beyond that it hangs."""

GROWTH_BYTES = 16 << 20
"""What the daemon may hold more after the second half than after the first: arenas, no leak."""

DISCONNECT, IGNORE, UNIMPLEMENTED, DEBUG, SERVICE_REQUEST, EXT_INFO = 1, 2, 3, 4, 5, 7
KEXINIT, NEWKEYS, KEX_ECDH_INIT, USERAUTH_REQUEST, USERAUTH_INFO_RESPONSE = 20, 21, 30, 50, 61
GLOBAL_REQUEST, CHANNEL_OPEN, CHANNEL_DATA, CHANNEL_REQUEST = 80, 90, 94, 98

Rng = random.Random


@pytest.fixture(name="sshd")
def _sshd(tmp_path, ports):
    yield from daemons(tmp_path, ports)


def test_mutated_packets_do_no_harm(sshd, tmp_path):
    key = make_key(tmp_path)
    daemon = sshd(key, env={"PATH": os.environ["PATH"]}, settings={"SSH_MAX_ATTEMPTS": "1000"})
    assert daemon.ssh("--", "true", key=key).returncode == 0
    pid, packets, sizes = daemon.pid, 0, []
    for half in (0, 1):
        with logging_in(daemon, key) as logins:
            packets += asyncio.run(attack(daemon, key, Rng(SEED + half)))
        assert logins.done > 3
        assert not logins.failed
        until(lambda: all_gone(daemon), lambda: f"all have gone: {daemon.log}")
        sizes.append(psutil.Process(pid).memory_info().rss)
    assert packets >= 20_000  # sent: what follows a fatal one in its connection is not parsed
    assert daemon.ssh("--", "true", key=key).returncode == 0
    assert daemon.pid == pid
    assert daemon.process.poll() is None
    assert sizes[1] - sizes[0] < GROWTH_BYTES, sizes
    assert [event for event in daemon.events() if event["severity"] == "ERROR"] == []


def all_gone(daemon: Daemon) -> bool:
    """Whether every connection that was handed over has been closed."""
    return len(daemon.door.messages("closed")) == daemon.door.handed


async def attack(daemon: Daemon, key: Key, rng: Rng) -> int:
    """Send half of all packets; return how many that were."""
    turn, sent = asyncio.Semaphore(AT_ONCE), 0
    public = key.line.split()[1]

    async def one(client: Callable[..., object], seed: int) -> None:
        nonlocal sent
        async with turn, asyncio.timeout(CLIENT_SECONDS):
            packets = await client(daemon.port, Rng(seed), public)
        sent += packets

    clients = [plain] * (PLAIN_CONNECTIONS // 2) + [encrypted] * (ENCRYPTED_CONNECTIONS // 2)
    rng.shuffle(clients)
    async with asyncio.TaskGroup() as tasks:
        for client in clients:
            tasks.create_task(one(client, rng.getrandbits(32)))
    return sent


class logging_in:  # noqa: N801 - reads as what it is: with logging_in(daemon, key)
    """Log in with a right key again and again meanwhile; each must work."""

    def __init__(self, daemon: Daemon, key: Key) -> None:
        self.done, self.failed = 0, []
        self._daemon, self._key, self._over = daemon, key, threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        while not self._over.is_set():
            done = self._daemon.ssh("--", "echo hello", key=self._key)
            if done.stdout == b"hello\n":
                self.done += 1
            else:
                self.failed.append(done)
            self._over.wait(0.3)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join(PATIENCE_SECONDS)


# -- plain packets --------------------------------------------------------------------------------


async def plain(port: int, rng: Rng, _public: str) -> int:
    """Send an identification line and packets in the order of the protocol, most of them wrong."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    line = b"SSH-2.0-fuzz_1.0\r\n"
    writer.write(mutated(line, rng) if rng.random() < 0.1 else line)
    with suppress(OSError):
        for payload in plain_payloads(rng):
            packet = framed(payload)
            if rng.random() < 0.2:
                packet = mutated(packet, rng)  # its length and padding as well
            writer.write(packet)
            await writer.drain()
        if writer.can_write_eof():
            writer.write_eof()
        while await reader.read(1 << 16):
            pass
    writer.close()
    with suppress(OSError):
        await writer.wait_closed()
    return PLAIN_PACKETS


def plain_payloads(rng: Rng) -> Iterator[bytes]:
    """Give payloads: what a client sends before it is encrypted, mutated here and there."""
    proper = [
        kexinit(rng),
        Byte(KEX_ECDH_INIT) + String(rng.randbytes(32)),
        Byte(NEWKEYS),
        Byte(SERVICE_REQUEST) + String("ssh-userauth"),
    ]
    for number in range(PLAIN_PACKETS):
        first = number < 2 and rng.random() < 0.5  # get as far as the next stage now and then
        payload = (
            proper[number % 4] if first or rng.random() < 0.5 else rng.choice(any_payloads(rng))
        )
        yield payload if first else mutated(payload, rng)


def kexinit(rng: Rng) -> bytes:
    """Return a KEXINIT with which the daemon agrees, without strict key exchange."""
    lists = [
        [rng.choice([b"curve25519-sha256", b"mlkem768x25519-sha256"]), b"ext-info-c"],
        [b"ssh-ed25519"], *[[b"aes256-gcm@openssh.com"]] * 2, *[[b"hmac-sha2-256"]] * 2,
        *[[b"none"]] * 2, [], [],
    ]  # fmt: skip
    return b"".join(
        [Byte(KEXINIT), rng.randbytes(16), *map(NameList, lists), Boolean(False), UInt32(0)]
    )


def framed(payload: bytes) -> bytes:
    """Put a payload into a packet as RFC 4253, 6 has it, without encryption."""
    padding = -(5 + len(payload)) % 8
    padding += 8 if padding < 4 else 0
    return UInt32(1 + len(payload) + padding) + Byte(padding) + payload + bytes(padding)


# -- encrypted packets ----------------------------------------------------------------------------


async def encrypted(port: int, rng: Rng, public: str) -> int:
    """Exchange keys properly, and then send wrong packets."""
    loop = asyncio.get_running_loop()
    options = SSHClientConnectionOptions(
        config=None, known_hosts=None, username="root", client_keys=None, agent_path=None,
        client_factory=SSHClient, kex_algs=["curve25519-sha256"],
        server_host_key_algs=["ssh-ed25519"],
        encryption_algs=["aes128-gcm@openssh.com"], compression_algs=["none"],
    )  # fmt: skip
    options.waiter = loop.create_future()
    _, client = await loop.create_connection(
        lambda: SSHClientConnection(loop, options, wait="kex"), "127.0.0.1", port
    )
    await options.waiter
    client._kex_complete = True  # it stops there, as who only wants the host key
    with suppress(OSError):
        for payload in encrypted_payloads(rng, public):
            client.send_packet(payload[0], payload[1:])
        if rng.random() < 0.1:
            client._send(rng.randbytes(64))
        # so that the daemon reads all of it before it goes
        client.get_extra_info("socket").shutdown(socket.SHUT_WR)
    await client.wait_closed()
    return ENCRYPTED_PACKETS


def encrypted_payloads(rng: Rng, public: str) -> Iterator[bytes]:
    """Give payloads: mostly a login, mutated."""
    if rng.random() < 0.9:
        yield Byte(SERVICE_REQUEST) + String("ssh-userauth")
    for _ in range(ENCRYPTED_PACKETS):
        kinds = rng.choice([2, 2, 2, 6])
        head, rest = login(rng, public)
        if rng.random() < 0.6:  # the user and the service stay, so that the method is reached
            yield head + mutated(rest, rng, most=2, kinds=kinds)
        else:
            payload = rng.choice([head + rest, *any_payloads(rng)])
            yield mutated(payload, rng, most=2, kinds=kinds) or b"\0"


def login(rng: Rng, public: str) -> tuple[bytes, bytes]:
    """Return a request to log in by some method (RFC 4252), in two parts: whose, and how."""
    import base64

    key = base64.b64decode(public)
    methods = {
        "none": b"",
        "publickey": Boolean(False) + String("ssh-ed25519") + String(key),
        "publickey-signed": Boolean(True) + String("ssh-ed25519") + String(key)
        + String(String("ssh-ed25519") + String(rng.randbytes(64))),
        "password": Boolean(False) + String("secret"),
        "keyboard-interactive": String("") + String(""),
        "hostbased": String("ssh-ed25519") + String(key) + String("host") + String("root")
        + String(rng.randbytes(64)),
        "gssapi-with-mic": UInt32(1) + String(rng.randbytes(9)),
    }  # fmt: skip
    name = rng.choice(list(methods))
    head = String("root") + String("ssh-connection") + String(name.partition("-signed")[0])
    return Byte(USERAUTH_REQUEST) + head, methods[name]


# -- both -----------------------------------------------------------------------------------------


def any_payloads(rng: Rng) -> list[bytes]:
    """Return a payload of many types, right in form."""
    return [
        Byte(DISCONNECT) + UInt32(11) + String("bye") + String(""),
        Byte(IGNORE) + String(rng.randbytes(rng.randrange(64))),
        Byte(UNIMPLEMENTED) + UInt32(0),
        Byte(DEBUG) + Boolean(True) + String("hello") + String(""),
        Byte(SERVICE_REQUEST) + String("ssh-connection"),
        Byte(EXT_INFO) + UInt32(1) + String("server-sig-algs") + String("x"),
        kexinit(rng),
        Byte(KEX_ECDH_INIT) + String(bytes(32)),
        Byte(NEWKEYS),
        Byte(USERAUTH_INFO_RESPONSE) + UInt32(1) + String("x"),
        Byte(GLOBAL_REQUEST) + String("tcpip-forward") + Boolean(True) + String("") + UInt32(0),
        Byte(CHANNEL_OPEN) + String("session") + UInt32(0) + UInt32(1 << 20) + UInt32(1 << 15),
        Byte(CHANNEL_DATA) + UInt32(0) + String("data"),
        Byte(CHANNEL_REQUEST) + UInt32(0) + String("exec") + Boolean(True) + String("id"),
        rng.randbytes(rng.randrange(1, 200)),
    ]


def mutated(content: bytes, rng: Rng, most: int = 4, kinds: int = 6) -> bytes:
    """Change some of it: bits and bytes, and, with all kinds, lengths and its end as well."""
    changed = bytearray(content)
    for _ in range(rng.randrange(1, most + 1)):
        at = rng.randrange(len(changed) + 1)
        match rng.randrange(kinds):
            case 0 if at < len(changed):
                changed[at] ^= 1 << rng.randrange(8)
            case 1 if at < len(changed):
                changed[at] = rng.randrange(256)
            case 2:
                del changed[at:]
            case 3:
                changed[at:at] = rng.randbytes(rng.choice([1, 4, 100, 5000]))
            case 4:
                changed[at : at + 4] = rng.choice([b"\xff" * 4, bytes(4), b"\x7f\xff\xff\xff"])
            case _:
                changed += changed[at : at + 64]
    return bytes(changed)
