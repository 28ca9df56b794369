"""The clients that people have, as they come, in front of a whole replica.

OpenSSH, dropbear's dbclient, PuTTY's plink, pscp and psftp, paramiko and asyncssh.
"""

import asyncio
import contextlib
import http.client
import os
import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator
from typing import NamedTuple

import asyncssh
import paramiko
import psutil
import pytest

from support.http_server import HttpServer
from support.need import need
from support.ports import Ports
from support.replica import Replica
from support.ssh import Key, client_environ
from support.ssh_replica import argv, key_and_settings, ssh, until_open
from support.terminal import on_terminal
from support.wait import PATIENCE_SECONDS, until

HOST = "127.0.0.1"

BINARY = bytes(range(256)) * 4096
"""A megabyte with every byte in it: more than any window or pipe takes at once."""

PAGE = b"the page behind the forward\n"


class Place(NamedTuple):
    """A replica that is open, the key to it, and a folder that is the clients' home."""

    replica: Replica
    key: Key
    home: str

    @property
    def port(self) -> str:
        return self.replica.environ["SSH_PORT"]

    @property
    def environ(self) -> dict[str, str]:
        return client_environ() | {"HOME": self.home, "TERM": "xterm"}

    def run(self, *command: str, **options) -> subprocess.CompletedProcess[bytes]:
        """Run a client to its end, at home."""
        usual = {"capture_output": True, "timeout": PATIENCE_SECONDS, "env": self.environ}
        if "input" not in options:
            usual["stdin"] = subprocess.DEVNULL
        return subprocess.run(command, check=False, cwd=self.home, **usual | options)


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Iterator[Place]:
    """Start one replica for all of them: who has gone leaves nothing, as the others see."""
    folder, ports = tmp_path_factory.mktemp("place"), Ports()
    key, settings = key_and_settings(folder, ports)
    home = folder / "home"
    home.mkdir()
    replica = Replica(
        folder / "root", ["exec", "--", "sleep", "1000"], ports=ports, settings=settings
    )
    yield Place(until_open(replica, key), key, str(home))
    replica.end()
    ports.close()


@pytest.fixture
def page(ports) -> Iterator[HttpServer]:
    """Serve a page on loopback: what forwards are to reach."""
    with HttpServer() as server:
        server.put("/page", PAGE)
        server.port = int(server.url("").rpartition(":")[2])
        yield server


def fetch(port: int) -> bytes | None:
    """Return the page by way of a forwarded port; None while nobody listens there."""
    connection = http.client.HTTPConnection(HOST, port, timeout=PATIENCE_SECONDS)
    with contextlib.closing(connection), contextlib.suppress(ConnectionError):
        connection.request("GET", "/page")
        return connection.getresponse().read()
    return None


@contextlib.contextmanager
def running(place: Place, *command: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run a client in the background, until the context ends."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    with subprocess.Popen(command, env=place.environ, cwd=place.home, **pipes) as client:
        try:
            yield client
        finally:
            client.kill()


def until_nobody_is_in(place: Place) -> None:
    """Wait until the audit has closed everything that it has opened."""
    for what in ("login", "session", "forward", "transfer"):
        until(
            lambda what=what: (
                len(place.replica.events(f"{what} opened"))
                == len(place.replica.events(f"{what} closed"))
            ),
            lambda what=what: f"a {what} stays open: {place.replica.log}",
        )


# -- OpenSSH --------------------------------------------------------------------------------------


def test_openssh_sends_any_byte_both_ways_and_gives_the_exit_code(place):
    done = ssh(place.replica, place.key, "--", "cat; echo oops >&2; exit 7", input=BINARY)
    assert (done.returncode, done.stdout, done.stderr) == (7, BINARY, b"oops\n")


def test_openssh_has_a_shell_on_a_terminal_that_is_as_large_as_its_own(place):
    with on_terminal(argv(place.replica, place.key), env=place.environ) as console:
        console.type("tty; stty size; exit 5\n")
        console.until_shown(r"/dev/pts/\d+\n40 200\n")
        assert console.wait() == 5


@pytest.mark.parametrize("protocol", ["-s", "-O"])
def test_scp_copies_both_ways_with_either_protocol(place, protocol, tmp_path):
    before, after = tmp_path / "before", tmp_path / "after"
    before.write_bytes(BINARY)
    there = f"root@{HOST}:{tmp_path}/there"
    for source, target in [(str(before), there), (there, str(after))]:
        done = place.run(*scp(place, protocol), source, target)
        assert done.returncode == 0, done.stderr
    assert after.read_bytes() == BINARY


def test_sftp_runs_a_batch(place, tmp_path):
    (tmp_path / "before").write_bytes(BINARY)
    batch = f"mkdir {tmp_path}/folder\nput before folder/name\nls -l folder\nget folder/name after"
    command = argv(place.replica, place.key, "-b", "-", program="sftp")
    command[command.index("-p")] = "-P"
    command[-1] = f"root@{HOST}:{tmp_path}"
    done = place.run(*command, input=f"lcd {tmp_path}\n{batch}\n".encode())
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "after").read_bytes() == BINARY
    assert str(len(BINARY)).encode() in done.stdout


