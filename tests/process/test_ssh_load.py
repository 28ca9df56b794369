"""Many sessions at once, clients that do not read, and clients that go without a word."""

import asyncio
import contextlib
import ipaddress
import os
import shutil
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator
from typing import NamedTuple

import asyncssh
import psutil
import pytest

from support.need import need
from support.ssh import Daemon, Key, Start, client_environ, daemons, make_key
from support.wait import holds, until

SESSIONS = 200

AT_ONCE = 120.0
"""Seconds that all of them may take on a machine that has other things to do."""

KEEPALIVE = {"SSH_KEEPALIVE_SECONDS": "0.5", "SSH_KEEPALIVE_MISSES": "2"}
"""A silent client counts as gone after 1.5 s; an ended session's processes are dead soon after."""

BOUND_BYTES = 48 << 20
"""What the daemon may grow by for a client that does not read: windows and buffers."""

BULK_BYTES = 1 << 30


@pytest.fixture(scope="module")
def key(tmp_path_factory) -> Key:
    return make_key(tmp_path_factory.mktemp("key"))


@pytest.fixture
def start_daemon(tmp_path, ports) -> Iterator[Start]:
    yield from daemons(tmp_path, ports)


@pytest.fixture
def daemon(start_daemon, key) -> Daemon:
    """Make a daemon that has already served somebody."""
    daemon = start_daemon(key, settings=KEEPALIVE)
    assert daemon.ssh("--", "true", key=key).returncode == 0, daemon.log
    return daemon


class Place(NamedTuple):
    """Where a client is: by which address it reaches us, and what it is started with."""

    address: str
    wrapper: tuple[str, ...] = ()


HERE = Place("127.0.0.1")


