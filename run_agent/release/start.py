"""What starts the app: a given command, the Procfile's `web:` line, or the release itself.

Chooses and explains; spawns nothing.
"""

import filecmp
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from run_agent.errors import RunAgentError
from run_agent.release import Kind, Release, procfile

OWN_START = frozenset({"foreground", "start"})
"""Given alone these are no programs, but what existing pod specs say for "as it starts itself"."""


@dataclass(frozen=True, slots=True)
class Start:
    """The command that is the app. `model.Launch` tells what `stop_group` means."""

    argv: tuple[str, ...]
    stop_group: bool


def choose(
    release: Release, folder: Path, command: Sequence[str] = (), *, named_by: str | None = None
) -> Start:
    """Return what starts the app: `command` where given, else `web:`, else the release.

    `folder` is the app folder by whose name the release is started, so that a start in place
    boots what is current then. `named_by` is the verb that was given the release's name; none
    where the controller told it. Raises `RunAgentError` (65, or 78 where the name or the volume is
    wrong) if nothing in the slug can be started, and says what is there.
    """
    if command and not _is_own_start(command):
        return Start(tuple(command), stop_group=True)
    if (line := procfile.web(release.tree)) is not None:
        return Start(procfile.argv(line), stop_group=True)
    if release.tool is None or release.script is None:
        _refuse(release, named_by)
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
    return Start((str(folder / "bin" / _script(release)), release.tool.start), stop_group=False)


def _script(release: Release) -> str:
    """Return the script's name: the version's own where the plain one boots another.

    relx writes the version into its script. An upgrade in place leaves that as it was, and adds
    the new version's beside it.
    """
    plain = release.tree / "bin" / release.name
    versioned = plain.with_name(f"{release.name}-{release.version}")
    if release.kind is not Kind.RELX or not versioned.exists():
        return plain.name
    return plain.name if filecmp.cmp(plain, versioned, shallow=False) else versioned.name


def own_command(release: Release, command: Sequence[str] = ()) -> str:
    """Return `GIGALIXIR_COMMAND`: what a Procfile's line hands to `bin/$GIGALIXIR_APP_NAME`."""
    if release.tool is not None and (not command or _is_own_start(command)):
        return release.tool.start
    return " ".join(command)


def _is_own_start(command: Sequence[str]) -> bool:
    return len(command) == 1 and command[0] in OWN_START


def _refuse(release: Release, named_by: str | None) -> NoReturn:
    tree, name = release.tree, release.name
    if (tree / "Procfile").exists():
        reason = "its Procfile has no web line; add one, as in `web: mix phx.server`"
    elif (tree / "bin").is_dir():
        scripts = _scripts(release)
        rename = "set customer_app_name to the name of the release"
        if named_by is not None:
            rename = f"start it as `{named_by} {scripts[0] if len(scripts) == 1 else 'NAME'}`"
        among = ", ".join(scripts) or "none"
        reason = f"bin/{name} is missing; its scripts are {among}: {rename}"
        raise RunAgentError(f"cannot start the slug at {tree}: {reason}", exit_code=os.EX_CONFIG)
    else:
        reason = (
            "it has neither bin/ nor a Procfile; build a release (mix release, rebar3 release) "
            "and pack what is in its folder, or add a Procfile with a web line"
        )
    raise RunAgentError(f"cannot start the slug at {tree}: {reason}", exit_code=os.EX_DATAERR)


def _scripts(release: Release) -> list[str]:
    """Name what could have been meant; the tools' own programs beside it are none of it."""
    names = {path.name for path in (release.tree / "bin").iterdir() if path.is_file()}
    plain = {name for name in names if "." not in name and name != "nodetool"}
    versioned = {name for name in plain if name.endswith(f"-{release.version}")}
    return sorted(plain - versioned)
