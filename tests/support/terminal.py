r"""A program on a pseudo-terminal of its own: what a person types, and what is shown.

with terminal.on_terminal(argv, env=…) as console:
    console.until_shown("1> ")
    console.type("1 + 1.\n")
"""

import contextlib
import fcntl
import os
import pty
import re
import signal
import struct
import subprocess
import termios
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress

from support.wait import PATIENCE_SECONDS, until

ROWS, COLUMNS = 40, 200
"""Wide enough for no line of ours to be broken."""

CTRL_C = "\x03"

_CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\x1b[()=>][0AB]?|\r")


class OnTerminal:
    """The program that runs there, in a session of its own that the terminal controls."""

    def __init__(self, argv: Sequence[str], env: Mapping[str, str]) -> None:
        self._keys, line = pty.openpty()
        fcntl.ioctl(line, termios.TIOCSWINSZ, struct.pack("4H", ROWS, COLUMNS, 0, 0))
        os.set_blocking(self._keys, False)
        self._seen = b""
        try:
            self.process = subprocess.Popen(
                ("setsid", "--ctty", "env", "--default-signal", *argv),
                stdin=line,
                stdout=line,
                stderr=line,
                env=env,
            )
        finally:
            os.close(line)

    def shown(self) -> str:
        """Return all that was shown so far, without colours and cursor movements."""
        return _CONTROL.sub("", self.raw())

    def raw(self) -> str:
        """Return all that was shown so far, as it was sent."""
        with suppress(OSError):  # nothing for now, or nobody has it open any more
            while received := os.read(self._keys, 65536):
                self._seen += received
        return self._seen.decode(errors="replace")

    def until_shown(self, pattern: str, seconds: float = PATIENCE_SECONDS) -> re.Match[str]:
        """Wait until the pattern matches something that is shown."""
        return until(
            lambda: re.search(pattern, self.shown()),
            lambda: f"{pattern!r} in {self.shown()!r}",
            seconds,
        )

    def type(self, keys: str) -> None:
        os.write(self._keys, keys.encode())

    def hang_up(self) -> None:
        """Close the terminal, as an SSH server does when the client has gone."""
        if self._keys >= 0:
            os.close(self._keys)
            self._keys = -1

    def wait(self, seconds: float = PATIENCE_SECONDS) -> int:
        """Wait for its end; return the exit code, 128+n for signal n."""

        def ended() -> bool:
            if self._keys >= 0:
                self.shown()  # or it could not write any more
            return self.process.poll() is not None

        until(ended, "the program on the terminal does not end", seconds)
        code = self.process.returncode
        return code if code >= 0 else 128 - code

    def end(self) -> None:
        """Kill what is left of its session's leader, and close the terminal."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
        self.process.wait(PATIENCE_SECONDS)
        self.hang_up()


@contextlib.contextmanager
def on_terminal(argv: Sequence[str], *, env: Mapping[str, str]) -> Iterator[OnTerminal]:
    """Run a program on a terminal, until the context ends at the latest."""
    program = OnTerminal(argv, {"TERM": "xterm", **env})
    try:
        yield program
    finally:
        program.end()