def test_a_control_master_carries_commands_copies_and_forwards(place, page, ports, tmp_path):
    # relative: a socket's path has 108 bytes at most
    over = {"ControlPath": "master", "ControlMaster": "no"}
    before, local = len(place.replica.events("login opened")), ports.free()

    def through(*words: str, **options) -> subprocess.CompletedProcess[bytes]:
        return ssh(place.replica, place.key, *words, options=over, cwd=place.home, **options)

    master = argv(place.replica, place.key, "-N", options=over | {"ControlMaster": "yes"})
    with running(place, *master):
        until(lambda: os.path.exists(f"{place.home}/master"), lambda: place.replica.log)  # noqa: PTH110 - a text
        assert through("--", "cat; exit 3", input=BINARY).stdout == BINARY
        (tmp_path / "before").write_bytes(BINARY)
        copied = place.run(*scp(place, "-s", over), str(tmp_path / "before"),
                           f"root@{HOST}:{tmp_path}/after")  # fmt: skip
        assert copied.returncode == 0, copied.stderr
        assert (tmp_path / "after").read_bytes() == BINARY
        forward = f"{local}:localhost:{page.port}"
        assert through("-O", "forward", "-L", forward).returncode == 0
        assert fetch(local) == PAGE
        assert through("-O", "cancel", "-L", forward).returncode == 0
        assert fetch(local) is None
        assert through("-O", "exit").returncode == 0
    assert len(place.replica.events("login opened")) == before + 1
    until_nobody_is_in(place)


def test_openssh_forwards_with_socks(place, page, ports):
    need(shutil.which("curl"), "curl, which speaks SOCKS")
    local = ports.free()
    with running(place, *argv(place.replica, place.key, "-N", "-D", f"{HOST}:{local}")):
        proxy = f"socks5h://{HOST}:{local}"
        until(
            lambda: place.run("curl", "-sS", "--proxy", proxy, page.url("/page")).stdout == PAGE,
            lambda: place.replica.log,
        )
    until_nobody_is_in(place)


def scp(place: Place, protocol: str, options=None) -> list[str]:
    """Return the argv of scp, less source and target; `-s` is by SFTP, `-O` the old protocol."""
    command = argv(place.replica, place.key, protocol, program="scp", options=options)[:-1]
    command[command.index("-p")] = "-P"
    return command


# -- dropbear -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def dbclient(place) -> list[str]:
    """Return dbclient's argv up to its flags; it reads keys in a form of its own only."""
    need(shutil.which("dbclient"), "dropbear's client (dropbear-bin)")
    key = f"{place.home}/key.dropbear"
    done = place.run("dropbearconvert", "openssh", "dropbear", str(place.key.path), key)
    assert done.returncode == 0, done.stderr
    return ["dbclient", "-i", key, "-p", place.port, "-y"]


def test_dbclient_sends_any_byte_both_ways_and_gives_the_exit_code(place, dbclient):
    done = place.run(*dbclient, f"root@{HOST}", "cat; exit 7", input=BINARY)
    assert (done.returncode, done.stdout) == (7, BINARY), done.stderr


def test_dbclient_tells_stdout_and_stderr_apart(place, dbclient):
    done = place.run(*dbclient, "-q", "-y", f"root@{HOST}", "echo out; echo err >&2")
    assert done.stdout == b"out\n"
    assert b"err\n" in done.stderr


def test_dbclient_has_a_shell_on_a_terminal(place, dbclient):
    with on_terminal([*dbclient, f"root@{HOST}"], env=place.environ) as console:
        console.type("tty; stty size; exit 5\n")
        console.until_shown(r"/dev/pts/\d+\n40 200\n")
        assert console.wait() == 5


def test_dbclient_forwards_a_port(place, dbclient, page, ports):
    local = ports.free()
    flags = ["-N", "-L", f"{HOST}:{local}:localhost:{page.port}", f"root@{HOST}"]
    with running(place, *dbclient, *flags):
        until(lambda: fetch(local) == PAGE, lambda: place.replica.log)
    until_nobody_is_in(place)


def test_scp_over_dbclient(place, dbclient, tmp_path):
    """As on a router that has only dropbear: scp is told which program connects."""
    (tmp_path / "before").write_bytes(BINARY)
    wrapper = tmp_path / "connect"
    wrapper.write_text(f'#!/bin/sh\nexec {" ".join(dbclient)} root@{HOST} "scp -t {tmp_path}/x"\n')
    wrapper.chmod(0o755)
    done = place.run("scp", "-O", "-S", str(wrapper), str(tmp_path / "before"), "any:any")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "x").read_bytes() == BINARY


