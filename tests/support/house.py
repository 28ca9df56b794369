"""What the tests of the house's own rules share."""

from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGES = ("entrypoint", "run_agent", "upgrade")

COSTLY_FOR_PID_1 = frozenset(
    {
        "argparse",
        "asyncio",
        "contextlib",
        "dataclasses",
        "inspect",
        "logging",
        "pathlib",
        "subprocess",
        "typing",
    }
)
"""Modules of the standard library that cost PID 1 more memory than they save lines."""
