"""Forwarded ports through real clients: OpenSSH's -L, -D and -W.

And asyncssh's, for what OpenSSH will not do. The server here holds forwards and nothing else.
"""

import asyncio
import contextlib
import functools
import hashlib
import logging
import os
import shutil
import socket
import struct
import threading
import time
from collections.abc import AsyncIterator, Iterator
from types import SimpleNamespace

import asyncssh
import psutil
import pytest

from run_agent.ssh.authorized_keys import AuthorizedKey
from run_agent.ssh.daemon.audit import Audit
from run_agent.ssh.daemon.forwards import destination, forward, look_ups
from run_agent.ssh.daemon.forwards.forward import Forwards
from run_agent.ssh.daemon.site import Login
from support.need import need
from support.ports import Ports
from support.ssh import OPTIONS, Key, make_key
from support.wait import PATIENCE_SECONDS, POLL_SECONDS

SECONDS = 30.0

BUFFERED = 24 << 20
"""More than all buffers on the way hold (kernel, windows), less than what an endless one would."""


class Connection(asyncssh.SSHServer):
    """What the daemon's connection does for forwards."""

    def __init__(self, server) -> None:
        self.server = server

    def connection_made(self, conn):
        login = Login(1, "root", self.server.key, ("127.0.0.1", 1), ("127.0.0.1", 22))
        self.forwards = Forwards(SimpleNamespace(audit=self.server.audit), login, self.refuse)
        self.conn = conn
        self.server.connections.append(self)
        conn.pause_writing = functools.partial(self.forwards.congest, congested=True)
        conn.resume_writing = functools.partial(self.forwards.congest, congested=False)

    def refuse(self, what, reason, **fields):
        self.server.audit.refuse(what, "127.0.0.1", reason, **fields)

    def connection_lost(self, _exc):
        self.forwards.close()

    def begin_auth(self, _username):
        return True

    def public_key_auth_supported(self):
        return True

    def validate_public_key(self, _username, _key):
        return True

    def connection_requested(self, dest_host, dest_port, _orig_host, _orig_port):
        return self.forwards.request(dest_host, dest_port)


class Server:
    """An SSH server with forwards only, and its log."""

    def __init__(
        self, folder, user_key: Key, records: list[logging.LogRecord], ports: Ports
    ) -> None:
        self.folder, self.user_key, self.records, self.ports = folder, user_key, records, ports
        self.key = AuthorizedKey("ssh-ed25519", b"", comment="alice")
        self.audit = Audit()
        self.connections: list[Connection] = []

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        listener = await asyncssh.listen(
            "127.0.0.1",
            0,
            server_factory=lambda: Connection(self),
            server_host_keys=[asyncssh.generate_private_key("ssh-ed25519")],
            encoding=None,
            keepalive_interval=0,
        )
        self.port = listener.get_port()
        try:
            yield
        finally:
            listener.close()
            await listener.wait_closed()
            for connection in self.connections:
                connection.conn.abort()
                await connection.conn.wait_closed()
            self.audit.close()

    def closed(self) -> list[logging.LogRecord]:
        return [line for line in self.records if line.event == "forward closed"]

    def refused(self) -> list[logging.LogRecord]:
        return [line for line in self.records if line.event == "forward refused"]

    def open(self) -> int:
        return sum(len(one.forwards._open) for one in self.connections)

    @contextlib.asynccontextmanager
    async def ssh(self, *arguments: str, **streams) -> AsyncIterator[asyncio.subprocess.Process]:
        """Run OpenSSH's client; end it when we are through."""
        need(shutil.which("ssh"), "OpenSSH's ssh")
        options = OPTIONS | {"UserKnownHostsFile": str(self.folder / "known_hosts")}
        process = await asyncio.create_subprocess_exec(
            *("ssh", "-F", "none", "-p", str(self.port), "-i", str(self.user_key.path)),
            *arguments,
            *(f"-o{name}={value}" for name, value in options.items()),
            "root@127.0.0.1",
            **streams,
        )
        try:
            yield process
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()

    async def stdio(self, destination: str) -> tuple[bytes, bytes]:
        """Ask `ssh -W` for a destination; return what comes out, and what it complains of."""
        pipes = dict.fromkeys(("stdin", "stdout", "stderr"), asyncio.subprocess.PIPE)
        async with self.ssh("-oLogLevel=INFO", "-W", destination, **pipes) as process:
            out, complaint = await process.communicate(b"")
        return out, b"".join(
            line for line in complaint.splitlines() if b"list of known hosts" not in line
        )

    @contextlib.asynccontextmanager
    async def tunnel(self, option: str, to: str = "") -> AsyncIterator[int]:
        """Open a port with `-L` or `-D`; it listens when the client has logged in."""
        port = self.ports.free()
        async with self.ssh("-N", option, f"127.0.0.1:{port}" + to and f"127.0.0.1:{port}{to}"):
            await until(lambda: _listens(port), "the client's own port")
            yield port

    @contextlib.asynccontextmanager
    async def client(self) -> AsyncIterator[asyncssh.SSHClientConnection]:
        async with asyncssh.connect(
            "127.0.0.1",
            self.port,
            username="root",
            client_keys=[str(self.user_key.path)],
            known_hosts=None,
            config=None,
        ) as connection:
            yield connection


