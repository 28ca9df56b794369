"""`run-agent distillery_job [--app APP] [--] COMMAND [ARGUMENTS…]`."""

from collections.abc import Mapping
from typing import NoReturn

from entrypoint.commands.job import become_job
from entrypoint.orders import DISTILLERY_JOB
from entrypoint.parser import Parser

EXAMPLES = """\
examples:
  run-agent distillery_job --app hello -- command Elixir.Hello.Release migrate
  APP_NAME=hello run-agent distillery_job eval 'Hello.Release.migrate()'

The same as `run-agent job -- bin/NAME COMMAND ARGUMENTS…`, where NAME is what the controller calls
customer_app_name. It works for every release tool whose script knows COMMAND. See `run-agent job
--help` for the rest.
"""


def main(arguments: list[str], environ: Mapping[str, str]) -> NoReturn:
    """Become PID 1 of a job that is a command of the release's script."""
    parser = Parser(
        DISTILLERY_JOB,
        description="Run one command of the release's own script, in a container of its own.",
        examples=EXAMPLES,
    )
    parser.usage = "run-agent distillery_job [-h] [--app APP] [--] COMMAND [ARGUMENTS…]"
    become_job(DISTILLERY_JOB, parser, arguments, environ)
