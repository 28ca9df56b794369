"""`run-agent downgrade VERSION`."""

from collections.abc import Mapping

from entrypoint.commands import _changing
from entrypoint.parser import Parser

EXAMPLES = """\
examples:
  run-agent releases          which versions the node still has
  run-agent downgrade 0.1.0   back to one of them, without a restart
  run-agent downgrade 0.1.0 --json

It goes by the relup of the version that serves, with the configuration that is in force. A new
container boots the controller's current deploy again: tell it as well.

Exit codes and --json as of `run-agent upgrade`.
"""


def main(arguments: list[str], environ: Mapping[str, str]) -> int:
    """Have the agent go back to a version, and show how it goes."""
    parser = Parser(
        "downgrade",
        description="Change the running release back to an earlier version in place.",
        examples=EXAMPLES,
    )
    parser.add_argument("version", metavar="VERSION", help="a version that the node still has")
    parser.add_argument("--json", action="store_true", help="print the outcome for a program")
    given = parser.parse_args(arguments)
    return _changing.carry_out(
        environ, "downgrade", _changing.verdict, as_json=given.json, version=given.version
    )