@pytest.fixture(scope="module")
def user_key(tmp_path_factory) -> Key:
    return make_key(tmp_path_factory.mktemp("key"))


@pytest.fixture
def server(tmp_path, user_key, caplog, ports) -> Server:
    caplog.set_level(logging.INFO, "ssh")
    records: list[logging.LogRecord] = []
    logger = logging.getLogger("ssh")
    keep = logging.Handler()
    keep.emit = records.append
    logger.addHandler(keep)
    yield Server(tmp_path, user_key, records, ports)
    logger.removeHandler(keep)
    bad = [line.getMessage() for line in caplog.records if line.levelno >= logging.ERROR]
    assert not bad, bad


def scenario(test):
    """Run a test in a loop of its own, with the server and a deadline."""

    @functools.wraps(test)
    def run(server, **fixtures):
        async def main() -> None:
            async with asyncio.timeout(SECONDS), server.serving():
                await test(server, **fixtures)

        asyncio.run(main())

    return run


async def until(condition, what: str) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        await asyncio.sleep(POLL_SECONDS)


def _listens(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


@contextlib.asynccontextmanager
async def app(talk, host: str = "127.0.0.1") -> AsyncIterator[int]:
    """Serve `talk(reader, writer)` on a port of its own; wait for the end of every talk."""
    talks: set[asyncio.Task] = set()

    async def serve(reader, writer):
        talks.add(asyncio.current_task())
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            await talk(reader, writer)
        with contextlib.suppress(OSError):
            writer.close()
            await writer.wait_closed()

    listener = await asyncio.start_server(serve, host, 0)
    try:
        yield listener.sockets[0].getsockname()[1]
    finally:
        listener.close()
        await listener.wait_closed()
        await asyncio.gather(*talks)


async def echo(reader, writer):
    """Send everything back, and only then end."""
    received = await reader.read()
    writer.write(received)
    await writer.drain()


async def greet_and_sum(reader, writer):
    """Say something, end our direction, and count what still comes."""
    writer.write(b"hello")
    writer.write_eof()
    greet_and_sum.received = await reader.read()


@scenario
async def test_the_clients_end_reaches_the_app_and_the_answer_still_comes(server):
    async with app(echo) as port, server.tunnel("-L", f":127.0.0.1:{port}") as local:
        reader, writer = await asyncio.open_connection("127.0.0.1", local)
        writer.write(b"ping")
        writer.write_eof()
        assert await reader.read() == b"ping"
        writer.close()
        await until(lambda: len(server.closed()) == 2, "the probe's and ours")
    [line] = [line for line in server.closed() if line.bytes_in]
    assert (line.bytes_in, line.bytes_out) == (4, 4)
    assert (line.destination, line.key_comment) == (f"127.0.0.1:{port}", "alice")


@scenario
async def test_the_apps_end_reaches_the_client_who_may_go_on(server):
    async with app(greet_and_sum) as port, server.client() as connection:
        reader, writer = await connection.open_connection("127.0.0.1", port)
        assert await reader.read() == b"hello"
        writer.write(b"still here")
        writer.write_eof()
        await until(server.closed, "the forward's end")
        await until(lambda: hasattr(greet_and_sum, "received"), "the app's end")
    assert greet_and_sum.received == b"still here"


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
@scenario
async def test_localhost_reaches_an_app_that_has_one_family_only(server, host):
    async with app(echo, host) as port:
        assert await server.stdio(f"localhost:{port}") == (b"", b"")
        await until(server.closed, "the forward's end")
    assert server.closed()[0].destination == f"localhost:{port}"


@scenario
async def test_the_replicas_own_address_is_reachable(server):
    addresses = [
        one.address
        for interface in psutil.net_if_addrs().values()
        for one in interface
        if one.family == socket.AF_INET and not one.address.startswith("127.")
    ]
    need(addresses, "a network interface")
    async with app(greet_and_sum, "0.0.0.0") as port:
        assert await server.stdio(f"{addresses[0]}:{port}") == (b"hello", b"")


@pytest.mark.parametrize(
    ("kind", "address"),
    [
        (3, b"\x09localhost"),
        (1, b"\x7f\0\0\x01"),
        (4, bytes(15) + b"\x01"),
        (4, bytes(10) + b"\xff\xff\x7f\0\0\x01"),
    ],
)
@scenario
async def test_socks_reaches_the_app_by_name_and_by_either_address(server, kind, address):
    host = "::1" if len(address) == 16 and b"\xff" not in address else "127.0.0.1"
    async with app(greet_and_sum, host) as port, server.tunnel("-D") as local:
        reader, writer = await asyncio.open_connection("127.0.0.1", local)
        writer.write(b"\x05\x01\0")
        assert await reader.readexactly(2) == b"\x05\0"
        writer.write(b"\x05\x01\0" + bytes([kind]) + address + struct.pack(">H", port))
        assert (await reader.readexactly(10))[1] == 0
        assert await reader.read() == b"hello"
        writer.close()


@scenario
async def test_another_machine_is_prohibited_and_both_sides_are_told(server):
    _, complaint = await server.stdio("198.51.100.1:80")
    assert b"administratively prohibited: only localhost and this replica's own" in complaint
    (line,) = server.refused()
    assert (line.destination, line.levelno) == ("198.51.100.1:80", logging.WARNING)
    assert "only localhost" in line.getMessage()


@scenario
async def test_a_key_that_may_not_forward_is_told_so(server):
    server.key = AuthorizedKey("ssh-ed25519", b"", allows_forwards=False)
    _, complaint = await server.stdio("localhost:80")
    assert b"administratively prohibited: this key may not forward there" in complaint


@scenario
async def test_a_port_where_nobody_listens_is_a_failed_connect(server):
    _, complaint = await server.stdio(f"localhost:{server.ports.free()}")
    assert b"connect failed: Connection refused" in complaint
    assert server.refused()[0].reason == "Connection refused"


@scenario
async def test_an_app_that_does_not_accept_has_a_deadline(server, monkeypatch):
    monkeypatch.setattr(forward, "CONNECT_SECONDS", 0.2)
    with full_backlog() as listener:
        _, complaint = await server.stdio(f"127.0.0.1:{listener.getsockname()[1]}")
    assert b"no answer within 0.2 s" in complaint


@scenario
async def test_a_client_that_goes_while_we_connect_leaves_nothing_open(server):
    before = psutil.Process().num_fds()
    with full_backlog() as listener:
        async with server.client() as connection:
            port = listener.getsockname()[1]
            asking = asyncio.create_task(connection.open_connection("127.0.0.1", port))
            await until(lambda: server.connections and _waiting(server), "the request")
        with pytest.raises(asyncssh.ChannelOpenError):
            await asking
        listener.settimeout(PATIENCE_SECONDS)
        accepted = [listener.accept()[0] for _ in range(WAITING)]  # now there is room for ours
        await until(lambda: not _waiting(server), "the connect's end")
        ours, _ = await asyncio.to_thread(listener.accept)
        assert ours.recv(1) == b""
        for one in (ours, *accepted):
            one.close()
    await until(lambda: not server.open(), "the forward's end")
    await until(lambda: psutil.Process().num_fds() <= before, "the descriptors")


def _waiting(server) -> int:
    return server.connections[0].forwards._waiting


@scenario
async def test_names_that_nobody_answers_for_hold_up_nobody_else(server, monkeypatch):
    with silent_name_server(monkeypatch) as asked:
        async with app(greet_and_sum) as port, server.client() as greedy, server.client() as other:
            asking = [
                asyncio.create_task(greedy.open_connection(f"{number}.silent", port))
                for number in range(40)
            ]
            await until(lambda: len(asked) == look_ups.AT_ONCE, "the first look-ups")
            async with asyncio.timeout(destination.LOOK_UP_SECONDS / 2):
                for way, host in ((other, "app.here"), (other, "127.0.0.1"), (greedy, "::1")):
                    with contextlib.suppress(asyncssh.ChannelOpenError):  # nobody listens on ::1
                        reader, _ = await way.open_connection(host, port)
                        assert await reader.read() == b"hello"
            failures = await asyncio.gather(*asking, return_exceptions=True)
            assert {one.reason for one in failures} == {"the name was not found within 5 s"}
            assert len(asked) == look_ups.AT_ONCE, "a thread is busy for longer than we wait"
        await until(lambda: len(server.closed()) == 2, "the forwards' ends")
    reached = {line.destination for line in server.closed()}
    assert reached == {f"app.here:{port}", f"127.0.0.1:{port}"}


@contextlib.contextmanager
def silent_name_server(monkeypatch) -> Iterator[list[str]]:
    """Answer for no name in `silent`, as long as the block takes, and give those asked for."""
    asked, over, real = [], threading.Event(), socket.getaddrinfo

    def getaddrinfo(host, port, *arguments, flags=0, **options):
        if flags & socket.AI_NUMERICHOST or not str(host).endswith((".silent", ".here")):
            return real(host, port, *arguments, flags=flags, **options)
        if host.endswith(".here"):
            return real("127.0.0.1", port, *arguments, **options)
        asked.append(host)
        over.wait(SECONDS)
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    try:
        yield asked
    finally:
        over.set()


@pytest.mark.parametrize("direction", ["up", "down"])
@scenario
async def test_what_goes_through_arrives_whole(server, direction):
    content = os.urandom(1 << 20) * 32
    arrived = asyncio.get_running_loop().create_future()

    async def talk(reader, writer):
        if direction == "up":
            arrived.set_result(hashlib.sha256(await reader.read()).digest())
        else:
            writer.write(content)
            await writer.drain()

    async with app(talk) as port, server.client() as connection:
        reader, writer = await connection.open_connection("127.0.0.1", port)
        if direction == "up":
            writer.write(content)
            writer.write_eof()
        else:
            writer.write_eof()
            arrived.set_result(hashlib.sha256(await reader.read()).digest())
        assert await arrived == hashlib.sha256(content).digest()
        await until(server.closed, "the forward's end")
    line = server.closed()[0]
    assert line.bytes_in + line.bytes_out == len(content)


@pytest.mark.parametrize("window", [1 << 20, (1 << 31) - 1])
@scenario
async def test_a_client_that_does_not_read_holds_the_app_back(server, window):
    """Whatever window it promises: it may be larger than our memory (plink's is 2 GiB)."""
    sent = 0

    async def pour(reader, writer):
        nonlocal sent
        while True:
            writer.write(bytes(1 << 18))
            await writer.drain()
            sent += 1 << 18

    async with app(pour) as port, server.client() as connection:
        await connection.create_connection(asyncssh.SSHTCPSession, "127.0.0.1", port, window=window)
        connection._transport.pause_reading()
        await until(functools.partial(_stands_still, lambda: sent, []), "the app's halt")
        assert 0 < sent < BUFFERED
        halted_at = sent
        connection._transport.resume_reading()
        await until(lambda: sent > halted_at + BUFFERED or window < BUFFERED, "the flow again")
        connection.abort()
    await until(lambda: not server.open(), "the end")


@scenario
async def test_an_app_that_does_not_read_holds_the_client_back(server):
    listener = socket.create_server(("127.0.0.1", 0))
    async with server.client() as connection:
        with listener:
            port = listener.getsockname()[1]
            _, writer = await connection.open_connection("127.0.0.1", port)
            accepted, _ = listener.accept()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(2):
                    for _ in range(2 * BUFFERED >> 18):
                        writer.write(bytes(1 << 18))
                        await writer.drain()
                    raise AssertionError("everything was taken, and nobody read it")
            (one,) = server.connections[0].forwards._open
            assert one._near.get_write_buffer_size() < 1 << 20
            assert one._bytes_in < BUFFERED
            accepted.close()
            await until(server.closed, "the end of the forward, by the app's reset")


@scenario
async def test_a_reset_by_the_app_is_an_end(server):
    async def reset(reader, writer):
        await reader.readexactly(1)
        linger = struct.pack("ii", 1, 0)
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)

    async with app(reset) as port, server.client() as connection:
        reader, writer = await connection.open_connection("127.0.0.1", port)
        writer.write(b"x")
        assert await reader.read() == b""
        await until(server.closed, "the forward's end")
        assert server.closed()[0].reason == "Connection reset by peer"
        assert not connection.is_closed()


