"""The agent's own log: one JSON object per line on stderr, readable by Cloud Logging as it is.

Owns the format only. The app's output is inherited by the release and never passes here.
"""

import logging
import sys
import time

FIELDS = {"asctime": "time", "levelname": "severity", "name": "component"}
"""How Cloud Logging calls what the logging module calls otherwise."""


class Context(logging.Filter):
    """Adds what every line should say: which deploy, and on which node."""

    def __init__(self) -> None:
        super().__init__()
        self.deploy: str | None = None
        self.node: str | None = None

    def filter(self, record: logging.LogRecord) -> bool:
        """Let every record through, with our fields on it."""
        record.deploy, record.node = self.deploy, self.node
        return True


def configure(style: str) -> Context:
    """Send all logging to stderr as `json` or `text`; return the context to keep up to date."""
    context = Context()
    stream = logging.StreamHandler(sys.stderr)
    stream.setFormatter(_json_formatter() if style == "json" else _text_formatter())
    stream.addFilter(context)
    logging.root.handlers = [stream]
    logging.root.setLevel(logging.INFO)
    for chatty in ("urllib3", "asyncio"):
        logging.getLogger(chatty).setLevel(logging.ERROR)  # their events are told by us, once
    return context


def _json_formatter() -> logging.Formatter:
    from pythonjsonlogger.json import JsonFormatter  # noqa: PLC0415 - text needs none of it

    formatter = JsonFormatter(
        "%(levelname)s %(message)s %(asctime)s %(name)s %(deploy)s %(node)s",
        rename_fields=FIELDS,
    )
    return _with_our_time(formatter)


def _text_formatter() -> logging.Formatter:
    formatter = logging.Formatter("%(asctime)s %(levelname)-7s %(name)s: %(message)s")
    return _with_our_time(formatter)


def _with_our_time(formatter: logging.Formatter) -> logging.Formatter:
    """Write times as PID 1's log does: RFC 3339, in UTC, with milliseconds."""
    formatter.default_time_format, formatter.default_msec_format = "%Y-%m-%dT%H:%M:%S", "%s.%03dZ"
    formatter.converter = time.gmtime
    return formatter
