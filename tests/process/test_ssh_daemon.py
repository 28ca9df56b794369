"""The SSH daemon's core with real clients: who gets in, for how long, and the daemon's life."""

import asyncio
import contextlib
import datetime as dt
import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from support.need import need
from support.ssh import APP, Daemon, Key, client_environ, daemons, make_key
from support.wait import PATIENCE_SECONDS, holds, until

ENV = {"PATH": os.environ["PATH"], "HOME": "/"}

KEX_WARNING = "does not provide protection against post-quantum attacks"


@pytest.fixture(name="sshd")
def _sshd(tmp_path, ports):
    yield from daemons(tmp_path, ports)


@pytest.fixture(name="key")
def _key(tmp_path) -> Key:
    return make_key(tmp_path)


class Background:
    """A client that stays until told otherwise."""

    def __init__(self, daemon: Daemon, *arguments: str, key: Key, **options) -> None:
        argv = daemon.client(*arguments, key=key, **options)
        self.process = subprocess.Popen(
            argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            env=client_environ(),
        )  # fmt: skip

    def until_started(self) -> "Background":
        """Wait for what its command prints first."""
        line = self.process.stdout.readline()
        assert line == b"started\n", (line, self.process.stderr.read())
        return self

    def ended(self) -> tuple[int, str]:
        """Wait for its end; return its exit code and what it said."""
        _, err = self.process.communicate(timeout=PATIENCE_SECONDS)
        return self.process.returncode, err.decode()

    def end(self) -> None:
        self.process.kill()
        self.process.communicate(timeout=PATIENCE_SECONDS)


@pytest.fixture(name="stay")
def _stay():
    """Log in and stay; return once the command runs."""
    made: list[Background] = []

    def stay(daemon: Daemon, *, key: Key, **options) -> Background:
        made.append(Background(daemon, "--", "echo started; sleep 100", key=key, **options))
        return made[-1].until_started()

    yield stay
    for background in made:
        background.end()


# -- who gets in ----------------------------------------------------------------------------------


@pytest.mark.parametrize("user", ["root", APP])
def test_root_and_the_apps_name_get_in_with_a_key_of_the_list(sshd, key, user):
    daemon = sshd(key, env=ENV)
    done = daemon.ssh("--", "echo hello; exit 7", key=key, user=user)
    assert (done.returncode, done.stdout, done.stderr) == (7, b"hello\n", b"")
    opened = daemon.until_said(event="login opened")
    assert (opened["user"], opened["key_fingerprint"]) == (user, key.fingerprint)
    daemon.until_said(event="login closed", user=user)


def test_another_user_is_refused_as_a_wrong_key_is(sshd, key, tmp_path):
    daemon, other = sshd(key, env=ENV), make_key(tmp_path, "other")
    wrong_user = daemon.ssh("--", "true", key=key, user="app")
    wrong_key = daemon.ssh("--", "true", key=other, user="root")
    for done, user in ((wrong_user, "app"), (wrong_key, "root")):
        assert done.returncode == 255
        assert done.stderr.decode() == f"{user}@127.0.0.1: Permission denied (publickey).\r\n"
    refused = daemon.until_said(event="login refused", reason="unknown user")
    assert (refused["user"], refused["key_fingerprint"]) == ("app", key.fingerprint)
    daemon.until_said(
        event="login refused", reason="unknown key", key_fingerprint=other.fingerprint
    )
    failed = daemon.door.until_heard("failed", 2)
    assert [message["failed"] for message in failed] == [1, 2]


def test_the_sixth_wrong_key_ends_the_connection(sshd, key, tmp_path):
    daemon = sshd(key, env=ENV)
    wrong = [make_key(tmp_path, f"wrong-{number}") for number in range(7)]
    identities = [word for one in wrong[1:] for word in ("-i", str(one.path))]
    done = daemon.ssh(*identities, "--", "true", key=wrong[0])
    assert done.returncode == 255
    assert b"too many authentication failures" in done.stderr
    [closed] = daemon.door.until_heard("closed")
    assert closed["limit"] == "too_many_attempts"
    assert len(daemon.door.messages("failed")) == 6
    five = [word for one in wrong[:4] for word in ("-i", str(one.path))]
    assert daemon.ssh(*five, "-i", str(key.path), "--", "true", key=wrong[4]).returncode == 0


