"""The control socket, the end of a verb: how it asks the agent. Imports little: people wait for it.

One JSON object per line; `control` says which.
"""

import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from run_agent.errors import RunAgentError, UnavailableError

ANSWER_SECONDS = 30.0
"""How long to wait for the next line: longer than an agent takes to be started again."""


class NothingRunsError(UnavailableError):
    """No replica has its socket there."""


def call(path: Path, verb: str, **arguments: object) -> Iterator[dict[str, Any]]:
    """Ask the agent from another process; give its progress and last its result.

    Raises `UnavailableError` where no agent is reached (`NothingRunsError` where none can be), and
    `RunAgentError` with the agent's own message and exit code where it says no.
    """
    request = json.dumps({"verb": verb, "arguments": arguments}).encode() + b"\n"
    with _connect(path) as connection, connection.makefile("rb") as lines:
        try:
            connection.sendall(request)
            for line in lines:
                answer = json.loads(line)
                if "error" in answer:
                    raise RunAgentError(answer["error"], exit_code=answer["exit"])
                if not answer:
                    continue
                yield answer
                if "result" in answer:
                    return
        except (OSError, ValueError) as error:
            raise UnavailableError(f"cannot get an answer from the agent at {path} ({error}); "
                                   "its log says why") from error  # fmt: skip
    raise UnavailableError(
        "cannot get an answer: the agent ended while it worked on this, which may have been done "
        "by half; another agent is being started, so look at `run-agent status`"
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
        gone = isinstance(error, FileNotFoundError | NotADirectoryError | ConnectionRefusedError)
        raise (NothingRunsError if gone else UnavailableError)(
            f"cannot reach the replica at {path} ({error.strerror}): nothing runs there, or not "
            "as this user; start it with `run-agent init APP`, or set RUN_AGENT_ROOT"
        ) from error
    finally:
        if folder >= 0:
            os.close(folder)
    return connection
