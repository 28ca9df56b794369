"""Procfiles: a project that says itself how it is started, with a release or without one."""

import re
from pathlib import Path

from run_agent.release.tool import inspected

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


def console(node: str, own: str) -> tuple[str, ...]:
    """Return what opens a console on `node` from a hidden node named `own`, without a release.

    The cookie comes from the home folder (`run_agent.erl_home`).
    """
    return ("iex", *_hidden(own), "--remsh", node)


def show(node: str, own: str, elixir: str) -> tuple[str, ...]:
    """Return what evaluates Elixir on `node` and prints the value; the rest as for a console."""
    return ("elixir", *_hidden(own), "--rpc-eval", node, inspected(elixir))


def _hidden(name: str) -> tuple[str, ...]:
    """Name a node that no other one sees, neither directly nor through epmd (OTP 23 and later)."""
    return ("--hidden", "--name", name, "--erl", "-dist_listen false")