@contextlib.contextmanager
def client(
    daemon: Daemon,
    *arguments: str,
    key: Key,
    place: Place = HERE,
    program="ssh",
    options=None,
    **streams,
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a client in the background; end it when we are through."""
    argv = daemon.client(
        *arguments, key=key, program=program, address=place.address, options=options
    )
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE} | streams
    with subprocess.Popen(
        [*place.wrapper, *argv], env=client_environ(), start_new_session=True, **pipes
    ) as process:
        try:
            yield process
        finally:
            kill(process)


def kill(process: subprocess.Popen[bytes]) -> None:
    """Kill it and what it has started, without a word to anybody."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def connections_of(daemon: Daemon) -> list[tuple]:
    """List the TCP connections that the daemon has, in whatever state."""
    return psutil.Process(daemon.pid).net_connections("tcp")


def memory_of(daemon: Daemon) -> int:
    """Return what the daemon has for itself, in bytes."""
    return psutil.Process(daemon.pid).memory_full_info().uss


def until_nothing_is_left(daemon: Daemon) -> None:
    """Wait until no process, no connection and no entry of a client is left; the daemon serves."""
    until(lambda: not daemon.sessions(), "processes of the session")
    until(lambda: not connections_of(daemon), lambda: f"{connections_of(daemon)}")
    for what in ("login", "session", "forward", "transfer"):
        until(lambda what=what: is_closed(daemon, what), lambda: daemon.log)


def is_closed(daemon: Daemon, what: str) -> bool:
    """Whether the audit has closed all that it has opened."""
    opened, closed = (len(daemon.events(event=f"{what} {did}")) for did in ("opened", "closed"))
    return opened == closed


# -- many at once ---------------------------------------------------------------------------------


def test_200_connections_at_once_each_run_a_command(daemon, key):
    async def one(number: int) -> tuple[int, int, bytes]:
        argv = daemon.client("--", f"echo {number}; exit {number % 256}", key=key)
        process = await asyncio.create_subprocess_exec(
            *argv,
            env=client_environ(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
        )
        out, _ = await process.communicate()
        return number, process.returncode, out

    async def all_of_them() -> list[tuple[int, int, bytes]]:
        async with asyncio.timeout(AT_ONCE):
            return await asyncio.gather(*map(one, range(SESSIONS)))

    answers = asyncio.run(all_of_them())
    wrong = [got for got in answers if got[1:] != (got[0] % 256, b"%d\n" % got[0])]
    assert not wrong, (wrong[:5], daemon.log[-3000:])
    until_nothing_is_left(daemon)


def test_200_sessions_at_once_on_few_connections_each_run_a_command(daemon, key):
    async def one(connection: asyncssh.SSHClientConnection, number: int) -> None:
        done = await connection.run(f"cat; exit {number}", input=f"{number}")
        assert (done.stdout, done.exit_status) == (f"{number}", number)

    async def all_of_them() -> None:
        async with asyncio.timeout(AT_ONCE), contextlib.AsyncExitStack() as stack:
            connections = [
                await stack.enter_async_context(
                    asyncssh.connect(
                        "127.0.0.1",
                        daemon.port,
                        username="root",
                        client_keys=[str(key.path)],
                        known_hosts=None,
                        config=None,
                    )
                )
                for _ in range(SESSIONS // 20)
            ]
            await asyncio.gather(
                *(one(connections[number % len(connections)], number) for number in range(SESSIONS))
            )

    asyncio.run(all_of_them())
    until_nothing_is_left(daemon)


def test_many_sessions_over_a_control_master(daemon, key, tmp_path):
    path = {"ControlPath": "master"}  # relative: a socket's path has 108 bytes at most
    here = {"cwd": tmp_path, "env": client_environ(), "stdin": subprocess.DEVNULL}
    argv = daemon.client("-N", key=key, options=path | {"ControlMaster": "yes"})
    with subprocess.Popen(argv, **here) as master:
        until((tmp_path / "master").exists, lambda: daemon.log)
        running = [
            subprocess.Popen(daemon.client("--", f"exit {n}", key=key, options=path), **here)
            for n in range(20)
        ]
        assert [process.wait(60) for process in running] == list(range(20)), daemon.log
        master.terminate()
    assert len(daemon.events(event="login opened")) == 2, "the first one's, and the master's"
    until_nothing_is_left(daemon)


# -- who does not read ----------------------------------------------------------------------------


def test_a_client_that_does_not_read_costs_no_memory_and_loses_nothing(daemon, key):
    """The pipe to us is full, so `ssh` takes no more; it still answers keepalive."""
    before = memory_of(daemon)
    with client(daemon, "--", f"head -c {BULK_BYTES // 4} /dev/zero", key=key) as reader:
        until(daemon.sessions, "the session")
        holds(lambda: memory_of(daemon) < before + BOUND_BYTES, "memory within bounds", 3)
        assert daemon.sessions(), "it waits for its reader"
        received = 0
        while piece := reader.stdout.read(1 << 20):
            received += len(piece)
        assert received == BULK_BYTES // 4
        assert reader.wait(20) == 0
    assert memory_of(daemon) < before + BOUND_BYTES
    until_nothing_is_left(daemon)


def test_a_command_that_does_not_read_holds_the_client_back(daemon, key):
    before = memory_of(daemon)
    with (
        open("/dev/zero", "rb") as endless,  # noqa: PTH123 - a stream
        client(daemon, "--", "sleep 1000", key=key, stdin=endless),
    ):
        until(daemon.sessions, "the session")
        holds(lambda: memory_of(daemon) < before + BOUND_BYTES, "memory within bounds", 3)
    until_nothing_is_left(daemon)


# -- who is slow ----------------------------------------------------------------------------------


class SlowLine(threading.Thread):
    """Lets a client through to the daemon, and so many bytes each second back; none when cut."""

    MSS, ROOM = 1400, 16 << 10
    """As on a network: the kernel's own line to itself acknowledges 64 KiB at a time."""

    def __init__(self, port: int, rate: int) -> None:
        super().__init__(name="slow line", daemon=True)
        self.taken, self.is_cut = 0, threading.Event()
        self._rate = rate
        self._near = socket.create_server(("127.0.0.1", 0))
        self.port = self._near.getsockname()[1]
        self._far = socket.socket()
        self._far.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, self.MSS)
        self._far.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, self.ROOM)
        self._far.connect(("127.0.0.1", port))
        self.start()

    def run(self) -> None:
        with contextlib.suppress(OSError), self._near.accept()[0] as client:
            threading.Thread(target=self._there, args=[client], daemon=True).start()
            while not self.is_cut.wait(0.05):
                piece = self._far.recv(self._rate // 20)
                self.taken += len(piece)
                client.sendall(piece)

    def _there(self, client: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while piece := client.recv(1 << 16):
                self._far.sendall(piece)

    def close(self) -> None:
        self.is_cut.set()
        for end in (self._near, self._far):
            end.close()
        self.join(20)


def test_a_client_that_takes_little_but_steadily_lives_until_it_takes_nothing(daemon, key):
    """Its answers are late: they are behind all that it has yet to take."""
    line = SlowLine(daemon.port, 40_000)
    with (
        contextlib.closing(line),
        client(
            daemon, "--", "cat /dev/zero", key=key,
            options={"Port": str(line.port), "NoHostAuthenticationForLocalhost": "yes"},
        ),
    ):  # fmt: skip
        until(lambda: line.taken > 20_000 and daemon.sessions(), lambda: daemon.log)
        before = line.taken
        holds(lambda: len(daemon.sessions()) > 0, "it was taken for gone", 5)
        until(lambda: line.taken > before + 100_000, lambda: f"{line.taken}: {daemon.log}")
        assert daemon.sessions(), "it was taken for gone"
        line.is_cut.set()
        until_nothing_is_left(daemon)
    assert "keepalive" in daemon.until_said("not responding", event="login closed")["reason"]


# -- who goes without a word ----------------------------------------------------------------------


@contextlib.contextmanager
def in_a_transfer(
    daemon: Daemon, key: Key, place: Place = HERE
) -> Iterator[subprocess.Popen[bytes]]:
    """Fetch a gigabyte; yield in the middle of it."""
    big = daemon.root / "big"
    with big.open("wb") as file:
        file.truncate(BULK_BYTES * 4)
    copy = daemon.root / "copy"
    source = f"root@{place.address}:{big}"
    with client(
        daemon, source, str(copy), key=key, place=place, program="scp", stdin=None, stdout=None
    ) as scp:
        until(lambda: copy.exists() and copy.stat().st_size > 1 << 20, lambda: daemon.log)
        yield scp
    copy.unlink()


@contextlib.contextmanager
def in_a_console(
    daemon: Daemon, key: Key, place: Place = HERE
) -> Iterator[subprocess.Popen[bytes]]:
    """Type at a shell with a terminal, which has started something in the background."""
    with client(daemon, "-tt", key=key, place=place) as ssh:
        ssh.stdin.write(b"nohup sleep 1000 & setsid sleep 1000 & echo rea''dy\n")
        ssh.stdin.flush()
        for line in ssh.stdout:
            if b"ready" in line:
                break
        until(lambda: len(daemon.sessions()) >= 3, lambda: daemon.log)
        yield ssh


@contextlib.contextmanager
def in_a_forward(
    daemon: Daemon, key: Key, place: Place = HERE
) -> Iterator[subprocess.Popen[bytes]]:
    """Take from an app that never stops sending, through `ssh -W`; it must see the end."""
    with socket.create_server(("127.0.0.1", 0)) as app:
        port = app.getsockname()[1]
        with client(
            daemon, "-W", f"localhost:{port}", key=key, place=place, stdout=subprocess.DEVNULL
        ) as ssh:
            app.settimeout(20)
            talk, _ = app.accept()
            with talk:
                talk.sendall(bytes(1 << 20))
                yield ssh
                talk.settimeout(20)
                with contextlib.suppress(ConnectionError):  # a reset is an end as well
                    assert talk.recv(1) == b"", "the app must see the end"


@contextlib.contextmanager
def in_a_bulk_session(
    daemon: Daemon, key: Key, place: Place = HERE
) -> Iterator[subprocess.Popen[bytes]]:
    """Read what never ends; the way to the client is always full."""
    with client(
        daemon, "--", "cat /dev/zero", key=key, place=place, stdout=subprocess.DEVNULL
    ) as ssh:
        until(daemon.sessions, "the session")
        yield ssh


EVERYTHING = pytest.mark.parametrize(
    "activity", [in_a_transfer, in_a_console, in_a_forward, in_a_bulk_session]
)


@EVERYTHING
def test_of_a_killed_client_nothing_is_left(daemon, key, activity):
    with activity(daemon, key) as ssh:
        kill(ssh)
        ssh.wait(10)
    until_nothing_is_left(daemon)
    assert daemon.ssh("--", "true", key=key).returncode == 0


@EVERYTHING
def test_of_a_client_that_is_silent_nothing_is_left(daemon, key, activity):
    """It is stopped: its kernel still acknowledges, it itself answers nothing."""
    with activity(daemon, key) as ssh:
        os.killpg(ssh.pid, signal.SIGSTOP)
        until_nothing_is_left(daemon)
        kill(ssh)
    assert daemon.ssh("--", "true", key=key).returncode == 0


@EVERYTHING
def test_of_a_client_that_vanishes_from_the_network_nothing_is_left(daemon, key, network, activity):
    """No packet comes or goes any more: no FIN, no reset, no acknowledgement."""
    with activity(daemon, key, network.place) as ssh:
        network.cut()
        until_nothing_is_left(daemon)
        kill(ssh)
    assert daemon.ssh("--", "true", key=key).returncode == 0


class Network:
    """Another machine, as far as TCP can tell: a namespace with a cable to us (veth(4))."""

    TESTS = ipaddress.ip_network("198.18.0.0/15")
    """For tests between machines (RFC 2544)."""

    def __init__(self) -> None:
        # a part of its own for each process: other workers have such a network as well
        part = 4 * os.getpid() % self.TESTS.num_addresses
        here, there = self.TESTS[part + 1], self.TESTS[part + 2]
        self._name = f"ra{os.getpid()}"
        self.place = Place(str(here), ("ip", "netns", "exec", self._name))
        ours, theirs = f"{self._name}a", f"{self._name}b"
        _ip("netns", "add", self._name)
        _ip("link", "add", "name", ours, "type", "veth", "peer", "name", theirs)
        _ip("link", "set", theirs, "netns", self._name)
        _ip("addr", "add", f"{here}/30", "dev", ours)
        _ip("-n", self._name, "addr", "add", f"{there}/30", "dev", theirs)
        _ip("link", "set", ours, "up")
        _ip("-n", self._name, "link", "set", theirs, "up")

    def cut(self) -> None:
        """Pull the cable at their end: ours keeps its address, and hears nothing."""
        _ip("-n", self._name, "link", "set", f"{self._name}b", "down")

    def close(self) -> None:
        """Leave nothing of it."""
        _ip("link", "del", f"{self._name}a")
        _ip("netns", "del", self._name)


@pytest.fixture
def network() -> Iterator[Network]:
    need(os.geteuid() == 0 and shutil.which("ip"), "root and ip, to have a network to cut")
    network = Network()
    yield network
    network.close()


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, timeout=20)
