"""The slug's `.profile.d/*.sh`: what buildpacks want set before the app starts.

Sourced by bash, in the order of their names, once per start. Owns how an environment gets into
bash and out again, byte for byte.
"""

import logging
import os
import re
from collections.abc import Mapping
from pathlib import Path

from run_agent import process
from run_agent.errors import RunAgentError
from run_agent.redaction import redacted_end
from run_agent.release.procfile import SHELL

DEADLINE_SECONDS = 60.0
"""Scripts set variables; one that waits for the network this long will hardly succeed."""

BASH_OWN = frozenset({"_", "SHLVL", "PWD", "OLDPWD"})
"""What bash itself sets; these stay as they were."""

PROGRAM = Path(__file__).with_name("profile_d.bash")

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")

log = logging.getLogger(__name__)


async def source(
    tree: Path, env: Mapping[str, str], *, deadline: float = DEADLINE_SECONDS
) -> dict[str, str]:
    """Return `env` as the slug's scripts leave it; unchanged where it has none.

    A script ends with a failure only if it leaves the shell (`exit`, or a failing command under
    `set -e`) or cannot be parsed: as in a login shell, its last command's status means nothing.
    What it prints is logged, with names in the place of the values of `env`, and what it leaves
    running in the background is ended.
    Raises `RunAgentError` (65) with the script's last output, or (75) past the deadline.
    """
    scripts = _scripts(tree)
    if not scripts:
        return dict(env)
    argv = (SHELL, str(PROGRAM), *scripts)
    try:
        ended = await process.run(argv, deadline=deadline, env=env, cwd=tree)
    except RunAgentError as error:
        raise RunAgentError(
            f"cannot source the slug's {' or '.join(scripts)}: {error}",
            exit_code=error.exit_code,
        ) from error
    started, variables = _parse(ended.stdout)
    if variables is None:
        raise RunAgentError(
            f"cannot source the slug's {started}: it ended the shell with exit code {ended.code}; "
            f"correct it or remove it. Its last output: {_shown(ended.stderr, env)}",
            exit_code=os.EX_DATAERR,
        )
    if ended.stderr:
        log.info("%s printed: %s", ", ".join(scripts), _shown(ended.stderr, env))
    return _merged(env, variables)


def _scripts(tree: Path) -> list[str]:
    """List them in the order of their bytes, which no locale changes."""
    found = (path for path in (tree / ".profile.d").glob("*.sh") if path.is_file())
    return [f".profile.d/{path.name}" for path in sorted(found, key=os.fsencode)]


def _parse(captured: bytes) -> tuple[str, dict[str, str] | None]:
    """Read what `profile_d.bash` wrote: the last script it began, and the variables at the end."""
    _, *items = captured.split(b"\0")  # what a BASH_ENV file printed comes before the first
    started = "BASH_ENV file"
    variables: dict[str, str] | None = None
    for item in items[:-1]:
        kind, _, text = os.fsdecode(item).partition(" ")
        if kind == "script":
            started = text
        elif kind == "end":
            variables = {}
        elif variables is not None:
            name, _, value = text.partition("=")
            variables[name] = value
    return started, variables


def _merged(env: Mapping[str, str], variables: Mapping[str, str]) -> dict[str, str]:
    """Take over what the scripts exported and unset; keep what is not theirs to set."""
    kept = {
        name: value
        for name, value in env.items()
        if name in BASH_OWN or not _NAME.fullmatch(name)  # bash hands these on, unseen
    }
    exported = {name: value for name, value in variables.items() if name not in BASH_OWN}
    return exported | kept


def _shown(printed: bytes, env: Mapping[str, str]) -> str:
    return redacted_end(printed, env) or "(none)"  # bash itself quotes a value that it cannot use