def test_keys_are_the_only_way_in(sshd, key):
    daemon = sshd(key, env=ENV)
    done = daemon.ssh(
        "-v", "--", "true", key=key,
        options={"LogLevel": "DEBUG1", "PreferredAuthentications": "password", "BatchMode": "no"},
    )  # fmt: skip
    assert done.returncode == 255
    assert b"Authentications that can continue: publickey\r\n" in done.stderr


@pytest.mark.parametrize("kind", ["ed25519", "ecdsa", "rsa"])
def test_every_kind_of_key_works(sshd, tmp_path, kind):
    key = make_key(tmp_path, kind=kind)
    assert sshd(key, env=ENV).ssh("--", "true", key=key).returncode == 0


def test_an_rsa_key_may_not_sign_with_sha1(sshd, tmp_path):
    import asyncssh

    key = make_key(tmp_path, kind="rsa")
    daemon = sshd(key, env=ENV)

    async def log_in(algorithm: str) -> None:
        pair = asyncssh.load_keypairs([str(key.path)])[0]
        pair.set_sig_algorithm(algorithm.encode())
        pair.sig_algorithms = [algorithm.encode()]  # whatever the daemon says
        async with asyncssh.connect(
            "127.0.0.1", daemon.port, username="root", client_keys=[pair],
            known_hosts=None, config=None, signature_algs=[algorithm],
        ):  # fmt: skip
            pass

    run(log_in("rsa-sha2-256"))
    with pytest.raises(asyncssh.PermissionDenied):
        run(log_in("ssh-rsa"))
    daemon.until_said(event="login refused", reason="its signature is wrong")


def test_from_is_matched_with_the_clients_address(sshd, key):
    daemon = sshd(key.with_options('from="127.0.0.2"'), env=ENV)
    assert daemon.ssh("-b", "127.0.0.2", "--", "true", key=key).returncode == 0
    assert daemon.ssh("--", "true", key=key).returncode == 255
    daemon.until_said(event="login refused", reason="not from this address")


def test_without_a_list_nobody_gets_in(sshd, key):
    daemon = sshd(key, env=ENV)
    daemon.layout.ssh_keys.unlink()
    assert daemon.ssh("--", "true", key=key).returncode == 255


# -- and for how long -----------------------------------------------------------------------------


def test_a_key_that_is_removed_ends_its_sessions_and_no_others(sshd, key, stay, tmp_path):
    other = make_key(tmp_path, "other")
    daemon = sshd(key, other, env=ENV)
    leaving, staying = stay(daemon, key=key), stay(daemon, key=other)
    daemon.change_keys(f"{other.line} with another comment")
    code, said = leaving.ended()
    assert code == 255
    assert "its key is no longer admitted: unknown key" in said
    closed = daemon.until_said(event="login closed", key_fingerprint=key.fingerprint)
    assert closed["reason"] == "its key is no longer admitted: unknown key"
    assert staying.process.poll() is None
    until(lambda: len(daemon.sessions()) <= 2, "the process of the session that ended")
    assert daemon.ssh("--", "true", key=key).returncode == 255


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ("no-pty", "the options of its key have changed"),
        ('from="10.0.0.0/8"', "its key is no longer admitted: not from this address"),
    ],
)
def test_a_key_whose_options_change_ends_its_sessions(sshd, key, stay, options, reason):
    daemon = sshd(key, env=ENV)
    session = stay(daemon, key=key)
    daemon.change_keys(key.with_options(options))
    assert reason in session.ended()[1]
    daemon.until_said(event="login closed", reason=reason)


