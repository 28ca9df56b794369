"""One call of a release's script that installs a version, and what it says. No I/O."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from upgrade.model import Change

MOST_CHARACTERS = 600
"""How much of what the script said an error shows: an Erlang reason may have pages."""

SHORTEST_SECRET = 6
"""A value of fewer characters is in every other word, and guessed anyway."""

NO_SECRETS = frozenset(
    {
        "APP_NAME", "BINDIR", "GIGALIXIR_APP_NAME", "GIGALIXIR_COMMAND", "HOME", "HOSTNAME",
        "LC_ALL", "MY_NODE_NAME", "MY_POD_IP", "PATH", "PWD", "RELEASE_NODE", "RUN_AGENT_ROOT",
        "VMARGS_PATH",
    }
)  # fmt: skip
"""Variables whose values a reader of an error needs."""

_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|[\x00-\x08\x0b-\x1f\x7f]")


@dataclass(frozen=True, slots=True)
class Call:
    """How a tool's script is called so that it installs a version.

    `configuration` returns, once the script has run, the sys.config that must then be in force;
    none where that cannot be told.
    """

    argv: tuple[str, ...]
    env: Mapping[str, str] = field(repr=False)
    configuration: Callable[[], Path | None] = field(repr=False)


def words(printed: str, change: Change) -> str:
    """Return what a script printed, on one line: no colours, none of our secrets, not too much."""
    secrets = {
        value
        for env in (change.env, change.env_before)
        for name, value in env.items()
        if name not in NO_SECRETS and len(value) >= SHORTEST_SECRET
    } | {change.node.cookie.reveal()}
    plain = _ESCAPES.sub("", printed)
    for secret in sorted(secrets, key=len, reverse=True):
        plain = plain.replace(secret, "***")
    line = " ".join(plain.split())
    if len(line) <= MOST_CHARACTERS:
        return line
    half = MOST_CHARACTERS // 2
    return f"{line[:half]} … {line[-half:]}"
