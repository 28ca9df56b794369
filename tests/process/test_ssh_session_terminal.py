"""Sessions on a terminal, through OpenSSH's ssh on a terminal of the test's."""

import contextlib
import os
import re
import signal

import psutil
import pytest

from entrypoint import programs
from support.ports import Ports
from support.ssh import client_environ, daemons, make_key
from support.terminal import COLUMNS, CTRL_C, ROWS, on_terminal
from support.wait import until

NODE = "hello@10.1.2.3"


@pytest.fixture(scope="module")
def key(tmp_path_factory):
    return make_key(tmp_path_factory.mktemp("key"))


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def host(tmp_path_factory, key, home):
    ports = Ports()
    env = {"HOME": str(home), "PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8",
           "APP_NAME": "hello", "MY_NODE_NAME": NODE}  # fmt: skip
    for daemon in daemons(tmp_path_factory.mktemp("host"), ports):
        host = daemon(key, env=env)
        programs.install(host.layout)
        yield host
    ports.close()


@pytest.fixture
def open_terminal(host, key):
    """Run ssh on a terminal."""

    @contextlib.contextmanager
    def open_terminal(*words, **options):
        argv = host.client(*words, key=key, **options)
        with on_terminal(argv, env=client_environ()) as console:
            yield console

    return open_terminal


def prompt(folder="~"):
    return re.escape(f"{NODE}:{folder}") + r"[#$] "


# -- the login shell -------------------------------------------------------------------------------


def test_a_shell_names_the_node_and_finds_our_commands(host, open_terminal):
    with open_terminal() as console:
        console.until_shown(prompt(host.layout.app))
        console.type("run-agent --version; echo $SHLVL $((40 + 2))\n")
        console.until_shown(r"run-agent [\d.]+\s+1 42\b")
        console.type("logout\n")
        assert console.wait() == 0


def test_a_shell_reads_the_users_files_as_a_login_shell_does(home, open_terminal):
    (home / ".bash_profile").write_text(
        "PS1='mine> '; PATH=/usr/bin:/bin; export SEEN=yes; echo 'good morning'\n"
    )
    (home / ".profile").write_text("export SEEN=wrong\n")
    with open_terminal() as console:
        console.until_shown("good morning\n(.*\n)*mine> ")
        console.type("echo $SEEN; type -t run-agent; exit 3\n")
        console.until_shown("yes\nfile\n")
        assert console.wait() == 3
    (home / ".bash_profile").unlink()
    (home / ".profile").unlink()


def test_the_status_of_a_shell_is_its_last_commands(host, open_terminal):
    with open_terminal() as console:
        console.until_shown(prompt(host.layout.app))
        console.type("(exit 42)\nexit\n")
        assert console.wait() == 42


# -- the terminal ----------------------------------------------------------------------------------


def test_the_terminal_has_the_clients_size_type_and_modes(open_terminal):
    with open_terminal("-t", "--", "stty -a; echo $TERM; tty; echo $SSH_TTY") as console:
        assert console.wait() == 0
        shown = console.shown()
    assert f"rows {ROWS}; columns {COLUMNS}" in shown
    assert re.search(r"xterm\n(/dev/pts/\d+)\n\1\n", shown)


def test_the_clients_control_characters_count(host, key):
    """What the client's own terminal has: here VINTR is ^E."""
    argv = host.client("-t", "--", "stty -a; cat", key=key)
    with on_terminal(["sh", "-c", 'stty intr ^E eof ^B; exec "$@"', "sh", *argv],
                     env=client_environ()) as console:  # fmt: skip
        console.until_shown(r"intr = \^E;")
        console.until_shown(r"eof = \^B;")
        console.type("\x02")
        assert console.wait() == 0


def test_a_resize_arrives(open_terminal):
    command = "trap 'stty size' WINCH; echo ready; while sleep 0.05; do :; done"
    with open_terminal("-t", "--", command) as console:
        console.until_shown("ready")
        resize(console, 33, 77)
        console.until_shown("33 77")