def test_a_key_that_expires_ends_its_sessions(sshd, key, stay, tmp_path):
    daemon = sshd(other := make_key(tmp_path, "other"), env=ENV)
    assert daemon.ssh("--", "true", key=other).returncode == 0  # it runs, so a login is quick
    at = dt.datetime.now(dt.UTC) + dt.timedelta(seconds=6)
    daemon.change_keys(key.with_options(f'expiry-time="{at:%Y%m%d%H%M%S}Z"'))
    session = stay(daemon, key=key)
    assert f"expired at {at:%Y-%m-%dT%H:%M:%S}Z" in session.ended()[1]
    assert daemon.ssh("--", "true", key=key).returncode == 255
    refused = daemon.until_said(event="login refused")
    assert refused["reason"] == f"expired at {at:%Y-%m-%dT%H:%M:%S}Z"


# -- limits of a connection -----------------------------------------------------------------------


def test_a_connection_has_so_many_sessions_and_no_more(sshd, key, stay, tmp_path):
    daemon = sshd(key, env=ENV, settings={"SSH_MAX_SESSIONS": "2"})
    master = {"ControlMaster": "auto", "ControlPath": str(tmp_path / "control")}
    first = stay(daemon, key=key, options=master)
    stay(daemon, key=key, options=master)
    third = daemon.ssh("--", "true", key=key, options={**master, "LogLevel": "INFO"})
    assert b"2 sessions are open on this connection already" in third.stderr + b"".join(
        event["reason"].encode() for event in daemon.events(event="session refused")
    )
    daemon.until_said(event="session refused")
    assert daemon.door.until_heard("session_refused") == [{"session_refused": 1}]
    assert first.process.poll() is None


def test_who_does_not_log_in_has_to_go(sshd, key):
    daemon = sshd(key, env=ENV)
    daemon.door.grace = 0.5
    with knock(daemon) as stranger:
        stranger.sendall(b"SSH-2.0-slow\r\n")
        assert b"too slow to log in" in read_all(stranger)
    [closed] = daemon.door.until_heard("closed")
    assert closed == {
        "closed": 1, "login": False, "reason": "too slow to log in", "limit": "too_slow"
    }  # fmt: skip


def test_a_stranger_may_send_only_so_much(sshd, key):
    daemon = sshd(key, env=ENV)
    ignore = b"\0\0\0\x0c\x06\x02" + bytes(10)  # an SSH_MSG_IGNORE, unencrypted
    with knock(daemon) as stranger:
        stranger.sendall(b"SSH-2.0-chatty\r\n")
        with suppress(OSError):
            stranger.sendall(ignore * 20_000)
        [closed] = daemon.door.until_heard("closed")
    assert closed["reason"] == "too much data before the login"


def test_whom_the_door_drops_is_closed_unless_logged_in(sshd, key, stay):
    daemon = sshd(key, env=ENV)
    session = stay(daemon, key=key)
    with knock(daemon) as stranger:
        stranger.sendall(b"SSH-2.0-waits\r\n")
        assert stranger.recv(100).startswith(b"SSH-2.0-")
        for number in (1, 2, 3):
            daemon.door.tell("drop", number)
        assert b"too many connections" in read_all(stranger)
    assert daemon.door.until_heard("closed")[0]["closed"] == 2
    assert session.process.poll() is None


def test_a_client_that_gives_no_sign_of_life_is_gone(sshd, key, stay):
    daemon = sshd(
        key, env=ENV, settings={"SSH_KEEPALIVE_SECONDS": "0.5", "SSH_KEEPALIVE_MISSES": "2"}
    )
    session = stay(daemon, key=key)
    holds(lambda: session.process.poll() is None, "a client that answers stays", 2.5)
    session.process.send_signal(signal.SIGSTOP)
    closed = daemon.until_said(event="login closed")
    assert "not responding to keepalive" in closed["reason"]
    assert daemon.door.until_heard("closed")[0]["limit"] == "unresponsive"
    until(lambda: not daemon.sessions(), "its processes have gone")
    session.process.send_signal(signal.SIGCONT)


