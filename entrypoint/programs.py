"""The commands that sessions and the app find on their PATH: ourselves, under both names."""

import sys

from run_agent import files
from run_agent.model import Layout

NAMES = ("run-agent", "gigalixir_run")


def install(layout: Layout) -> None:
    """Write them into the run folder's `bin`; they run isolated from the app's Python, if any.

    Raises `RunAgentError` (74) where the run folder cannot be written.
    """
    script = f'#!/bin/sh\nexec "{sys.executable}" -I -m entrypoint.cli "$@"\n'
    with files.writing_run_folder(layout.run):
        layout.bin.mkdir(parents=True, exist_ok=True)
        for name in NAMES:
            files.atomic_write(layout.bin / name, script.encode(), mode=0o755)
