"""Procfiles: a project that says itself how it is started, with a release or without one."""

import re
from pathlib import Path

SHELL = "/bin/bash"
"""Not from the PATH, which belongs to the user's configuration."""

_LINE = re.compile(r"(?P<process>[A-Za-z0-9_-]+):\s*(?P<command>.+)")


def web(tree: Path) -> str | None:
    """Return the command line of `web:` in the slug's Procfile; None without file or line."""
    try:
        text = (tree / "Procfile").read_bytes().decode(errors="surrogateescape")
    except (FileNotFoundError, IsADirectoryError):
        return None
    for line in text.splitlines():
        match = _LINE.fullmatch(line.strip())
        if match and match["process"] == "web":
            return match["command"]
    return None


def argv(line: str) -> tuple[str, ...]:
    """Return what runs a Procfile's `line`: a shell, which expands $PORT from the environment."""
    return (SHELL, "-c", line)