def test_nothing_grows_for_a_client_that_reads_nothing(sshd, key):
    import asyncssh

    daemon = sshd(key, env=ENV)

    async def read_nothing_and_then_all() -> tuple[int, int]:
        async with asyncssh.connect(
            "127.0.0.1", daemon.port, username="root", client_keys=[str(key.path)],
            known_hosts=None, config=None,
        ) as connection:  # fmt: skip
            before = psutil.Process(daemon.pid).memory_info().rss
            process = await connection.create_process(
                "head -c 128M /dev/zero", window=(1 << 31) - 1, encoding=None
            )
            connection._transport.pause_reading()
            await asyncio.sleep(1)
            grown = psutil.Process(daemon.pid).memory_info().rss - before
            connection._transport.resume_reading()
            received = 0
            while part := await process.stdout.read(1 << 20):
                received += len(part)
            return received, grown

    received, grown = run(read_nothing_and_then_all())
    assert received == 128 << 20
    assert grown < 8 << 20


@pytest.mark.parametrize(
    ("arguments", "event"),
    [
        (("-R", "0:localhost:1", "-oExitOnForwardFailure=yes"), "remote forward refused"),
        (("-R", "/tmp/s:localhost:1", "-oExitOnForwardFailure=yes"), "remote forward refused"),
        (("-W", "/var/run/docker.sock"), "forward refused"),
    ],
)
def test_other_forwards_are_refused(sshd, key, arguments, event):
    daemon = sshd(key, env=ENV)
    if "-W" in arguments:
        done = _open_unix_socket(daemon, key, arguments[1])
        assert "Unix socket forwards are not allowed here" in done
    else:
        assert daemon.ssh(*arguments, "--", "true", key=key).returncode == 255
    daemon.until_said(event=event, key_fingerprint=key.fingerprint)


def test_x11_and_the_clients_agent_are_not_forwarded(sshd, key, tmp_path):
    import asyncssh

    daemon = sshd(key, env=ENV)

    async def ask() -> None:
        async with asyncssh.connect(
            "127.0.0.1", daemon.port, username="root", client_keys=[str(key.path)],
            known_hosts=None, config=None,
            agent_path=str(tmp_path / "agent"), agent_forwarding=True,
        ) as connection:  # fmt: skip
            done = await connection.run("echo $SSH_AUTH_SOCK$DISPLAY.")
            assert done.stdout == ".\n"
            with pytest.raises(asyncssh.ChannelOpenError):
                await connection.run("true", x11_forwarding=True, x11_display=":1")

    run(ask())
    daemon.until_said(event="agent forward refused")
    daemon.until_said(event="X11 forward refused")


# -- the host key ---------------------------------------------------------------------------------


def test_the_host_key_is_made_once_and_kept(sshd, key):
    daemon = sshd(key, env=ENV)
    assert daemon.ssh("--", "true", key=key).returncode == 0
    made = daemon.until_said("made a host key")
    kept = daemon.layout.host_key
    assert kept.stat().st_mode & 0o777 == 0o600
    before = kept.read_bytes()
    restart(daemon)
    assert daemon.ssh("--", "true", key=key).returncode == 0  # a changed one is refused by ssh
    assert kept.read_bytes() == before
    assert daemon.events("made a host key") == [made]
    assert made["message"].split()[4].rstrip(",") in _scan(daemon)


def test_a_host_key_is_never_replaced(sshd, key):
    daemon = sshd(key, env=ENV)
    daemon.layout.host_key.write_text("scrambled")
    assert daemon.ssh("--", "true", key=key).returncode == 255  # at once
    assert daemon.wait() == os.EX_CONFIG
    assert daemon.until_said("cannot use the host key")["severity"] == "ERROR"
    assert daemon.layout.host_key.read_text() == "scrambled"


