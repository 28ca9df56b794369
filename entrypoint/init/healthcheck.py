"""`python -m entrypoint.init.healthcheck`: the image's HEALTHCHECK asks PID 1 for `/livez`.

Not `/readyz`: who acts on a health check replaces the container, and a replica that boots, drains
or waits for its peers must not be replaced. It runs every few seconds, so it imports next to
nothing, and takes the port from PID 1: HEALTH_PORT means another one to a job. Exit code 0: alive,
or without probes, where nothing can be said; 1: not.
"""

import os
import socket
import sys
from collections.abc import Mapping

from entrypoint.init.run_folder import HEALTH_PORT

RUN = "run/run-agent"
"""The run folder below RUN_AGENT_ROOT (run_agent/settings.py, whose import would cost more than the
question)."""

ANSWER_SECONDS = 4.0
"""PID 1 answers in milliseconds; the runtime gives up after 5 s and would not say why."""


def main(environ: Mapping[str, str]) -> str | None:
    """Return what is wrong, None where PID 1 is alive: as sys.exit takes it."""
    path = os.path.join(environ.get("RUN_AGENT_ROOT") or "/", RUN, HEALTH_PORT)
    try:
        with open(path) as file:
            port = file.read()
    except OSError as error:
        return f"cannot read {path} ({error.strerror}): run-agent does not run, or as another user"
    if port == "none":
        return None
    try:
        status = _ask(int(port))
    except (OSError, ValueError) as error:
        return f"cannot reach /livez on port {port}: {error}"
    return None if status == b"200" else f"/livez on port {port} says {status.decode()!r}"


def _ask(port: int) -> bytes:
    """Return the status of the answer; the second word of its first line (RFC 9112, section 4)."""
    with socket.create_connection(("127.0.0.1", port), ANSWER_SECONDS) as connection:
        connection.sendall(b"GET /livez HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        with connection.makefile("rb") as answer:
            return answer.readline(256).partition(b" ")[2][:3]


if __name__ == "__main__":
    sys.exit(main(os.environ))
