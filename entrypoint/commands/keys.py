"""`run-agent keys refresh`."""

import json
import os
from collections.abc import Mapping

from entrypoint import ask
from entrypoint.parser import Parser
from run_agent.settings import layout_of

EXAMPLES = """\
examples:
  run-agent keys refresh          after a key was added or removed: do not wait a minute
  run-agent keys refresh --json   the same for a program

A key that was removed, or whose options changed, loses its open sessions. Where the keys cannot
be fetched, the last good list stays in force, and this ends with 69 or 75 (no usable answer) or
77 (the controller denies it).
"""


def main(arguments: list[str], environ: Mapping[str, str]) -> int:
    """Have the agent fetch the SSH keys now, and tell what it got."""
    parser = Parser(
        "keys",
        description="Fetch the SSH keys now, instead of at the next turn (SSH_KEYS_SECONDS).",
        examples=EXAMPLES,
    )
    parser.add_argument("action", metavar="refresh", choices=["refresh"], help="fetch the keys now")
    parser.add_argument("--json", action="store_true", help="print the outcome for a program")
    given = parser.parse_args(arguments)
    *_, last = ask.call(layout_of(environ).control_socket, "keys-refresh")
    print(json.dumps(last["result"]) if given.json else _sentence(last["result"]))
    return os.EX_OK


def _sentence(state: Mapping[str, object]) -> str:
    lines = state["rejected_lines"]
    assert isinstance(lines, list)
    rejected = f" ({_count(len(lines), 'line')} rejected: {'; '.join(lines)})" if lines else ""
    return f"{_count(state['keys'], 'key')}{rejected}, fetched now"


def _count(number: object, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