@scenario
async def test_a_killed_client_ends_its_forwards(server):
    gone = asyncio.Event()

    async def wait(reader, writer):
        writer.write(b"hello")
        await reader.read()
        gone.set()

    async with app(wait) as port:
        async with server.tunnel("-L", f":localhost:{port}") as local:
            await until(server.closed, "the probe's end")
            gone.clear()
            reader, writer = await asyncio.open_connection("127.0.0.1", local)
            assert await reader.readexactly(5) == b"hello"
        await gone.wait()
        writer.close()
    assert not server.open()
    assert len(server.closed()) == 2


@scenario
async def test_a_client_that_closes_its_channel_ends_the_apps_connection(server):
    """Even where the app neither reads nor ends: what is buffered has a deadline."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        async with server.client() as connection:
            port = listener.getsockname()[1]
            _, writer = await connection.open_connection("127.0.0.1", port)
            accepted, _ = listener.accept()
            writer.write(b"last words")
            writer.close()
            await until(server.closed, "the forward's end")
            accepted.settimeout(5)
            assert accepted.recv(100) == b"last words"
            assert accepted.recv(100) == b""
            accepted.close()


@scenario
async def test_a_connection_has_a_bounded_number_of_forwards(server, monkeypatch):
    monkeypatch.setattr(forward, "MOST", 3)
    async with app(echo) as port, server.client() as connection:
        streams = [await connection.open_connection("127.0.0.1", port) for _ in range(3)]
        with pytest.raises(asyncssh.ChannelOpenError, match="3 forwards are open already"):
            await connection.open_connection("127.0.0.1", port)
        reader, writer = streams[0]
        writer.write_eof()
        await reader.read()
        await until(server.closed, "one end")
        await connection.open_connection("127.0.0.1", port)


WAITING = 1
"""How many the kernel lets wait where the backlog is 0; it drops who comes next (listen(2))."""


@contextlib.contextmanager
def full_backlog():
    """Listen and accept nobody, with no place left to wait."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        for _ in range(WAITING):
            stack.enter_context(socket.create_connection(listener.getsockname()))
        yield listener


def _stands_still(count, seen: list[int]) -> bool:
    """Whether `count()` was the same for half a second."""
    seen.append(count())
    return len(seen) > 50 and len(set(seen[-50:])) == 1 and seen[-1] > 0
