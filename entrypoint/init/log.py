"""PID 1's own log lines on stderr, in the agent's format but without its libraries.

A line is dropped rather than waited for: a log driver that has stopped reading must not be able
to stop PID 1.
"""

import json
import os
import select
import time

_STDERR = 2

LINE_LIMIT_BYTES = 4096
"""PIPE_BUF: a line up to this size is written whole or not at all, and never mixed with others."""


class Log:
    """Writes one line per event; `style` is json or text."""

    def __init__(self, style: str) -> None:
        self._style = style
        self._poll = select.poll()
        self._poll.register(_STDERR, select.POLLOUT)

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
        if any(event & select.POLLOUT for _, event in self._poll.poll(0)):
            try:
                os.write(_STDERR, line.encode(errors="replace")[: LINE_LIMIT_BYTES - 1] + b"\n")
            except OSError:
                return  # stderr is closed: nobody is left to be told
