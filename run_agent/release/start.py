"""What starts the app: a given command, the Procfile's `web:` line, or the release itself.

Chooses and explains; spawns nothing.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from run_agent.errors import RunAgentError
from run_agent.release import Release, procfile

OWN_START = frozenset({"foreground", "start"})
"""Given alone these are no programs, but what existing pod specs say for "as it starts itself"."""


@dataclass(frozen=True, slots=True)
class Start:
    """The command that is the app. `model.Launch` tells what `stop_group` means."""

    argv: tuple[str, ...]
    stop_group: bool


def choose(release: Release, folder: Path, command: Sequence[str] = ()) -> Start:
    """Return what starts the app: `command` where given, else `web:`, else the release.

    `folder` is the app folder by whose name the release is started, so that a start in place
    boots what is current then. Raises `RunAgentError` (65, or 78 where the name or the volume is
    wrong) if nothing in the slug can be started, and says what is there.
    """
    if command and not _is_own_start(command):
        return Start(tuple(command), stop_group=True)
    if (line := procfile.web(release.tree)) is not None:
        return Start(procfile.argv(line), stop_group=True)
    if release.tool is None or release.script is None:
        _refuse(release)
    if os.statvfs(release.script).f_flag & os.ST_NOEXEC:
        raise RunAgentError(
            f"cannot start the slug at {release.tree}: nothing may be executed there, as the "
            "volume is mounted noexec; mount it with exec",
            exit_code=os.EX_CONFIG,
        )
    if not os.access(release.script, os.X_OK):
        raise RunAgentError(
            f"cannot start the slug at {release.tree}: bin/{release.name} is not executable; "
            "build it with its mode kept (chmod +x), and pack it so",
            exit_code=os.EX_DATAERR,
        )
    return Start((str(folder / "bin" / release.name), release.tool.start), stop_group=False)


def own_command(release: Release, command: Sequence[str] = ()) -> str:
    """Return `GIGALIXIR_COMMAND`: what a Procfile's line hands to `bin/$GIGALIXIR_APP_NAME`."""
    if release.tool is not None and (not command or _is_own_start(command)):
        return release.tool.start
    return " ".join(command)


def _is_own_start(command: Sequence[str]) -> bool:
    return len(command) == 1 and command[0] in OWN_START


def _refuse(release: Release) -> NoReturn:
    tree, name = release.tree, release.name
    if (tree / "Procfile").exists():
        reason = "its Procfile has no web line; add one, as in `web: mix phx.server`"
    elif (tree / "bin").is_dir():
        reason = (
            f"bin/{name} is missing; its scripts are {_scripts(release)}: set customer_app_name "
            "to the name of the release"
        )
        raise RunAgentError(f"cannot start the slug at {tree}: {reason}", exit_code=os.EX_CONFIG)
    else:
        reason = (
            "it has neither bin/ nor a Procfile; build a release (mix release, rebar3 release) "
            "and pack what is in its folder, or add a Procfile with a web line"
        )
    raise RunAgentError(f"cannot start the slug at {tree}: {reason}", exit_code=os.EX_DATAERR)


def _scripts(release: Release) -> str:
    """Name what could have been meant; the tools' own programs beside it are none of it."""
    names = {path.name for path in (release.tree / "bin").iterdir() if path.is_file()}
    plain = {name for name in names if "." not in name and name != "nodetool"}
    versioned = {name for name in plain if name.endswith(f"-{release.version}")}
    return ", ".join(sorted(plain - versioned)) or "none"
