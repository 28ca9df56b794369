"""`run-agent settings [WORD] [--json]`."""

import json
import os
import sys
import textwrap
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from entrypoint import ask
from entrypoint.parser import COLUMNS, Parser
from run_agent import settings
from run_agent.errors import RunAgentError

EXAMPLES = """\
examples:
  run-agent settings
  run-agent settings ssh
  run-agent settings --json | jq -r '.settings[] | select(.value) | .name'

Of the replica that runs here it shows what that was started with. Where none runs it shows what
this command's own environment would start, and ends with 78 if that cannot.
"""

INDENT = "    "


def main(arguments: list[str], environ: Mapping[str, str]) -> int:
    """Print the settings. Raises `SettingsError` where nothing runs, and could not either."""
    parser = Parser(
        "settings",
        description="Show every setting: what it is here, its default, and what it does. "
        "A secret is shown as ***.",
        examples=EXAMPLES,
    )
    parser.add_argument("word", metavar="WORD", nargs="?", default="", help="part of the name")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    given = parser.parse_args(arguments)
    running = _of_the_replica(environ)
    rows = [asdict(row) for row in settings.shown(environ)] if running is None else running
    _print(
        [row for row in rows if given.word.upper() in row["name"]], given.word, as_json=given.json
    )
    if running is None:
        print("run-agent: nothing runs here; this is what the environment says", file=sys.stderr)
        settings.load(environ)
    return os.EX_OK


def _of_the_replica(environ: Mapping[str, str]) -> list[dict[str, Any]] | None:
    """Ask what runs here; None where nothing does."""
    try:
        *_, last = ask.call(settings.layout_of(environ).control_socket, "settings")
    except ask.NothingRunsError:
        return None
    return list(last["result"]["settings"])


def _print(rows: list[dict[str, Any]], word: str, *, as_json: bool) -> None:
    if not rows:
        raise RunAgentError(
            f"cannot find a setting with {word!r} in its name; leave the word out to see all",
            exit_code=os.EX_USAGE,
        )
    if as_json:
        print(json.dumps({"settings": rows}, indent=2))
    else:
        print("\n\n".join(_paragraph(row) for row in rows))


def _paragraph(row: Mapping[str, Any]) -> str:
    value, default = row["value"], row["default"]
    if value is None:
        head = f"{row['name']}={default}" if default else f"{row['name']} is not set"
    elif default is None or value == default:
        head = f"{row['name']}={value}"
    else:
        head = f"{row['name']}={value} (default {default})"
    what = textwrap.fill(
        row["what"], COLUMNS, initial_indent=INDENT, subsequent_indent=INDENT,
        break_long_words=False, break_on_hyphens=False,
    )  # fmt: skip
    return f"{head}\n{what}"
