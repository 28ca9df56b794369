"""Sessions without a terminal, through OpenSSH's ssh: commands, streams, environment, start-up."""

import asyncio
import contextlib
import hashlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import asyncssh
import psutil
import pytest

from entrypoint import programs
from support.ports import Ports
from support.ssh import Daemon, client_environ, daemons, make_key
from support.wait import PATIENCE_SECONDS, holds, until

MIB = 1 << 20

NOISE = "echo NOISE; echo NOISE >&2; PATH=/usr/bin:/bin\n"


@pytest.fixture(scope="module")
def key(tmp_path_factory):
    return make_key(tmp_path_factory.mktemp("key"))


@pytest.fixture(scope="module")
def host(tmp_path_factory, key):
    """Start a daemon whose account has start-up files that print, as people have them."""
    folder, ports = tmp_path_factory.mktemp("host"), Ports()
    home = folder / "home"
    home.mkdir()
    for name in (".bashrc", ".profile"):
        (home / name).write_text(NOISE)
    env = {"HOME": str(home), "PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8", "GREETING": "hej"}
    for daemon in daemons(folder, ports):
        host = daemon(key, env=env, settings={"SSH_KEEPALIVE_SECONDS": "1"})
        programs.install(host.layout)
        tool = host.layout.app / "bin" / "of-the-release"
        tool.parent.mkdir()
        tool.write_text("#!/bin/sh\necho released\n")
        tool.chmod(0o755)
        yield host
    ports.close()


@pytest.fixture
def start(tmp_path, ports):
    yield from daemons(tmp_path, ports)


def run(host: Daemon, key, command: str | bytes, **options) -> subprocess.CompletedProcess[bytes]:
    return host.ssh("--", command, key=key, **options)


def said(host: Daemon, key, command: str, **options) -> str:
    ended = run(host, key, command, **options)
    assert ended.returncode == 0, (ended, host.log)
    return ended.stdout.decode().strip()


@contextlib.contextmanager
def client(host: Daemon, key, *words: str, options=None, **streams) -> Iterator[subprocess.Popen]:
    """Run ssh, until the context ends at the latest."""
    argv = host.client(*words, key=key, options=options)
    with subprocess.Popen(argv, env=client_environ(), **streams) as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.fixture
def control(host, key, tmp_path):
    """Give the options for a connection that stays open, which sessions share."""
    options = {"ControlPath": str(tmp_path / "c")}
    with client(host, key, "-N", "-M", options=options):
        until((tmp_path / "c").exists, "there is no master")
        yield options


# -- how a command ends ---------------------------------------------------------------------------


def test_stdout_stderr_and_exit_status_are_the_commands(host, key):
    ended = run(host, key, "echo out; echo err >&2; exit 3")
    assert (ended.stdout, ended.stderr, ended.returncode) == (b"out\n", b"err\n", 3)


@pytest.mark.parametrize("status", [0, 1, 127, 255])
def test_every_exit_status_arrives(host, key, status):
    assert run(host, key, f"exit {status}").returncode == status


def test_what_is_not_found_or_not_executable_is_told_as_bash_tells_it(host, key):
    missing = run(host, key, "no-such-program")
    assert missing.returncode == 127
    assert b"no-such-program: command not found" in missing.stderr
    folder = run(host, key, "/etc")
    assert folder.returncode == 126
    assert b"Is a directory" in folder.stderr


def test_a_command_that_a_signal_ended_is_told_so(host, key):
    ended = run(host, key, "kill -TERM $$", options={"LogLevel": "DEBUG1"})
    assert ended.returncode == 255
    assert b"exit-signal" in ended.stderr
    closed = host.until_said("session closed", command="kill -TERM $$")
    assert closed["signal"] == "TERM"


@pytest.mark.parametrize(
    ("number", "name"), [(35, "35@run-agent"), (7, "BUS@run-agent"), (9, "KILL")]
)
def test_every_signal_that_ends_a_command_is_told(host, key, number, name):
    command = f"ulimit -c 0; kill -{number} $$"
    ended = run(host, key, command, options={"LogLevel": "DEBUG1"})
    assert ended.returncode == 255
    assert b"exit-signal" in ended.stderr
    assert host.until_said("session closed", command=command)["signal"] == name