def test_a_mounted_rsa_host_key_signs_with_sha2_only(sshd, key, tmp_path):
    host_key = make_key(tmp_path, "host", "rsa")
    daemon = sshd(key, env=ENV, settings={"SSH_HOST_KEY": str(host_key.path)})
    for algorithm, code in (("rsa-sha2-256", 0), ("rsa-sha2-512", 0), ("ssh-rsa", 255)):
        done = daemon.ssh("--", "true", key=key, options={"HostKeyAlgorithms": algorithm})
        assert done.returncode == code, (algorithm, done.stderr)
    assert not daemon.layout.host_key.exists()


# -- the daemon's life ----------------------------------------------------------------------------


def test_idle_it_asks_the_door_and_goes(sshd, key):
    daemon = sshd(key, env=ENV, settings={"SSH_IDLE_SECONDS": "0.3"})
    assert daemon.ssh("--", "true", key=key).returncode == 0
    daemon.door.until_heard("idle")
    assert daemon.wait() == 0
    assert daemon.ssh("--", "true", key=key).returncode == 0
    assert len(daemon.tokens) == 2


def test_without_a_free_descriptor_it_waits_and_then_lets_the_agent_in(sshd, key, stay):
    daemon = sshd(key, env=ENV)
    session, process = stay(daemon, key=key), psutil.Process(daemon.pid)
    _, hard = limits = resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE)
    daemon.door.hang_up()
    daemon.until_said("the agent has hung up")
    resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE, (4, hard))
    daemon.door.link()
    daemon.until_said("cannot let the agent in now (Too many open files)")
    before, since = sum(process.cpu_times()[:2]), time.monotonic()
    until(lambda: time.monotonic() > since + 1.5, "it to try again")
    assert sum(process.cpu_times()[:2]) - before < 0.5
    assert len(daemon.events("cannot let the agent in now")) == 1
    resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE, limits)
    assert daemon.door.until_heard("hello", 2)[1]["hello"]["logged_in"] == [[1, "127.0.0.1"]]
    assert session.process.poll() is None


def test_it_stays_while_somebody_is_logged_in(sshd, key, stay):
    daemon = sshd(key, env=ENV, settings={"SSH_IDLE_SECONDS": "0"})
    session = stay(daemon, key=key)
    asked = len(daemon.door.messages("idle"))  # perhaps before we came
    holds(lambda: len(daemon.door.messages("idle")) == asked, "it asked to go", 0.5)
    session.end()
    assert daemon.wait() == 0


def test_it_stays_where_the_door_has_somebody_for_it(sshd, key):
    daemon = sshd(key, env=ENV, settings={"SSH_IDLE_SECONDS": "0.2"})
    daemon.door.says_bye = False
    assert daemon.ssh("--", "true", key=key).returncode == 0
    daemon.door.until_heard("idle")
    assert daemon.ssh("--", "true", key=key).returncode == 0
    assert len(daemon.tokens) == 1
    daemon.door.tell("bye")
    assert daemon.wait() == 0


def test_somebody_who_never_logs_in_does_not_keep_it(sshd, key):
    daemon = sshd(key, env=ENV, settings={"SSH_IDLE_SECONDS": "1"})
    with contextlib.ExitStack() as stack:
        # at once: in a pause between two of them it might go already
        for stranger in [stack.enter_context(knock(daemon)) for _ in range(4)]:
            stranger.sendall(b"SSH-2.0-probe\r\n")
            assert stranger.recv(100).startswith(b"SSH-2.0-")
    assert daemon.wait() == 0
    assert len(daemon.tokens) == 1
    assert not daemon.events(event="login refused")


