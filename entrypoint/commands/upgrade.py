"""`run-agent upgrade [VERSION]`."""

import os
import sys
from collections.abc import Mapping
from pathlib import Path

from entrypoint.commands import _changing
from entrypoint.parser import Parser
from run_agent.errors import RunAgentError

EXAMPLES = """\
examples:
  run-agent upgrade                        to the controller's current deploy
  run-agent upgrade 0.2.0                  the same, but only if that is this version
  run-agent upgrade --slug URL             to a slug that the controller knows nothing of
  run-agent upgrade --slug - < FILE        the same with a signed URL: others can read an argv
  run-agent upgrade --json | jq .verdict   for a program; the steps go to stderr

Connections stay open and processes keep their state: the slug must hold a relup from the version
that serves, and its applications appups. Nothing changes where that cannot be: then deploy it the
ordinary way, by a restart of the replica.

exit codes:
  0   done, or already there            12  failed; the old version was put back, connections
  10  refused: see why                      may have been lost
  11  failed; the old version still     13  failed, and nothing serves
      serves, and nobody noticed        14  another change is under way

With --json stdout gets one JSON object; where there is no verdict to tell, as with 14, it is
{"error": MESSAGE, "exit": CODE}.
"""


def main(arguments: list[str], environ: Mapping[str, str]) -> int:
    """Have the agent upgrade the release, and show how it goes."""
    parser = Parser(
        "upgrade",
        description="Change the running release to another version in place, without a restart.",
        examples=EXAMPLES,
    )
    parser.add_argument("version", metavar="VERSION", nargs="?", help="refuse any other version")
    parser.add_argument(
        "--slug",
        metavar="URL",
        help="take this slug: https, gs or file; - reads its URL from stdin",
    )
    parser.add_argument(
        "--force", action="store_true", help="try a slug again that has failed before"
    )
    parser.add_argument("--json", action="store_true", help="print the outcome for a program")
    given = parser.parse_args(arguments)
    slug = _from_stdin() if given.slug == "-" else given.slug
    _refuse_path(slug or "")
    return _changing.carry_out(
        environ, "upgrade", _changing.verdict, as_json=given.json,
        version=given.version, slug=slug, force=given.force,
    )  # fmt: skip


def _refuse_path(slug: str) -> None:
    if slug.startswith(("/", ".")):
        raise RunAgentError(
            f"cannot upgrade to {slug}: --slug takes a URL; give {Path(slug).absolute().as_uri()}",
            exit_code=os.EX_USAGE,
        )


def _from_stdin() -> str:
    url = sys.stdin.readline().strip()
    if not url:
        raise RunAgentError(
            "cannot upgrade to the slug that --slug - names: stdin holds no URL; write it there, "
            "as in `run-agent upgrade --slug - < FILE`",
            exit_code=os.EX_USAGE,
        )
    return url
