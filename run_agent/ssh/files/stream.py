"""The bytes to and from the client."""

from __future__ import annotations

import os
from collections.abc import Sequence

RECEIVE_BYTES = 256 << 10


class Stream:
    """Two descriptors; both operations wait."""

    def __init__(self, source: int, target: int) -> None:
        self._source, self._target = source, target
        # one for all: a new one for each read would cost more than most requests
        self._arrived = memoryview(bytearray(RECEIVE_BYTES))

    def receive(self) -> bytes:
        """Return what has arrived, at least a byte; nothing once the client sends no more."""
        try:
            return bytes(self._arrived[: os.readv(self._source, [self._arrived])])
        except ConnectionError:
            return b""

    def send(self, parts: Sequence[bytes]) -> None:
        """Send all of them. Raises `ConnectionError` where the client has gone."""
        sent = os.writev(self._target, parts)
        if sent < sum(map(len, parts)):
            left = memoryview(b"".join(parts))[sent:]
            while left:
                left = left[os.write(self._target, left) :]
