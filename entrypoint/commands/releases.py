"""`run-agent releases [--json]`."""

import json
import os
from collections.abc import Iterator, Mapping
from typing import Any

from entrypoint import ask
from entrypoint.parser import Parser
from run_agent.settings import layout_of

EXAMPLES = """\
examples:
  run-agent releases
  run-agent releases --json | jq -r .serves

Of the node it shows what its release_handler says: permanent is the version that was made so once
it had proved itself, old is what `run-agent downgrade` can go back to. Which one a restart boots is
not the node's to say: of the deploys that are unpacked on the volume it is the current one.
"""


def main(arguments: list[str], environ: Mapping[str, str]) -> int:
    """Print the versions on the node, and the deploys on the volume."""
    parser = Parser(
        "releases",
        description="Show the versions that the running node has, and the deploys on the volume.",
        examples=EXAMPLES,
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    given = parser.parse_args(arguments)
    *_, last = ask.call(layout_of(environ).control_socket, "releases")
    if given.json:
        print(json.dumps(last["result"], indent=2))
    else:
        print("\n".join(_lines(last["result"])))
    return os.EX_OK


def _lines(found: Mapping[str, Any]) -> Iterator[str]:
    yield f"on {found['node']}:"
    for known in found["releases"]:
        serves = "  serves" if known["version"] == found["serves"] else ""
        yield f"  {known['name']} {known['version']:12} {known['status']:12}{serves}".rstrip()
    yield "on the volume:" if found["deploys"] else "on the volume: none"
    for deploy in found["deploys"]:
        current = "  current" if deploy["current"] else ""
        good = f"ready {deploy['good_at']}" if deploy["good_at"] else "never ready"
        named = f"deploy {deploy['deploy']}" if deploy["deploy"] else "no deploy"
        yield f"  {deploy['digest'][:12]} {deploy['version'] or '?':12} {named}, {good}{current}"
