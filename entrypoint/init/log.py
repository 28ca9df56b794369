"""PID 1's own log lines on stderr, in the agent's format but without its libraries.

A line is dropped rather than waited for: a log driver that has stopped reading must not be able
to stop PID 1.
"""

import json
import os
import select
import stat
import time

_STDERR = 2

LINE_LIMIT_BYTES = 4096
"""PIPE_BUF: a line up to this size is written whole or not at all, and never mixed with others."""


class Log:
    """Writes one line per event; `style` is json or text."""

    def __init__(self, style: str) -> None:
        self._style = style
        self._descriptor = _own_stderr()
        self._poll = select.poll()
        self._poll.register(self._descriptor, select.POLLOUT)

    def info(self, message: str, **fields: object) -> None:
        """Tell an event of normal operation."""
        self._write("INFO", message, fields)

    def warning(self, message: str, **fields: object) -> None:
        """Tell something that went wrong and was answered."""
        self._write("WARNING", message, fields)

    def error(self, message: str, **fields: object) -> None:
        """Tell something that a person has to look at."""
        self._write("ERROR", message, fields)

    def _write(self, severity: str, message: str, fields: dict[str, object]) -> None:
        now = time.time()
        stamp = (
            time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now)) + f".{int(now * 1000) % 1000:03}Z"
        )
        if self._style == "json":
            line = json.dumps(
                {"severity": severity, "message": message, "time": stamp, "component": "init"}
                | fields
            )
        else:
            line = f"{stamp} {severity:7} init: {message}"
        whole = line.encode(errors="replace")[: LINE_LIMIT_BYTES - 1] + b"\n"
        if any(event & select.POLLOUT for _, event in self._poll.poll(0)):
            try:
                os.write(self._descriptor, whole)
            except OSError:
                return  # it is full after all, or nobody is left to be told


def _own_stderr() -> int:
    """Open stderr anew where it is a pipe, so that our writes never wait and the app's still do.

    The app may fill the pipe between our look and our write.
    """
    try:
        if stat.S_ISFIFO(os.fstat(_STDERR).st_mode):
            return os.open(f"/proc/self/fd/{_STDERR}", os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        pass  # somebody else's pipe
    return _STDERR
