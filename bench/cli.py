"""`run-agent shell -- true`, next to the bare interpreter it starts in. Goal: at most 120 ms."""

import os
import subprocess
import sys
import time
from pathlib import Path

from _figures import RUN_AGENT, in_memory_folder, median_pair, replica, report, wait_until

GOAL_MS = 120
RUNS = 40


def main() -> None:
    """Measure both in turn against a replica that really runs."""
    with in_memory_folder() as folder:
        root = Path(folder)
        with replica(root, ["exec", "--", "sleep", "600"]):
            saved = root / "run/run-agent/environment.json"
            wait_until(saved.exists, "the environment of the release", root / "log")
            environ = os.environ | {"RUN_AGENT_ROOT": str(root)}
            ours, theirs = median_pair(
                lambda: _milliseconds([*RUN_AGENT, "shell", "--", "true"], environ),
                lambda: _milliseconds([sys.executable, "-I", "-c", "pass"], environ),
                runs=RUNS,
            )
    report("cli", ours, "python -I -c pass", theirs, unit="ms", goal=f"<= {GOAL_MS} ms")


def _milliseconds(argv: list[str], environ: dict[str, str]) -> float:
    began = time.perf_counter()
    subprocess.run(argv, env=environ, check=True)
    return (time.perf_counter() - began) * 1000


if __name__ == "__main__":
    main()
