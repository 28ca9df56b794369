"""The control socket, the agent's end: how a verb is answered. `ask` is the other end.

One JSON object per line. A request is `{"verb": …, "arguments": {…}}`; answers are any number of
`{"progress": …}` and one last `{"result": …, "exit": CODE}` or `{"error": …, "exit": CODE}`. While
a verb has nothing to say an empty object shows that it lives. A verb that began is carried to its
end, also where who asked goes away.
"""

import asyncio
import json
import logging
import os
import socket
import struct
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any

from run_agent.errors import RunAgentError

REQUEST_SECONDS = 5.0
"""How long a client may take to say what it wants."""

SIGN_OF_LIFE_SECONDS = 10.0
"""How often a verb that works in silence is said to live."""

BACKLOG_LINES = 10_000
"""Most lines of progress that are kept for one who reads slowly; what is older is left out."""

LINE_LIMIT_BYTES = 1 << 20
_PEER_CREDENTIALS = struct.Struct("3i")  # pid, uid, gid: unix(7), SO_PEERCRED

Tell = Callable[[Mapping[str, Any]], None]
"""How a verb tells its progress; waits for nobody."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a verb ends with, where its outcome has an exit code of its own."""

    result: Mapping[str, Any]
    exit_code: int = os.EX_OK


Verb = Callable[[Mapping[str, Any], Tell], Awaitable[Answer]]

log = logging.getLogger("control")


@asynccontextmanager
async def serve(listener: socket.socket, verbs: Mapping[str, Verb]) -> AsyncIterator[None]:
    """Answer on an inherited socket while the context lasts. The socket itself stays open."""
    working: set[asyncio.Task[None]] = set()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            asked = await _request(reader, writer, verbs)
            if isinstance(asked, _Asked):
                task = asyncio.create_task(asked.carry_out(), name=f"carries out {asked.name}")
                working.add(task)
                task.add_done_callback(working.discard)
                await asked.show(writer)
            else:
                await _send(writer, asked)
        writer.close()

    # not start_unix_server: from Python 3.13 on that removes the socket's file when it closes
    server = await asyncio.start_server(
        answer, sock=listener.dup(), limit=LINE_LIMIT_BYTES, backlog=socket.SOMAXCONN
    )
    try:
        yield
    finally:
        server.close()
        for task in working:
            task.cancel()


class _Asked:
    """A request that was understood, and the lines that answer it."""

    def __init__(self, name: str, verb: Verb, arguments: Mapping[str, Any]) -> None:
        self.name = name
        self._verb, self._arguments = verb, arguments
        self._lines: deque[Mapping[str, Any]] = deque(maxlen=BACKLOG_LINES)
        self._more = asyncio.Event()

    async def carry_out(self) -> None:
        """Do it; the last line is the outcome."""
        try:
            answer = await self._verb(self._arguments, self._tell)
        except RunAgentError as error:
            self._say(_error(str(error), error.exit_code))
        except Exception as error:  # a root task: who asked must not wait for ever
            log.exception("cannot carry out %s: a bug in run-agent; please report it", self.name)
            self._say(_error(f"cannot go on, this is a bug in run-agent: {error!r}; its log "
                             "has the trace", os.EX_SOFTWARE))  # fmt: skip
        else:
            self._say({"result": answer.result, "exit": answer.exit_code})

    async def show(self, writer: asyncio.StreamWriter) -> None:
        """Send the lines as they come, the last one included."""
        last = False
        while not last:
            with suppress(TimeoutError):
                async with asyncio.timeout(SIGN_OF_LIFE_SECONDS):
                    await self._more.wait()
            self._more.clear()
            for line in self._taken() or [{}]:
                await _send(writer, line)
                last = "exit" in line

    def _tell(self, progress: Mapping[str, Any]) -> None:
        self._say({"progress": progress})

    def _say(self, line: Mapping[str, Any]) -> None:
        self._lines.append(line)
        self._more.set()

    def _taken(self) -> list[Mapping[str, Any]]:
        taken = list(self._lines)
        self._lines.clear()
        return taken


async def _send(writer: asyncio.StreamWriter, line: Mapping[str, Any]) -> None:
    writer.write(json.dumps(line).encode() + b"\n")
    await writer.drain()


async def _request(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, verbs: Mapping[str, Verb]
) -> "_Asked | Mapping[str, Any]":
    """Return what is asked, or the last line for one who may not ask it."""
    pid, uid = _peer(writer.get_extra_info("socket"))
    try:
        async with asyncio.timeout(REQUEST_SECONDS):
            line = await reader.readline()
        if uid not in {0, os.getuid()}:  # told after it has spoken, or it may not listen
            log.warning("refused a request on the control socket from uid %d", uid)
            return _error("cannot do this for another user than root or the release's own",
                          os.EX_NOPERM)  # fmt: skip
        request = json.loads(line)
        name, arguments = request["verb"], dict(request.get("arguments", {}))
        by = f"process {pid} (uid {uid})"
        return _Asked(name, verbs[name], arguments | {"asked_by": by})
    except TimeoutError:
        return _error("cannot wait longer for the request; send one JSON line", os.EX_TEMPFAIL)
    except (ValueError, KeyError, TypeError, RecursionError):
        return _error("cannot understand the request: this run-agent and the one that runs the "
                      "replica differ; use the same version", os.EX_USAGE)  # fmt: skip


def _error(message: str, code: int) -> Mapping[str, Any]:
    return {"error": message, "exit": code}


def _peer(connection: socket.socket) -> tuple[int, int]:
    """Return who is at the other end: process and user; process 0 is of another namespace."""
    raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER_CREDENTIALS.size)
    pid, uid, _ = _PEER_CREDENTIALS.unpack(raw)
    return pid, uid