# -- PuTTY ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def putty(place) -> list[str]:
    """Return what plink, pscp and psftp are given; they read keys in a form of their own only."""
    for program in ("plink", "pscp", "psftp", "puttygen"):
        need(shutil.which(program), f"PuTTY's {program} (putty-tools)")
    key = f"{place.home}/key.ppk"
    done = place.run("puttygen", str(place.key.path), "-O", "private", "-o", key)
    assert done.returncode == 0, done.stderr
    known = str(place.replica.root / "known_hosts")
    listed = place.run("ssh-keygen", "-l", "-f", known).stdout.decode()
    return ["-batch", "-P", place.port, "-i", key, "-hostkey", listed.split()[1]]


def test_plink_sends_any_byte_both_ways_and_gives_the_exit_code(place, putty):
    done = place.run("plink", *putty, f"root@{HOST}", "cat; echo oops >&2; exit 7", input=BINARY)
    assert (done.returncode, done.stdout, done.stderr) == (7, BINARY, b"oops\n")


def test_plink_has_a_shell_on_a_terminal(place, putty):
    with on_terminal(["plink", *putty, "-t", f"root@{HOST}"], env=place.environ) as console:
        console.type("tty; exit 5\n")
        console.until_shown(r"/dev/pts/\d+\n")
        assert console.wait() == 5


def test_plink_forwards_a_port(place, putty, page, ports):
    local = ports.free()
    flags = ["-N", "-L", f"{HOST}:{local}:localhost:{page.port}", f"root@{HOST}"]
    with running(place, "plink", *putty, *flags):
        until(lambda: fetch(local) == PAGE, lambda: place.replica.log)
    until_nobody_is_in(place)


@pytest.mark.parametrize("protocol", ["-sftp", "-scp"])
def test_pscp_copies_both_ways_with_either_protocol(place, putty, protocol, tmp_path):
    before, after = tmp_path / "before", tmp_path / "after"
    before.write_bytes(BINARY)
    there = f"root@{HOST}:{tmp_path}/there"
    for source, target in [(str(before), there), (there, str(after))]:
        done = place.run("pscp", *putty, "-q", protocol, source, target)
        assert done.returncode == 0, done.stderr
    assert after.read_bytes() == BINARY


def test_psftp_runs_a_batch(place, putty, tmp_path):
    before, after = tmp_path / "before", tmp_path / "after"
    before.write_bytes(BINARY)
    batch = tmp_path / "batch"
    batch.write_text(f"cd {tmp_path}\nput {before} there\nls\nget there {after}\nquit\n")
    done = place.run("psftp", *putty, "-b", str(batch), f"root@{HOST}")
    assert done.returncode == 0, done.stderr
    assert after.read_bytes() == BINARY


# -- paramiko -------------------------------------------------------------------------------------


@pytest.fixture
def with_paramiko(place) -> Iterator[paramiko.SSHClient]:
    client = paramiko.SSHClient()
    client.load_host_keys(str(place.replica.root / "known_hosts"))
    client.connect(
        HOST, int(place.port), "root", pkey=paramiko.Ed25519Key(filename=str(place.key.path)),
        look_for_keys=False, allow_agent=False, timeout=PATIENCE_SECONDS,
    )  # fmt: skip
    with contextlib.closing(client):
        yield client


def test_paramiko_sends_any_byte_both_ways_and_gives_the_exit_code(with_paramiko):
    stdin, stdout, stderr = with_paramiko.exec_command(
        "cat; echo oops >&2; exit 7", timeout=PATIENCE_SECONDS
    )

    def send() -> None:
        stdin.write(BINARY)
        stdin.channel.shutdown_write()

    sender = threading.Thread(target=send)
    sender.start()
    assert stdout.read() == BINARY
    assert stderr.read() == b"oops\n"
    assert stdout.channel.recv_exit_status() == 7
    sender.join()


def test_paramiko_has_a_shell_on_a_terminal_and_can_resize_it(with_paramiko):
    channel = with_paramiko.invoke_shell("xterm", width=100, height=30)
    channel.settimeout(PATIENCE_SECONDS)
    shown = bytearray()

    def until_shown(what: bytes) -> None:
        while what not in shown:
            received = channel.recv(4096)
            assert received, bytes(shown)
            shown.extend(received)

    channel.send(b"stty size; echo $TERM\n")
    until_shown(b"30 100\r\nxterm\r\n")
    channel.resize_pty(width=120, height=50)
    channel.send(b"stty size; exit 5\n")
    until_shown(b"50 120\r\n")
    assert channel.recv_exit_status() == 5