def test_sessions_outlive_the_door_and_the_next_one_learns_of_them(sshd, key, stay):
    daemon = sshd(key, env=ENV)
    session = stay(daemon, key=key)
    with knock(daemon) as stranger:
        stranger.sendall(b"SSH-2.0-waits\r\n")
        assert stranger.recv(100).startswith(b"SSH-2.0-")
        daemon.door.hang_up()
        daemon.until_said("the agent has hung up")
        daemon.door.link()
        hello = daemon.door.until_heard("hello", 2)[-1]["hello"]
    assert hello == {
        "unauthenticated": [[2, "127.0.0.1"]],
        "logged_in": [[1, "127.0.0.1"]],
    }
    assert session.process.poll() is None
    assert daemon.ssh("--", "echo again", key=key).stdout == b"again\n"
    assert len(daemon.tokens) == 1


def test_a_door_that_comes_back_may_bring_other_keys(sshd, key, stay):
    daemon = sshd(key, env=ENV)
    session = stay(daemon, key=key)
    daemon.door.hang_up()
    daemon.change_keys()
    assert "no longer admitted" in session.ended()[1]


def test_without_a_door_it_goes_when_idle(sshd, key):
    daemon = sshd(key, env=ENV, settings={"SSH_IDLE_SECONDS": "0.3"})
    assert daemon.ssh("--", "true", key=key).returncode == 0
    daemon.door.hang_up()
    assert daemon.wait() == 0


def test_told_to_end_it_ends_its_sessions_in_order(sshd, key, stay):
    daemon = sshd(key, env=ENV)
    sessions = [stay(daemon, key=key) for _ in range(2)]
    daemon.process.terminate()
    for session in sessions:
        assert "the SSH daemon is stopping" in session.ended()[1]
    assert daemon.wait() == 0
    assert not daemon.sessions()
    assert len(daemon.events(event="login closed", reason="the SSH daemon is stopping")) == 2


def test_many_log_in_at_once(sshd, key):
    daemon = sshd(key, env=ENV)
    clients = [Background(daemon, "--", f"echo {number}", key=key) for number in range(16)]
    for number, client in enumerate(clients):
        out, err = client.process.communicate(timeout=PATIENCE_SECONDS)
        assert (out, err) == (f"{number}\n".encode(), b"")
    assert len(daemon.tokens) == 1


def test_it_may_open_more_files_than_what_it_starts(sshd, key):
    daemon = sshd(key, env=ENV)
    ours = resource.getrlimit(resource.RLIMIT_NOFILE)
    done = daemon.ssh("--", "ulimit -Sn; ulimit -Hn", key=key)
    told = [int(word) if word.isdecimal() else -1 for word in done.stdout.decode().split()]
    assert tuple(told) == ours
    soft, _ = resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE)
    assert soft >= min(65_536, ours[1] if ours[1] > 0 else 65_536)


# -- algorithms -----------------------------------------------------------------------------------


def test_ssh_audit_has_nothing_to_say_but_that_curve25519_is_not_post_quantum(sshd, key):
    program = Path(sys.executable).with_name("ssh-audit")
    need(program.exists(), "ssh-audit")
    daemon = sshd(key, env=ENV)
    done = subprocess.run(
        [program, "--skip-rate-test", "-p", str(daemon.port), "127.0.0.1"],
        capture_output=True, text=True, timeout=PATIENCE_SECONDS, check=False,
    )  # fmt: skip
    lines = done.stdout.splitlines()
    warnings = [line for line in lines if "[warn]" in line or "[fail]" in line]
    assert [line for line in warnings if KEX_WARNING not in line] == []
    assert {line.split()[1] for line in warnings} == {
        "curve25519-sha256", "curve25519-sha256@libssh.org"
    }, done.stdout  # fmt: skip
    for algorithm in ("mlkem768x25519-sha256", "kex-strict-s-v00@openssh.com", "ssh-ed25519"):
        assert f" {algorithm} " in done.stdout
    assert "asyncssh" not in done.stdout.lower()


