"""`run-agent reconfigure [--dry-run]`."""

from collections.abc import Iterator, Mapping
from typing import Any

from entrypoint.commands import _changing
from entrypoint.parser import Parser

EXAMPLES = """\
examples:
  run-agent reconfigure --dry-run   which variables would change
  run-agent reconfigure             takes the controller's current configuration
  run-agent reconfigure --json | jq .applications

The variables that changed are set in the running node, the release's configuration is computed
again (runtime.exs and other providers, ${NAME} in sys.config), and each application of which keys
changed is told by its config_change/3. Values are never shown. If one of them cannot be used,
nothing changes. Later sessions, jobs and restarts get the new configuration.

With --dry-run the node and what later starts get stay as they are. Only, as at every start, the
scripts in .profile.d are run to compute the new environment, and our files for the start in the
run folder (vm.args) are written again, with the same content.

What an application has read once at its start (a listener's PORT, a pool's size) stays as it was
unless its config_change/3 sees to it; what is read by the start of the VM (vm.args, env.sh) is
named, and wants a restart.

Exit code 0 done or nothing to do, 10 refused, 11 failed and nothing changed, 12 failed and an
application did not take its old configuration back, 13 the node fell silent over it, 14 while
another change is under way. With --json stdout gets one JSON object; that of an error is
{"error": MESSAGE, "exit": CODE}.
"""


def main(arguments: list[str], environ: Mapping[str, str]) -> int:
    """Have the agent take the current configuration, and show which names changed."""
    parser = Parser(
        "reconfigure",
        description="Take the controller's current configuration into the running node.",
        examples=EXAMPLES,
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="only show which variables would change"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    given = parser.parse_args(arguments)
    return _changing.carry_out(
        environ, "reconfigure", _lines, as_json=given.json, dry_run=given.dry_run
    )


def _lines(result: Mapping[str, Any]) -> Iterator[str]:
    if not result["set"] and not result["unset"]:
        yield "nothing to do: the configuration has not changed"
        return
    would = "would be " if result["dry_run"] else ""
    for what in ("set", "unset"):
        if result[what]:
            yield f"{would}{what}: {', '.join(result[what])}"
    for name, keys in result["applications"].items():
        yield f"changed in {name}: {', '.join(keys)}"
    if result["restart"]:
        yield f"take effect at a restart only: {', '.join(result['restart'])}"
    if not result["dry_run"] and not result["applications"]:
        yield "no application's configuration depends on it; what one read at its start stays"
