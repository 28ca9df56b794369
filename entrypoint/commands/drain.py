"""`run-agent drain [--undo]`."""

import json
import os
from collections.abc import Mapping

from entrypoint import ask
from entrypoint.parser import Parser
from run_agent.settings import layout_of

EXAMPLES = """\
examples:
  run-agent drain          /readyz says 503 from now on; connections go on
  run-agent drain --undo   back in service
"""


def main(arguments: list[str], environ: Mapping[str, str]) -> int:
    """Change whether the replica counts as ready."""
    parser = Parser(
        "drain",
        description="Take this replica out of service without stopping it: load balancers send "
        "it nothing new, what is connected stays.",
        examples=EXAMPLES,
    )
    parser.add_argument("--undo", action="store_true", help="put it back into service")
    parser.add_argument("--json", action="store_true", help="print the state for a program")
    given = parser.parse_args(arguments)
    *_, last = ask.call(layout_of(environ).control_socket, "drain", undo=given.undo)
    state = last["result"]
    if given.json:
        print(json.dumps(state))
    else:
        print("draining: not ready from now on" if state["draining"] else "back in service")
    return os.EX_OK