def test_the_key_exchange_may_be_safe_from_quantum_computers(sshd, key):
    import asyncssh

    daemon = sshd(key, env=ENV)

    async def agreed() -> str:
        async with asyncssh.connect(
            "127.0.0.1", daemon.port, username="root", client_keys=[str(key.path)],
            known_hosts=None, config=None, kex_algs=["mlkem768x25519-sha256"],
        ) as connection:  # fmt: skip
            done = await connection.run("echo hello")
            return done.stdout

    assert run(agreed()) == "hello\n"


@pytest.mark.parametrize("host_key", ["ed25519", "rsa"])
def test_dbclient_which_guesses_the_key_exchange_gets_in(sshd, tmp_path, host_key):
    need(shutil.which("dbclient") and shutil.which("dropbearkey"), "dropbear's client")
    path = tmp_path / "dropbear"
    made = subprocess.run(
        ["dropbearkey", "-t", "ed25519", "-f", path],
        capture_output=True, text=True, check=True, timeout=PATIENCE_SECONDS,
    ).stdout  # fmt: skip
    [line] = [line for line in made.splitlines() if line.startswith("ssh-ed25519 ")]
    ours = make_key(tmp_path, "host", host_key)
    daemon = sshd(line, env=ENV, settings={"SSH_HOST_KEY": str(ours.path)})
    done = subprocess.run(
        ["dbclient", "-y", "-y", "-i", path, "-p", str(daemon.port), "root@127.0.0.1",
         "echo hello"],
        capture_output=True, stdin=subprocess.DEVNULL, timeout=PATIENCE_SECONDS, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, b"hello\n"), done.stderr


@pytest.mark.parametrize(
    "cipher",
    ["aes256-gcm@openssh.com", "aes128-gcm@openssh.com", "chacha20-poly1305@openssh.com"],
)
def test_the_ciphers_work(sshd, key, cipher):
    done = sshd(key, env=ENV).ssh("-c", cipher, "--", "echo hello", key=key)
    assert done.stdout == b"hello\n"


def test_a_cipher_without_authentication_is_not_offered(sshd, key):
    daemon = sshd(key, env=ENV)
    done = daemon.ssh("-c", "aes256-ctr", "--", "true", key=key, options={"LogLevel": "INFO"})
    assert b"no matching cipher found" in done.stderr


# -- support --------------------------------------------------------------------------------------


def knock(daemon: Daemon) -> socket.socket:
    """Connect without logging in."""
    return socket.create_connection(("127.0.0.1", daemon.port), timeout=PATIENCE_SECONDS)


def read_all(stream: socket.socket) -> bytes:
    """Read until the other end closes."""
    parts = []
    while part := stream.recv(1 << 16):
        parts.append(part)
    return b"".join(parts)


def restart(daemon: Daemon) -> None:
    """End the daemon; the next connection starts another one."""
    daemon.process.terminate()
    assert daemon.wait() == 0
    daemon.door.hang_up()


def run(what):
    return asyncio.run(asyncio.wait_for(what, PATIENCE_SECONDS))


def _open_unix_socket(daemon: Daemon, key: Key, path: str) -> str:
    import asyncssh

    async def ask() -> str:
        async with asyncssh.connect(
            "127.0.0.1", daemon.port, username="root", client_keys=[str(key.path)],
            known_hosts=None, config=None,
        ) as connection:  # fmt: skip
            with pytest.raises(asyncssh.ChannelOpenError) as refusal:
                await connection.open_unix_connection(path)
            return refusal.value.reason

    return run(ask())


def _scan(daemon: Daemon) -> str:
    """Ask the daemon for its host key as any client may; return its fingerprint."""
    need(shutil.which("ssh-keyscan"), "OpenSSH's client")
    found = subprocess.run(
        ["ssh-keyscan", "-p", str(daemon.port), "127.0.0.1"],
        capture_output=True, timeout=PATIENCE_SECONDS, check=True,
    ).stdout  # fmt: skip
    return subprocess.run(
        ["ssh-keygen", "-l", "-f", "-"],
        input=found, capture_output=True, timeout=PATIENCE_SECONDS, check=True,
    ).stdout.decode()  # fmt: skip
