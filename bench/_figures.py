"""What every benchmark shares: the last line, and a replica in a folder of its own."""

import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

RUN_AGENT = [sys.executable, "-I", "-m", "entrypoint.cli"]

READY_SECONDS = 120.0
"""How long a replica of a benchmark may take until it is ready."""


def report(name: str, figure: float, against: str, against_figure: float, **more: object) -> None:
    """Print the benchmark's last line: one JSON object."""
    fields = {
        "name": name,
        "figure": round(figure, 3),
        "against": against,
        "against_figure": round(against_figure, 3),
        "ratio": round(figure / against_figure, 3),
    }
    print(json.dumps(fields | more))


def median_pair(
    ours: Callable[[], float], theirs: Callable[[], float], *, runs: int
) -> tuple[float, float]:
    """Measure both in turn, after one warm-up each; return the two medians."""
    ours(), theirs()
    pairs = [(ours(), theirs()) for _ in range(runs)]
    return statistics.median(a for a, _ in pairs), statistics.median(b for _, b in pairs)


def free_port() -> int:
    """Return a port that nobody listens on now."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


def in_memory_folder() -> "tempfile.TemporaryDirectory[str]":
    """Return a new folder on tmpfs, so that no disk is measured."""
    return tempfile.TemporaryDirectory(prefix="run-agent-bench-", dir="/dev/shm")


@contextmanager
def replica(
    root: Path, arguments: list[str], **settings: object
) -> Iterator["subprocess.Popen[bytes]"]:
    """Run `run-agent ARGUMENTS` below `root`, its output in `root/log`; ended at the end."""
    root.mkdir(parents=True, exist_ok=True)
    environ = {"PATH": os.environ["PATH"], "LANG": "C.UTF-8", "RUN_AGENT_ROOT": str(root)}
    environ |= {"DRAIN_SECONDS": "0", "GRACE_SECONDS": "10"}
    environ |= {"HEALTH_PORT": "none", "SSH_PORT": "none"}
    environ |= {name: str(value) for name, value in settings.items()}
    with (root / "log").open("wb") as log:
        process = subprocess.Popen(
            [*RUN_AGENT, *arguments],
            env=environ,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
        try:
            yield process
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(30)


def wait_until(condition: Callable[[], object], what: str, log: Path) -> None:
    """Wait for a condition; end the benchmark with the replica's log where it never holds."""
    ends = time.monotonic() + READY_SECONDS
    while not condition():
        if time.monotonic() > ends:
            sys.exit(f"cannot wait longer for {what}:\n{log.read_text(errors='replace')}")
        time.sleep(0.002)
