"""`run-agent shell [-- CMD…]`."""

import os
from collections.abc import Mapping
from pathlib import Path, PurePath
from typing import NoReturn

import run_agent
from entrypoint.parser import Parser, split_at_dashes
from entrypoint.session import BASH, Session, become, open_session

EXAMPLES = """\
examples:
  run-agent shell                    an interactive bash; it reads what an SSH session's does
  run-agent shell -- env             what the release sees
  run-agent shell -- bin/hello pid
  run-agent shell -- 'ls | wc -l'    a line for bash

It ends with CMD's own exit code; 126 and 127 are the shell's: not executable, not found.
"""

START_UP = Path(run_agent.__file__).parent / "ssh" / "daemon" / "sessions" / "shell" / "bashrc"
"""What bash reads in an SSH session as well."""


def main(arguments: list[str], environ: Mapping[str, str]) -> NoReturn:
    """Become the command."""
    parser = Parser(
        "shell",
        description="Run a command with the environment that the release was started with, in the "
        "app folder.",
        examples=EXAMPLES,
    )
    parser.usage = "run-agent shell [-h] [-- CMD…]"
    ours, command = split_at_dashes(arguments)
    parser.parse_args(ours)
    session = open_session(environ)
    if not command:
        _become_shell(session)
    if PurePath(command[0]).parts[-2:] == ("bin", session.env.get("GIGALIXIR_APP_NAME")):
        _take_turns(session, command)
    become(session.argv_of(command), session)


def _become_shell(session: Session) -> NoReturn:
    if not os.isatty(0):
        become((BASH,), session)
    named = session.with_env({"PWD": str(session.cwd)})  # or bash would show where its links lead
    become((BASH, "--rcfile", str(START_UP), "-i"), named)


def _take_turns(session: Session, command: tuple[str, ...]) -> None:
    """Let the release's script finish another call first, as `gigalixir ps:distillery` needs it."""
    from entrypoint import running  # noqa: PLC0415 - most shells do without, and start sooner

    if (here := running.find_any(session)) is not None:
        here.take_turns(command[1:])
