"""What this transfer does to files, told to the daemon for its audit: one JSON object per line.

Each file is told when it is opened and when it is closed, every other change once: the first
`IN_FULL` of them, and from then on one a second. The totals are told at the end. A recursive copy
of 10,000 files so leaves its first hundred names, a sample of the others, and what it came to.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

IN_FULL = 100
"""Files and changes of a session that are told one by one; a person rarely touches more."""

PER_SECOND = 1.0
"""After those, so many a second."""

READ, WRITE, BOTH = "read", "write", "read and write"

TOTALS = (
    "files_read", "files_written", "bytes_read", "bytes_written", "changes", "failures",
    "not_listed",
)  # fmt: skip
"""`not_listed` is how many files and changes have no line of their own."""


class Ledger:
    """The account of one session, written to a descriptor."""

    def __init__(self, descriptor: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._descriptor, self._clock = descriptor, clock
        self._allowed, self._filled_at = float(IN_FULL), clock()
        self._numbers = 0
        self._totals = dict.fromkeys(TOTALS, 0)

    def opened(self, path: bytes, direction: str) -> Line:
        """Note that a file is opened: to `READ`, to `WRITE`, or `BOTH`."""
        number = None
        if self._may_tell():
            self._numbers += 1
            number = self._numbers
            self.tell("opened", file=number, path=path, direction=direction)
        return Line(self, number, path, direction)

    @contextmanager
    def change(self, operation: str, path: bytes, **fields: object) -> Iterator[None]:
        """Note what the block does to `path`, or why it could not."""
        error = None
        try:
            yield
        except OSError as reason:
            error = reason.strerror
            raise
        finally:
            self.count(changes=1, failures=int(error is not None))
            if self._may_tell():
                self.tell("changed", operation=operation, path=path, **fields, error=error)

    def close(self) -> None:
        """Tell the totals."""
        self.tell("totals", **self._totals)

    def count(self, **amounts: int) -> None:
        """Add to the totals."""
        for name, amount in amounts.items():
            self._totals[name] += amount

    def tell(self, event: str, **fields: object) -> None:
        """Write one event; unknown fields (None) are left out."""
        known = {
            name: value.decode(errors="backslashreplace") if isinstance(value, bytes) else value
            for name, value in fields.items()
            if value is not None
        }
        line = memoryview(json.dumps({"event": event, **known}).encode() + b"\n")
        while line:
            line = line[os.write(self._descriptor, line) :]

    def _may_tell(self) -> bool:
        now = self._clock()
        gained = (now - self._filled_at) * PER_SECOND
        self._allowed, self._filled_at = min(float(IN_FULL), self._allowed + gained), now
        if self._allowed < 1:
            self.count(not_listed=1)
            return False
        self._allowed -= 1
        return True


class Line:
    """One file in the ledger; without a number it is only counted."""

    def __init__(self, ledger: Ledger, number: int | None, path: bytes, direction: str) -> None:
        self.path, self._ledger, self._number, self._direction = path, ledger, number, direction

    def close(self, *, read: int = 0, written: int = 0, error: str | None = None) -> None:
        """Note that the file is closed, how many bytes went which way, and what failed."""
        self._ledger.count(
            files_read=int(self._direction != WRITE), files_written=int(self._direction != READ),
            bytes_read=read, bytes_written=written, failures=int(error is not None),
        )  # fmt: skip
        if self._number is not None:
            self._ledger.tell("closed", file=self._number, bytes=read + written, error=error)
