"""`run-agent shell [-- CMD…]`."""

import os
import signal
from collections.abc import Mapping
from typing import NoReturn

from entrypoint import launch
from entrypoint.parser import Parser, split_at_dashes
from run_agent.errors import RunAgentError
from run_agent.settings import layout_of

EXAMPLES = """\
examples:
  run-agent shell                    an interactive bash
  run-agent shell -- env             what the release sees
  run-agent shell -- bin/hello pid

It ends with CMD's own exit code; 126 and 127 are the shell's: not executable, not found.
"""


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
    saved = launch.load(layout_of(environ))
    argv = command or ("bash", "-i")
    try:
        os.chdir(saved.cwd)
        for number in (signal.SIGPIPE, signal.SIGXFSZ):
            signal.signal(number, signal.SIG_DFL)  # Python ignores them, and that is inherited
        os.execvpe(argv[0], argv, dict(saved.env))
    except OSError as error:
        code = 127 if isinstance(error, FileNotFoundError) else 126
        raise RunAgentError(
            f"cannot run {argv[0]} in {saved.cwd} ({error.strerror}); "
            "is it on the release's PATH? see `run-agent shell -- env`",
            exit_code=code,
        ) from error
