"""A session's pseudo-terminal: its modes as the client wants them, its size, its end of file."""

from __future__ import annotations

import grp
import os
import re
import struct
import termios
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from fcntl import ioctl

from run_agent.ssh.daemon.sessions import terminal_modes

MOST_CELLS = 0xFFFF
"""struct winsize has 16 bits for each (tty_ioctl(4)); a client may send 32."""

MODE = 0o620
"""Others of the group tty may write(1) to it; nobody else may read it."""

FALLBACK_TYPE = "dumb"

KNOWN_TYPE = re.compile(r"[A-Za-z0-9][A-Za-z0-9+._-]{0,63}")
"""terminfo's names; what looks like a path would be opened as one."""

Size = tuple[int, int, int, int]
"""Columns, rows, and both in pixels, in RFC 4254's order."""


class Terminal:
    """A pseudo-terminal. `slave` is the process's end, until `close_slave`."""

    def __init__(self, kind: str, size: Size, modes: Mapping[int, int]) -> None:
        self.kind = kind if KNOWN_TYPE.fullmatch(kind) else FALLBACK_TYPE
        self._master, self._slave = os.openpty()
        self.name = os.ttyname(self._slave)
        try:
            _own(self._slave)
            attributes = terminal_modes.wanted(termios.tcgetattr(self._slave), modes)
            termios.tcsetattr(self._slave, termios.TCSANOW, attributes)
            self.resize(size)
        except BaseException:
            self.close()
            raise

    @property
    def slave(self) -> int:
        """The process's end."""
        return self._slave

    def duplicate(self, owner: ExitStack) -> int:
        """Return another descriptor of our end, which `owner` closes. Raises `OSError`."""
        descriptor = os.dup(self._master)
        owner.callback(os.close, descriptor)
        return descriptor

    def resize(self, size: Size) -> None:
        """Set its size; the foreground group gets WINCH where that changes it."""
        columns, rows, width, height = (min(number, MOST_CELLS) for number in size)
        if self._master >= 0:
            winsize = struct.pack("HHHH", rows, columns, width, height)
            ioctl(self._master, termios.TIOCSWINSZ, winsize)

    def end_of_file(self, last: bytes) -> bytes:
        """Return what to write where the client will send no more; `last` is its last byte.

        The end-of-file character alone hands over an unfinished line; only the next one ends.
        """
        if self._master < 0:
            return b""
        character: bytes = termios.tcgetattr(self._master)[terminal_modes.CC][termios.VEOF]
        if character == b"\0":
            return b""
        return character if last in {b"", b"\n", b"\r", character} else character * 2

    def close_slave(self) -> None:
        """Leave the process's end to the process."""
        if self._slave >= 0:
            os.close(self._slave)
            self._slave = -1

    def close(self) -> None:
        """Give it back; what still uses it gets HUP when the last descriptor has gone."""
        self.close_slave()
        if self._master >= 0:
            os.close(self._master)
            self._master = -1


def _own(slave: int) -> None:
    """Give it to us and the group tty, as login(1) would; devpts may have done so already."""
    with suppress(OSError, KeyError):
        if os.geteuid() == 0:
            os.fchown(slave, 0, grp.getgrnam("tty").gr_gid)
        os.fchmod(slave, MODE)
