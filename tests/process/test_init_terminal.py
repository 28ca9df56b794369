"""On a terminal the release is in the foreground: keys, window sizes and reads are its own."""

import fcntl
import os
import pty
import struct
import sys
import termios
from pathlib import Path

import pytest

from support.wait import until

LISTENER = """
import os, signal, sys
def tell(words): os.write(1, f"{words}\\n".encode())
signal.signal(signal.SIGWINCH, lambda *_: tell(f"resized {os.get_terminal_size(0)}"))
signal.signal(signal.SIGQUIT, lambda *_: tell("quit"))
signal.signal(signal.SIGINT, lambda *_: (tell("interrupted"), os._exit(9)))
tell("up")
for line in sys.stdin: tell(f"read {line}")
"""


class Terminal:
    """A pseudo-terminal; what it shows is read as it comes."""

    def __init__(self):
        self.keys, self.line = pty.openpty()
        os.set_blocking(self.keys, False)
        self._shown = b""

    def shown(self):
        try:
            while received := os.read(self.keys, 65536):
                self._shown += received
        except OSError:
            pass  # nothing for now, or the other side is closed
        return self._shown.decode(errors="replace")

    def until_shown(self, text):
        until(lambda: text in self.shown(), lambda: f"{text!r} in {self.shown()!r}")

    def type(self, keys):
        os.write(self.keys, keys)

    def resize(self, rows, columns):
        fcntl.ioctl(self.keys, termios.TIOCSWINSZ, struct.pack("4H", rows, columns, 0, 0))


@pytest.fixture
def terminal():
    terminal = Terminal()
    yield terminal
    os.close(terminal.keys)
    os.close(terminal.line)


@pytest.fixture
def on_terminal(boot, terminal):
    """Start with the terminal as the three streams, and as the controlling one."""
    streams = dict.fromkeys(("stdin", "stdout", "stderr"), terminal.line)

    def start(*command, **options):
        return boot(*command, wrapper=("setsid", "--ctty"), **streams, **options)

    return start


def test_keys_and_sizes_reach_the_release(on_terminal, terminal):
    replica = on_terminal(sys.executable, "-I", "-S", "-c", LISTENER)
    terminal.until_shown("up")
    terminal.type(b"hello\n")
    terminal.until_shown("read hello")
    terminal.resize(33, 99)
    terminal.until_shown("resized os.terminal_size(columns=99, lines=33)")
    terminal.type(b"\x1c")
    terminal.until_shown("quit")
    terminal.type(b"\x03")
    terminal.until_shown("interrupted")
    assert replica.wait() == 9


def test_its_group_is_the_foreground_group(on_terminal):
    replica = on_terminal("sleep", "600").until_ready()
    group, foreground = groups_of(replica)
    assert group == foreground


def test_after_a_restart_it_is_in_the_foreground_again(on_terminal):
    replica = on_terminal(
        "./release",
        programs={"release": "mkdir first && exit 3; exec sleep 600"},
        settings={"RESTART": "on-failure"},
    ).until_ready()
    until(lambda: "sleep 600" in str(replica.commands()), "it was not started again")
    replica.until_ready()
    group, foreground = groups_of(replica)
    assert group == foreground


def test_a_job_in_the_background_does_not_take_the_terminal(start, terminal):
    in_background = ("setsid", "--ctty", "bash", "-c", 'set -m; "$@" & wait', "bash")
    replica = start("sleep", "600", wrapper=in_background, stdin=terminal.line).until_ready()
    group, foreground = groups_of(replica)
    assert group != foreground
    assert foreground == replica.pid, "the shell's"


def groups_of(replica):
    """Return the release's process group, and the one in the foreground of its terminal."""
    started = replica.get("/readyz").body["release_pid"]
    release = until(
        lambda: replica.outside(started), "the release, which shows nothing in its exec"
    )
    # until it has become the program, the child may not have taken the terminal yet
    until(lambda: replica.commands().get(release) == "sleep 600", "the release to be executed")
    stat = Path(f"/proc/{release}/stat").read_text().rpartition(")")[2].split()
    return int(stat[2]), int(stat[5])