def test_paramiko_puts_and_gets_files(with_paramiko, tmp_path):
    before, after, there = tmp_path / "before", tmp_path / "after", f"{tmp_path}/there"
    before.write_bytes(BINARY)
    with with_paramiko.open_sftp() as sftp:
        assert sftp.put(str(before), there).st_size == len(BINARY)
        sftp.chmod(there, 0o600)
        assert "there" in sftp.listdir(str(tmp_path))
        sftp.get(there, str(after))
        with pytest.raises(FileNotFoundError):
            sftp.stat(f"{tmp_path}/missing")
    assert after.read_bytes() == BINARY


def test_paramiko_forwards_to_loopback_and_nowhere_else(with_paramiko, page):
    transport = with_paramiko.get_transport()
    channel = transport.open_channel("direct-tcpip", ("localhost", page.port), (HOST, 1))
    channel.sendall(b"GET /page HTTP/1.0\r\n\r\n")
    channel.settimeout(PATIENCE_SECONDS)
    assert channel.makefile().read().endswith(PAGE)
    with pytest.raises(paramiko.ChannelException):
        transport.open_channel("direct-tcpip", ("192.0.2.1", 80), (HOST, 1))


# -- asyncssh -------------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def with_asyncssh(place: Place):
    async with asyncio.timeout(PATIENCE_SECONDS), asyncssh.connect(
        HOST, int(place.port), username="root", client_keys=[str(place.key.path)], config=None,
        known_hosts=str(place.replica.root / "known_hosts"),
    ) as connection:  # fmt: skip
        yield connection


def test_asyncssh_runs_a_command(place):
    async def run():
        async with with_asyncssh(place) as connection:
            command = "cat; echo oops >&2; exit 7"
            done = await connection.run(command, input=BINARY, encoding=None)
            killed = await connection.run("kill -TERM $$")
        return done, killed

    done, killed = asyncio.run(run())
    assert (done.exit_status, done.stdout, done.stderr) == (7, BINARY, b"oops\n")
    assert killed.exit_signal[0] == "TERM"


def test_asyncssh_copies_files(place, tmp_path):
    before, after = tmp_path / "before", tmp_path / "after"
    before.write_bytes(BINARY)

    async def copy():
        async with with_asyncssh(place) as connection:
            async with connection.start_sftp_client() as sftp:
                await sftp.put(str(before), f"{tmp_path}/there")
                await sftp.get(f"{tmp_path}/there", str(after))
            await asyncssh.scp((connection, str(after)), str(tmp_path / "again"))

    asyncio.run(copy())
    assert after.read_bytes() == (tmp_path / "again").read_bytes() == BINARY


def test_asyncssh_forwards_a_port_and_may_not_listen_here(place, page):
    async def forward():
        async with with_asyncssh(place) as connection:
            listener = await connection.forward_local_port(HOST, 0, "localhost", page.port)
            got = await asyncio.to_thread(fetch, listener.get_port())
            with pytest.raises(asyncssh.ChannelListenError):
                await connection.forward_remote_port("", 0, HOST, page.port)
        return got

    assert asyncio.run(forward()) == PAGE
    until_nobody_is_in(place)


# -- all of them ----------------------------------------------------------------------------------


def test_of_a_client_that_has_gone_no_process_and_no_socket_is_left(place, dbclient, putty):
    for command in (
        argv(place.replica, place.key, "--", "echo in; sleep 1000"),
        [*dbclient, f"root@{HOST}", "echo in; sleep 1000"],
        ["plink", *putty, f"root@{HOST}", "echo in; sleep 1000"],
    ):
        with running(place, *command) as client:
            while b"in" not in (line := client.stdout.readline()):
                assert line, place.replica.log
    until_nobody_is_in(place)
    released = place.replica.release_pid

    def sleeping() -> list[int]:
        return [pid for pid, what in place.replica.commands().items() if what == "sleep 1000"]

    # a session is closed in the audit a moment before its processes are told
    until(lambda: sleeping() == [released], lambda: f"{place.replica.commands()}")
    assert not [
        connection
        for connection in psutil.net_connections("tcp")
        if connection.laddr[1] == int(place.port) and connection.status == "ESTABLISHED"
    ]


def test_each_client_can_negotiate_something_in_common(place):
    """What each cannot do is known: dbclient no AES-GCM, plink and OpenSSH 9.2 no ML-KEM."""
    with socket.create_connection((HOST, int(place.port)), PATIENCE_SECONDS) as connection:
        connection.sendall(b"SSH-2.0-look\r\n")
        offered = b""
        while b"umac" not in offered and b"hmac-sha2-256" not in offered:
            received = connection.recv(65536)
            assert received, offered
            offered += received
    for name in (b"curve25519-sha256", b"chacha20-poly1305@openssh.com", b"mlkem768x25519-sha256"):
        assert name in offered
