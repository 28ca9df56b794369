"""`run-agent run CMD…`."""

from collections.abc import Mapping
from typing import NoReturn

from entrypoint import running
from entrypoint.parser import Parser, split_at_dashes
from entrypoint.session import become, open_session
from run_agent.release import Release

EXAMPLES = """\
examples:
  run-agent run ping                      bin/NAME ping, where the release's script knows it
  run-agent run migrate                   a command that the release's builder has added
  run-agent run mix ecto.migrate          any other program
  run-agent run 'cd priv && ls | wc -l'   a line for bash

It ends with the command's own exit code. `run-agent shell -- CMD` never asks the release's script.
Calls of Distillery's script that disturb each other wait for each other.
"""


def main(arguments: list[str], environ: Mapping[str, str]) -> NoReturn:
    """Become the command."""
    parser = Parser(
        "run",
        description="Run a command of the release's script, or else a shell command, with the "
        "release's environment, in the app folder.",
        examples=EXAMPLES,
    )
    parser.usage = "run-agent run [-h] [--] CMD…"
    ours, command = split_at_dashes(arguments)
    parser.parse_args(ours)
    if not command:
        parser.error("CMD is missing")
    session = open_session(environ)
    here = running.find_any(session)
    if here is not None and knows(here.release, command[0]):
        here.take_turns(command)
        become((here.script, *command), session)
    become(session.argv_of(command), session)


def knows(release: Release, command: str) -> bool:
    """Tell whether the release's script has this command."""
    tool = release.tool
    if tool is None or release.script is None:
        return False
    return command in tool.commands or command in tool.added(
        release.tree, release.name, release.version
    )
