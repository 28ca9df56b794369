"""`run-agent migrate [-m NAME]`."""

import json
import sys
from collections.abc import Iterable, Mapping
from typing import Any

from entrypoint import ask
from entrypoint.parser import Parser
from run_agent.errors import RunAgentError
from run_agent.settings import layout_of

EXAMPLES = """\
examples:
  run-agent migrate                 the app that the release is named for
  run-agent migrate -m accounts     another one of the release, as in an umbrella project
  run-agent migrate --json | jq     {"app": "accounts", "exit": 0, "versions": […], …}

The migrations run on the node that serves, with its connection to the database: the first of
the app's `ecto_repos`, all files in its priv/repo/migrations, or what the controller says instead.
What they print goes to stdout; what they log goes to the app's own log.

Exit code 0 if all are done or none was pending, 1 if one fails (the reason is on stderr), 10 if
nothing can be changed now (no release runs, or it is stopping), 14 while another change of the
release is under way, 65 if the app has no repos, 69 if the node is down.

Who interrupts this command does not interrupt the migration: the agent sees it to its end, and logs
it.
"""


def main(arguments: list[str], environ: Mapping[str, str]) -> int:
    """Have the agent migrate, and show what that prints."""
    parser = Parser(
        "migrate",
        description="Run the pending Ecto migrations on the running node.",
        examples=EXAMPLES,
    )
    parser.add_argument(
        "-m",
        "--migration_app_name",
        "--migration-app-name",
        metavar="NAME",
        dest="name",
        help="the application whose migrations run (default: the release's name)",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object at the end")
    given = parser.parse_args(arguments)
    answers = ask.call(layout_of(environ).control_socket, "migrate", name=given.name)
    if given.json:
        return _print_object(answers, given.name)
    for answer in answers:
        if "progress" in answer:
            stream = sys.stderr if answer["progress"]["stream"] == "stderr" else sys.stdout
            print(answer["progress"]["text"], file=stream, flush=True)
        else:
            print(answer["result"]["message"], file=sys.stderr)
            return int(answer["exit"])
    raise AssertionError("an answer without an end")


def _print_object(answers: Iterable[Mapping[str, Any]], name: str | None) -> int:
    """Print one object, whether it succeeded or not; the lines of both outputs are in `output`."""
    output: list[str] = []
    try:
        for answer in answers:
            if "progress" in answer:
                output.append(answer["progress"]["text"])
            else:
                outcome, code = dict(answer["result"]), int(answer["exit"])
    except RunAgentError as error:
        outcome, code = {"app": name, "error": str(error)}, error.exit_code
    print(json.dumps({**outcome, "exit": code, "output": output}))
    return code