JUST_FORKED = """
import asyncio, os, time
from entrypoint.init.children import spawn
from run_agent.ssh.daemon.processes.children import Children

def slow(become=os.setsid):
    time.sleep(0.5)
    become()

async def main():
    null = os.open(os.devnull, os.O_RDWR)
    child = Children(spawn, "token").start(
        ["sleep", "5"], env=os.environ, cwd="/", redirect={0: null}, terminal=False
    )
    child.signal(15)
    print(await child.ended)

os.setsid = slow
asyncio.run(main())
"""


def test_a_signal_reaches_a_command_that_has_not_got_as_far_as_its_own_group():
    argv = [sys.executable, "-I", "-c", JUST_FORKED]
    assert subprocess.run(argv, stdout=subprocess.PIPE, check=True, timeout=60).stdout == b"-15\n"


def test_a_command_is_bytes_and_need_not_be_utf_8(host, key):
    ended = run(host, key, b"printf 'caf\xe9'; cat caf\xe9", input=b"")
    assert (ended.stdout, ended.returncode) == (b"caf\xe9", 1)
    closed = host.until_said("session closed", command="printf 'caf\\xe9'; cat caf\\xe9")
    assert closed["exit_status"] == 1
    assert b"\\udc" not in host.err.read_bytes(), "that is no text for whoever reads the log"


def test_the_audit_tells_command_bytes_and_status(host, key):
    run(host, key, "cat; printf 12345 >&2; exit 7 # audited", input=b"123")
    closed = host.until_said("session closed", command="cat; printf 12345 >&2; exit 7 # audited")
    assert (closed["bytes_in"], closed["bytes_out"], closed["exit_status"]) == (3, 8, 7)


# -- streams ---------------------------------------------------------------------------------------


def test_200_mb_arrive_unchanged_both_ways(host, key):
    content = os.urandom(8 * MIB) * 25
    digest = hashlib.sha256(content).hexdigest()
    assert said(host, key, "sha256sum", input=content, timeout=60).split()[0] == digest
    (host.layout.app / "content").write_bytes(content)
    sent = run(host, key, "cat content", timeout=60).stdout
    assert hashlib.sha256(sent).hexdigest() == digest
    echoed = run(host, key, "cat", input=content, timeout=60).stdout
    assert hashlib.sha256(echoed).hexdigest() == digest


def test_the_clients_end_of_file_closes_stdin_and_the_answer_still_arrives(host, key):
    assert said(host, key, "wc -c; echo after", input=b"12345") == "5\nafter"


def test_a_command_that_closes_its_outputs_goes_on_and_its_status_counts(host, key):
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with client(host, key, "--", "exec >&- 2>&-; read line; exit 9", **pipes) as process:
        assert process.stdout.read() == b"", "the end of its output did not arrive"
        process.stdin.write(b"line\n")
        process.stdin.close()
        assert process.wait(PATIENCE_SECONDS) == 9


def test_a_client_that_has_said_all_still_gets_the_status_of_a_command_that_goes_on(
    host, key, control
):
    command = "exec >&- 2>&-; sleep 0.5; touch went-on; exit 8"
    assert run(host, key, command, options=control).returncode == 8
    assert (host.layout.app / "went-on").exists()


def test_input_that_nobody_reads_is_no_error(host, key):
    assert run(host, key, "exec <&-; exit 5", input=b"x" * 4 * MIB).returncode == 5


def test_a_slow_client_costs_no_memory_and_loses_nothing(host, key):
    command = f"head -c {64 * MIB} /dev/zero; exit 6"
    said(host, key, "true")
    before = memory(host)
    with client(host, key, "--", command, stdout=subprocess.PIPE) as process:
        holds(
            lambda: memory(host) < before + 16 * MIB,
            "the daemon keeps what the client does not read",
            seconds=2,
        )
        assert len(process.stdout.read()) == 64 * MIB
        assert process.wait(PATIENCE_SECONDS) == 6


