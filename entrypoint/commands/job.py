"""`run-agent job [--app APP] [--] CMD…`."""

import argparse
from collections.abc import Mapping
from typing import NoReturn

from entrypoint.orders import JOB, Orders
from entrypoint.parser import Parser
from entrypoint.supervise import become_pid1

EXAMPLES = """\
examples:
  run-agent job --app hello -- bin/hello eval 'Hello.Release.migrate()'
  run-agent job --app hello -- 'ls lib | wc -l'  a line for bash
  APP_NAME=hello run-agent job mix help
  JOB_TIMEOUT_SECONDS=3600 run-agent job --app hello -- bin/import

Without --app the app is what APP_NAME says, or else REPO. CMD gets the environment that the release
would get, with a node name of its own, and our stdin, stdout and stderr. It may run for
JOB_TIMEOUT_SECONDS (300); then its process group gets TERM, and KILL at the end of GRACE_SECONDS.

It ends with CMD's own exit code (128+n for signal n), with 124 at the time limit, and where the
deploy cannot be booted with the same codes as init. There is no SSH, and no port for probes unless
HEALTH_PORT is set. A job is a container of its own; beside a release that runs use `run-agent run`.
"""

OF_A_JOB = {
    "CLUSTER_MIN": "1", "DRAIN_SECONDS": "0", "FOLLOW": "none", "READY_CHECK": "none",
    "RESTART": "never", "SSH_PORT": "none",
}  # fmt: skip
"""Settings that make no sense for what is to end: they are often those of the app's replicas."""


def main(arguments: list[str], environ: Mapping[str, str]) -> NoReturn:
    """Become PID 1 of a job."""
    parser = Parser(
        JOB,
        description="Run one command on the app's current deploy, in a container of its own: fetch "
        "the slug as init does, run CMD in the app folder, and end with its exit code.",
        examples=EXAMPLES,
    )
    parser.usage = "run-agent job [-h] [--app APP] [--] CMD…"
    become_job(JOB, parser, arguments, environ)


def become_job(
    verb: str, parser: Parser, arguments: list[str], environ: Mapping[str, str]
) -> NoReturn:
    """Become PID 1 of a job of that kind; what `parser` already takes is left to it."""
    parser.add_argument("--app", metavar="APP", help="the app's name, if not in the environment")
    parser.add_argument("command", metavar="CMD", nargs=argparse.REMAINDER, help="what is run")
    given = parser.parse_args(arguments)
    command = tuple(given.command[1:] if given.command[:1] == ["--"] else given.command)
    app = given.app or environ.get("APP_NAME") or environ.get("REPO")
    if not command:
        parser.error("CMD is missing")
    if not app:
        parser.error("the app is missing: give --app APP, or set APP_NAME")
    environ = {**environ, **OF_A_JOB, "HEALTH_PORT": environ.get("HEALTH_PORT") or "none"}
    become_pid1(Orders(verb, app, command), environ, needs_controller=True)
