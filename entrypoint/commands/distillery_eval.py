"""`run-agent distillery_eval EXPR`."""

from collections.abc import Mapping
from pathlib import Path
from typing import NoReturn

from entrypoint import running
from entrypoint.parser import Parser, split_at_dashes
from entrypoint.session import BASH, become, open_session
from run_agent.release import procfile

EXAMPLES = """\
examples:
  run-agent distillery_eval 'Node.self()'         mix release, Distillery 2.x, mix project
  run-agent distillery_eval 'erlang:get_cookie()' Distillery 1.x, relx

The result alone goes to stdout, as the release tool prints it: by IO.inspect, which cuts lists at
50 items, or by ~p. An error goes to stderr, and the exit code is not 0; 69 if the node is down.
"""

SORT_OUTPUT = str(Path(__file__).with_name("distillery_eval.bash"))


def main(arguments: list[str], environ: Mapping[str, str]) -> NoReturn:
    """Become the release tool's evaluation, behind a script that sorts its output."""
    parser = Parser(
        "distillery_eval",
        description="Evaluate an expression on the running node: Elixir, or Erlang where the "
        "release was built by relx or Distillery 1.x.",
        examples=EXAMPLES,
    )
    parser.usage = "run-agent distillery_eval [-h] [--] EXPR"
    ours, words = split_at_dashes(arguments)
    parser.parse_args(ours)
    expression = " ".join(words)
    if not expression.strip():
        parser.error("EXPR is missing")
    here = running.find(open_session(environ))
    here.distribution_port()
    tool = here.release.tool
    if tool is not None:
        command = tool.show(expression)
        here.take_turns(command)
        session, argv = here.session.with_env(tool.show_env), (here.script, *command)
    else:
        session, name = here.without_release()
        argv = procfile.show(here.node, name, expression)
    become((BASH, SORT_OUTPUT, *argv), session)