def resize(console, rows, columns):
    import fcntl
    import struct
    import termios

    fcntl.ioctl(console._keys, termios.TIOCSWINSZ, struct.pack("4H", rows, columns, 0, 0))
    client = psutil.Process(console.process.pid)
    for process in (client, *client.children(recursive=True)):
        process.send_signal(signal.SIGWINCH)


def test_ctrl_c_interrupts_the_foreground_job_and_not_the_shell(host, open_terminal):
    with open_terminal() as console:
        console.until_shown(prompt(host.layout.app))
        console.type("sh -c 'echo go; exec sleep 60'\n")  # whoever says go is in the foreground
        console.until_shown("\ngo\n")
        console.type(CTRL_C)
        console.type("echo interrupted $?\n")
        console.until_shown("interrupted 130")


def test_a_break_interrupts_the_foreground_group(open_terminal):
    command = "trap 'echo broken; exit 5' INT; echo ready; while sleep 0.05; do :; done"
    with open_terminal("-t", "--", command) as console:
        console.until_shown("ready")
        console.type("\n~B")
        console.until_shown("broken")
        assert console.wait() == 5


def test_the_end_of_input_reaches_a_command_on_a_terminal(host, key):
    for content in (b"", b"whole\n", b"part"):
        ended = host.ssh("-tt", "--", "wc -c", key=key, input=content)
        assert ended.returncode == 0, content
        assert ended.stdout.endswith(b"%d\r\n" % len(content)), ended.stdout


def test_a_signal_that_ended_a_command_on_a_terminal_is_told(host, key):
    host.ssh("-tt", "--", "kill -ABRT $$ # on a terminal", key=key)
    closed = host.until_said("session closed", command="kill -ABRT $$ # on a terminal")
    assert closed["signal"] == "ABRT"


def test_all_output_of_a_command_on_a_terminal_arrives(host, key):
    ended = host.ssh("-tt", "--", "seq 100000; exit 7", key=key)
    assert ended.returncode == 7
    assert ended.stdout.split() == [str(number).encode() for number in range(1, 100001)]


def test_the_terminal_is_closed_to_others(host, key):
    ended = host.ssh("-tt", "--", "stat -c %a $(tty)", key=key)
    assert ended.stdout.strip() == b"620"


@pytest.fixture
def start(tmp_path, ports):
    yield from daemons(tmp_path, ports)


def test_a_key_without_terminals_gets_none_and_keeps_its_commands(start, key):
    """OpenSSH's client itself gives up then, with sshd too."""
    host = start(key.with_options("no-pty"), env=client_environ())
    assert b"PTY allocation request failed" in host.ssh("-tt", "--", "true", key=key).stderr
    assert host.ssh("--", "echo on", key=key).stdout == b"on\n"


def test_without_permission_the_users_files_are_not_read(start, key, home):
    (home / ".bashrc").write_text("echo noise from the user\n")
    env = client_environ() | {"HOME": str(home), "MY_NODE_NAME": NODE}
    host = start(key.with_options("no-user-rc"), env=env)
    with on_terminal(host.client(key=key), env=client_environ()) as console:
        console.until_shown(prompt(host.layout.app))
        assert "noise" not in console.shown()
    (home / ".bashrc").unlink()


def test_signals_of_the_protocol_reach_the_foreground_group(host, key):
    """OpenSSH's client sends none, asyncssh's does."""
    import asyncio

    import asyncssh

    async def main():
        async with asyncssh.connect(
            "127.0.0.1", host.port, username="root", client_keys=[str(key.path)],
            known_hosts=None, config=None, agent_path=None,
        ) as connection:  # fmt: skip
            for name in ("USR1", "TERM", "HUP"):
                for terminal in (None, "xterm"):
                    command = f"trap 'echo got; exit 9' {name}; echo ready; sleep 60 & wait"
                    process = await connection.create_process(command, term_type=terminal)
                    assert "ready" in await process.stdout.readline()
                    process.send_signal(name)
                    ended = await process.wait()
                    assert ended.exit_status == 9, (name, terminal, ended)
            process = await connection.create_process("sleep 60")
            process.send_signal("KILL")
            ended = await process.wait()
            assert ended.exit_signal[0] == "KILL"

    asyncio.run(asyncio.wait_for(main(), 20))
    assert until(lambda: not host.sessions(), "something is left")
