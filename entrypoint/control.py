"""The control socket: how a verb asks the agent, and how the agent answers.

One JSON object per line. A request is `{"verb": …, "arguments": {…}}`; answers are any number of
`{"progress": …}` and one last `{"result": …, "exit": 0}` or `{"error": …, "exit": CODE}`.
"""

import asyncio
import json
import logging
import os
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

from run_agent.errors import RunAgentError, UnavailableError

REQUEST_SECONDS = 5.0
"""How long a client may take to say what it wants."""

ANSWER_SECONDS = 30.0
"""How long the CLI waits for the next line: longer than an agent takes to be started again."""

LINE_LIMIT_BYTES = 1 << 20
_PEER_CREDENTIALS = struct.Struct("3i")  # pid, uid, gid: unix(7), SO_PEERCRED

Verb = Callable[[Mapping[str, Any]], Awaitable[Mapping[str, Any]]]

log = logging.getLogger("control")


@asynccontextmanager
async def serve(listener: socket.socket, verbs: Mapping[str, Verb]) -> AsyncIterator[None]:
    """Answer on an inherited socket while the context lasts. The socket itself stays open."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            reply = await _reply(reader, writer, verbs)
            writer.write(json.dumps(reply).encode() + b"\n")
            await writer.drain()
        writer.close()

    # not start_unix_server: from Python 3.13 on that removes the socket's file when it closes
    server = await asyncio.start_server(
        answer, sock=listener.dup(), limit=LINE_LIMIT_BYTES, backlog=socket.SOMAXCONN
    )
    try:
        yield
    finally:
        server.close()


async def _reply(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, verbs: Mapping[str, Verb]
) -> Mapping[str, Any]:
    uid = _peer_uid(writer.get_extra_info("socket"))
    try:
        async with asyncio.timeout(REQUEST_SECONDS):
            line = await reader.readline()
        if uid not in {0, os.getuid()}:  # told after it has spoken, or it may not listen
            log.warning("refused a request on the control socket from uid %d", uid)
            return _error("cannot do this for another user than root or the release's own",
                          os.EX_NOPERM)  # fmt: skip
        request = json.loads(line)
        verb, arguments = verbs[request["verb"]], dict(request.get("arguments", {}))
    except TimeoutError:
        return _error("cannot wait longer for the request; send one JSON line", os.EX_TEMPFAIL)
    except (ValueError, KeyError, TypeError, RecursionError):
        return _error("cannot understand the request: this run-agent and the one that runs the "
                      "replica differ; use the same version", os.EX_USAGE)  # fmt: skip
    try:
        return {"result": await verb(arguments), "exit": 0}
    except RunAgentError as error:
        return _error(str(error), error.exit_code)


def _error(message: str, code: int) -> Mapping[str, Any]:
    return {"error": message, "exit": code}


def _peer_uid(connection: socket.socket) -> int:
    raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER_CREDENTIALS.size)
    uid: int = _PEER_CREDENTIALS.unpack(raw)[1]
    return uid


def call(path: Path, verb: str, **arguments: object) -> Iterator[dict[str, Any]]:
    """Ask the agent from another process; give its progress and last its result.

    Raises `UnavailableError` where no agent is reached, and `RunAgentError` with the agent's own
    message and exit code where it says no.
    """
    request = json.dumps({"verb": verb, "arguments": arguments}).encode() + b"\n"
    with _connect(path) as connection, connection.makefile("rb") as lines:
        try:
            connection.sendall(request)
            for line in lines:
                answer = json.loads(line)
                if "error" in answer:
                    raise RunAgentError(answer["error"], exit_code=answer["exit"])
                yield answer
                if "result" in answer:
                    return
        except (OSError, ValueError) as error:
            raise UnavailableError(f"cannot get an answer from the agent at {path} ({error}); "
                                   "its log says why") from error  # fmt: skip
    raise UnavailableError(
        "cannot get an answer: the agent ended while it worked on it; it is being started again, "
        "so look at `run-agent status` and try again"
    )


def _connect(path: Path) -> socket.socket:
    """Connect through the folder's descriptor: a socket's path may exceed 108 bytes (unix(7))."""
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(ANSWER_SECONDS)
    folder = -1
    try:
        folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY)
        connection.connect(f"/proc/self/fd/{folder}/{path.name}")
    except OSError as error:
        connection.close()
        raise UnavailableError(
            f"cannot reach the replica at {path} ({error.strerror}): nothing runs there, or not "
            "as this user; start it with `run-agent init APP`, or set RUN_AGENT_ROOT"
        ) from error
    finally:
        if folder >= 0:
            os.close(folder)
    return connection