def test_a_slow_process_holds_the_client_back(host, key):
    said(host, key, "true")
    before = memory(host)
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with client(host, key, "--", "mkfifo slow; read x < slow; wc -c", **pipes) as process:
        until((host.layout.app / "slow").is_fifo, "it does not wait")
        os.set_blocking(process.stdin.fileno(), False)
        sent, since = 0, time.monotonic()
        while time.monotonic() < since + 1 and sent < 64 * MIB:
            with contextlib.suppress(BlockingIOError):
                sent += os.write(process.stdin.fileno(), bytes(MIB))
                since = time.monotonic()
            time.sleep(0.001)
        assert sent < 32 * MIB
        assert memory(host) < before + 16 * MIB
        said(host, key, "echo > slow; rm slow")
        process.stdin.close()
        assert int(process.stdout.read()) == sent


def test_a_client_that_closes_its_channel_while_the_process_is_slow_is_noticed(host, key, control):
    """The connection lives on, so only the channel tells."""
    with (
        Path("/dev/zero").open("rb") as zero,
        client(host, key, "--", "sleep 60.125", options=control, stdin=zero) as process,
    ):
        until(lambda: commands(host, "sleep 60.125"), "it does not run")
        holds(lambda: process.poll() is None, "the client has ended", seconds=1)
        process.kill()
        until(lambda: not commands(host, "sleep 60.125"), lambda: f"it still runs: {host.log}")
    assert said(host, key, "echo still", options=control) == "still"


def memory(host: Daemon) -> int:
    return psutil.Process(host.pid).memory_info().rss


def commands(host: Daemon, containing: str) -> list[str]:
    found = []
    for pid in host.sessions():
        try:
            line = " ".join(psutil.Process(pid).cmdline())
        except psutil.Error:
            continue
        if containing in line:
            found.append(line)
    return found


# -- many ------------------------------------------------------------------------------------------


def test_a_shared_connection_carries_many_sessions_one_after_the_other_and_at_once(
    host, key, control
):
    for number in range(25):
        assert run(host, key, f"exit {number}", options=control).returncode == number
    with contextlib.ExitStack() as stack:
        clients = [
            stack.enter_context(
                client(host, key, "--", f"sleep 0.3; exit {number}", options=control)
            )
            for number in range(10)
        ]
        assert [process.wait(PATIENCE_SECONDS) for process in clients] == list(range(10))
    connections = {event["connection"] for event in host.events("session closed", terminal=False)
                   if event["command"] in {"exit 23", "exit 24", "sleep 0.3; exit 9"}}  # fmt: skip
    assert len(connections) == 1


def test_many_sessions_that_end_at_once_end_right_and_soon(host, key):
    """Nothing is looked for that none of them has left behind."""
    with contextlib.ExitStack() as stack:
        clients = [
            stack.enter_context(
                client(host, key, "--", f"read line; exit {number}", stdin=subprocess.PIPE)
            )
            for number in range(40)
        ]
        until(lambda: len(host.sessions()) == 40, "they do not all run", seconds=60)
        before = psutil.Process(host.pid).cpu_times()
        for process in clients:
            process.stdin.close()
        assert [process.wait(60) for process in clients] == list(range(40))
    after = psutil.Process(host.pid).cpu_times()
    assert after.user + after.system - before.user - before.system < 1


# -- environment -----------------------------------------------------------------------------------


def test_a_session_has_the_releases_environment_and_what_ssh_promises(host, key):
    env = dict(line.partition("=")[::2] for line in said(host, key, "env").splitlines())
    assert env["GREETING"] == "hej"
    assert env["LC_ALL"] == "C.UTF-8"
    assert env["USER"] == env["LOGNAME"] == psutil.Process().username()
    assert env["SSH_CONNECTION"].split()[::2] == ["127.0.0.1", "127.0.0.1"]
    assert env["SSH_CLIENT"].split()[0] == "127.0.0.1"
    assert env["SHELL"].endswith("/bash")
    assert "SSH_TTY" not in env
    assert said(host, key, "pwd") == str(host.layout.app)


