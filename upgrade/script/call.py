"""One call of a release's script that installs a version, and what it says. No I/O."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from run_agent.redaction import redacted
from upgrade.model import Change


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
    cookie = {"ERLANG_COOKIE": change.node.cookie.reveal()}
    keep = (change.name, change.from_version, change.to_version)
    return " ".join(redacted(printed, cookie, change.env, change.env_before, keep=keep).split())
