"""What a verb needs that becomes another program: the release's environment, and the way there.

The same from an SSH session, from `kubectl exec` and from a script: what the release was started
with is read from the run folder. Imports little, since `run-agent shell` is a shell's start.
"""

import os
import shutil
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NoReturn

from entrypoint import launch as launches
from run_agent import oom
from run_agent.errors import RunAgentError
from run_agent.model import Layout
from run_agent.session_path import session_path
from run_agent.settings import layout_of

CALLERS_OWN = frozenset(
    {
        "TERM",
        "COLORTERM",
        "RUN_AGENT_SESSION",
        "RUN_AGENT_START_UP_FILES",
        "SSH_CLIENT",
        "SSH_CONNECTION",
        "SSH_ORIGINAL_COMMAND",
        "SSH_TTY",
    }
)
"""Variables of whoever calls that the release's environment must not hide: the terminal, and by
what PID 1 knows the processes of an SSH session."""

BASH = "/bin/bash"
"""Not from the PATH, which belongs to the user's configuration."""


@dataclass(frozen=True, slots=True)
class Session:
    """Where and with which variables a program runs beside the release."""

    layout: Layout
    cwd: Path
    env: Mapping[str, str] = field(repr=False)

    def with_env(self, variables: Mapping[str, str]) -> "Session":
        """Return the session with more variables."""
        return replace(self, env={**self.env, **variables})

    def argv_of(self, command: Sequence[str]) -> tuple[str, ...]:
        """Return what runs a command that a person typed, or a client that has quoted it once.

        That is a program and its arguments, a line for bash, or one of bash's own commands.
        """
        if shutil.which(self._seen_from_cwd(command[0]), path=self.env["PATH"]):
            return tuple(command)
        if len(command) == 1:
            return (BASH, "-c", command[0])
        return (BASH, "-c", '"$@"', BASH, *command)

    def _seen_from_cwd(self, program: str) -> str:
        return str(self.cwd / program) if "/" in program else program


def open_session(environ: Mapping[str, str]) -> Session:
    """Read what the release was started with; raises as `launch.load`."""
    layout = layout_of(environ)
    saved = launches.load(layout)
    kept = {name: environ[name] for name in CALLERS_OWN & environ.keys()}
    path = session_path(saved.env.get("PATH"), layout)
    return Session(layout, saved.cwd, {**saved.env, **kept, "PATH": path})


def become(argv: tuple[str, ...], session: Session) -> NoReturn:
    """Replace this process by a program, which is looked for on the session's PATH.

    Raises `RunAgentError` with the shell's exit codes: 127 not found, 126 not executable.
    """
    try:
        os.chdir(session.cwd)
        for number in (signal.SIGPIPE, signal.SIGXFSZ):
            signal.signal(number, signal.SIG_DFL)  # Python ignores them, and that is inherited
        oom.volunteer()
        os.execvpe(argv[0], argv, dict(session.env))
    except OSError as error:
        code = 127 if isinstance(error, FileNotFoundError) else 126
        raise RunAgentError(
            f"cannot run {argv[0]} in {session.cwd} ({error.strerror}); "
            "is it on the release's PATH? see `run-agent shell -- env`",
            exit_code=code,
        ) from error