def test_of_what_a_client_sends_only_locale_and_terminal_type_are_taken(host, key):
    environ = client_environ() | {"LC_TIME": "C.UTF-8", "LANG": "xx_XX.UTF-8", "TERM": "vt100",
                                  "LD_PRELOAD": "", "EVIL": "1", "LC_EVIL": "1"}  # fmt: skip
    sent = {"SendEnv": "LC_* LANG TERM EVIL LD_PRELOAD"}
    env = said(host, key, "env", env=environ, options=sent).splitlines()
    assert "LC_TIME=C.UTF-8" in env
    assert "LANG=C.UTF-8" in env, "a locale that is not here was taken, or ours is lost"
    assert "TERM=vt100" in env
    assert not [line for line in env if "EVIL" in line or line.startswith("LD_")]


def test_variables_that_are_not_taken_are_not_kept(start, key):
    # a daemon with the usual keepalive: this client is busy with packing them, and may be slow
    host = start(key, env={"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8"})
    said(host, key, "true")
    before = memory(host)
    sent = asyncio.run(send_variables(host, key, count=4000, size=30_000))
    assert sent == "C.UTF-8\n"
    assert memory(host) < before + 32 * MIB


async def send_variables(host: Daemon, key, *, count: int, size: int) -> str:
    """Return LC_TIME in a session whose client has sent much else besides."""
    env = {f"EVIL{number}": "x" * size for number in range(count)}
    async with asyncio.timeout(60), asyncssh.connect(
        "127.0.0.1", host.port, username="root", client_keys=[str(key.path)], known_hosts=None,
        config=None,
    ) as connection:  # fmt: skip
        done = await connection.run(
            "echo $LC_TIME", env={"LC_TIME": "C.UTF-8"} | env | {"LC_ALL": "x" * 65}
        )
        return str(done.stdout)


def test_erlang_speaks_unicode_whatever_locale_the_client_has(host, key):
    environ = client_environ() | {"LC_ALL": "C"}
    charmap = said(host, key, "locale charmap", env=environ, options={"SendEnv": "LC_*"})
    assert charmap == "UTF-8"


def test_nothing_but_the_command_prints(host, key):
    assert run(host, key, "echo only").stdout == b"only\n"
    assert run(host, key, "echo only").stderr == b""
    script = host.ssh(key=key, input=b"echo from stdin; exit 4\n")
    assert (script.stdout, script.stderr, script.returncode) == (b"from stdin\n", b"", 4)


@pytest.mark.parametrize(
    "command",
    [
        "{}",
        "bash -c {}",
        "bash -lc {}",
        "bash -l < <(echo {})",
        "env -u BASH_ENV bash -c {}",
        "sh -c {}",
    ],
)
@pytest.mark.parametrize(
    ("program", "answer"),
    [("run-agent --version", "run-agent"), ("gigalixir_run --version", "run-agent"),
     ("of-the-release", "released")],
)  # fmt: skip
def test_commands_are_found_in_login_and_other_shells(host, key, command, program, answer):
    quoted = f"'{program}'" if command != "{}" else program
    assert answer in said(host, key, command.format(quoted))


def test_programs_get_their_own_order_on_the_path(host, key):
    """A script is not to undo what its caller has put in front."""
    command = 'export PATH="/mine:$PATH"; bash -c "echo \\$PATH"'
    assert said(host, key, command).startswith("/mine:")


def test_scp_style_binary_output_is_not_touched(host, key):
    everything = bytes(range(256)) * 64
    (host.layout.app / "bytes").write_bytes(everything)
    assert run(host, key, "cat bytes").stdout == everything
    assert run(host, key, "cat", input=everything).stdout == everything


# -- what keys allow -------------------------------------------------------------------------------


def test_a_forced_command_runs_instead_and_knows_what_was_asked_for(start, key):
    host = start(
        key.with_options('command="echo forced; echo asked $SSH_ORIGINAL_COMMAND"'),
        env=client_environ(),
    )
    assert said(host, key, "rm -rf x") == "forced\nasked rm -rf x"
    assert said(host, key, "") == "forced\nasked"
    subsystem = host.ssh("-s", "--", "sftp", key=key)
    assert subsystem.stdout == b"forced\nasked sftp\n"


def test_an_unknown_subsystem_is_refused(host, key):
    assert host.ssh("-s", "--", "nonesuch", key=key).returncode == 255
