"""Looking names up, which may take long: in threads, of which nobody gets all.

getaddrinfo(3) cannot be called off: a thread is busy until the name server has answered or the
resolver gives up (resolv.conf(5)), however long we wait.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

AT_ONCE = 2
"""Names that one connection may have looked up at once; the next ones wait."""

THREADS = 32
"""Names that are looked up at once for all connections. Nothing else has these threads."""

Addresses = Sequence[tuple[Any, ...]]
"""As getaddrinfo(3) answers, for streams."""

LookUp = Callable[[str, int], Awaitable[Addresses]]

_threads = ThreadPoolExecutor(THREADS, "look-up")


class LookUps:
    """Those of one connection."""

    def __init__(self) -> None:
        self._free = asyncio.Semaphore(AT_ONCE)

    async def look_up(self, host: str, port: int) -> Addresses:
        """Return what the name stands for; raises `OSError` and `ValueError` as getaddrinfo.

        Whoever waits no longer frees no place: the thread does, when it is free itself.
        """
        await self._free.acquire()
        loop = asyncio.get_running_loop()

        def release(_: object) -> None:
            with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile
                loop.call_soon_threadsafe(self._free.release)

        asked = _threads.submit(socket.getaddrinfo, host, port, type=socket.SOCK_STREAM)
        asked.add_done_callback(release)
        return await asyncio.wrap_future(asked)


def literal(host: str, port: int) -> Addresses | None:
    """Return the address that is written here, however it is spelled; None where it is a name.

    Asks nobody. Raises `ValueError` for what can be neither.
    """
    try:
        return socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST
        )  # fmt: skip
    except socket.gaierror:
        return None
