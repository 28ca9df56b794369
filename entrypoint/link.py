"""The agent's end of the socket pair to PID 1."""

import asyncio
import socket
from collections.abc import AsyncIterator
from typing import Any

from entrypoint.init import wire
from run_agent.errors import RunAgentError

HELLO_SECONDS = 10.0
"""PID 1 sends its greeting before the agent is even running; only a stopped PID 1 is late."""


class Link:
    """Messages from PID 1 come out of `events`; what the agent says goes in by `send`."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    @classmethod
    async def open(cls, descriptor: int) -> "Link":
        """Take over the inherited descriptor."""
        pair = socket.socket(fileno=descriptor)
        pair.set_inheritable(False)
        return cls(*await asyncio.open_connection(sock=pair, limit=wire.MESSAGE_LIMIT_BYTES))

    async def hello(self) -> dict[str, Any]:
        """Return PID 1's first message: everything that a predecessor of ours knew."""
        async with asyncio.timeout(HELLO_SECONDS):
            async for message in self.events():
                hello: dict[str, Any] = message["hello"]
                return hello
        raise RunAgentError("cannot run without PID 1: it has gone")

    async def events(self) -> AsyncIterator[dict[str, Any]]:
        """Give what PID 1 tells, until it goes away."""
        decoder = wire.Decoder()
        while line := await self._reader.readline():
            for message in decoder.feed(line):
                yield message

    def send(self, **message: object) -> None:
        """Tell PID 1 something; it reads at once, so nothing piles up here."""
        self._writer.write(wire.encode(message))

    async def flush(self) -> None:
        """Wait until PID 1 has been sent everything."""
        await self._writer.drain()
