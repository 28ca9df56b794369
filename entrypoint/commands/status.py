"""`run-agent status [--json]`."""

import json
import os
from collections.abc import Iterator, Mapping
from typing import Any

from entrypoint import ask
from entrypoint.parser import Parser
from run_agent.settings import layout_of

EXAMPLES = """\
examples:
  run-agent status
  run-agent status --json | jq -r .deploy

Exit code 0 whether ready or not; 69 when nothing runs here.
"""


def main(arguments: list[str], environ: Mapping[str, str]) -> int:
    """Print what runs here."""
    parser = Parser(
        "status",
        description="Show what runs here, whether it is ready, and what it waits for.",
        examples=EXAMPLES,
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    given = parser.parse_args(arguments)
    *_, last = ask.call(layout_of(environ).control_socket, "status")
    if given.json:
        print(json.dumps(last["result"], indent=2))
    else:
        print("\n".join(_lines(last["result"])))
    return os.EX_OK


def _lines(status: Mapping[str, Any]) -> Iterator[str]:
    """Give the table for people: what is unknown is left out."""
    yield f"{status['app']}: {_state(status)}"
    rows = {
        "node": status["node"],
        "nodes": status["nodes"] and _nodes(status["nodes"]),
        "deploy": status["deploy"],
        "release": _join(status["kind"], status["version"]),
        "slug": status["digest"] and status["digest"][:12],
        "process": _process(status),
        "agent": f"pid {status['agent_pid']}",
        "ssh": status["ssh"] and _ssh(status["ssh"]),
        "pod": status["pod"] and _pod(status["pod"]),
        "change": status["change"] and _change(status["change"]),
        "last": status["last_change"] and _last(status["last_change"]),
    }
    for name, value in rows.items():
        if value:
            yield f"  {name:8} {value}"
    for wait in status["waits_for"]:
        yield f"  waits for {wait['what']} (since {wait['since']})"
    for note in status["notes"]:
        yield f"  note: {note}"


def _state(status: Mapping[str, Any]) -> str:
    if status["stopping"]:
        return "stopping"
    if status["draining"]:
        return "draining"
    return f"ready since {status['since']}" if status["ready"] else "not ready"


def _process(status: Mapping[str, Any]) -> str:
    if status["release_state"] == "running":
        return f"pid {status['release_pid']}, running since {status['release_started_at']}"
    code = status["release_exit_code"]
    ended = f", last exit code {code}" if code is not None else ""
    return f"{status['release_state']}{ended}"


def _nodes(nodes: Mapping[str, Any]) -> str:
    trouble = f"; {nodes['problem']}" if nodes["problem"] else ""
    if nodes["asked_at"] is None:
        return f"none known yet{trouble}"
    names, left_out = ", ".join(nodes["connected"]), nodes["count"] - len(nodes["connected"])
    more = f" and {left_out} more" if left_out else ""
    listed = f": {names}{more}" if names else ""
    return f"{nodes['count']} connected (asked {nodes['asked_at']}){listed}{trouble}"


def _change(change: Mapping[str, Any]) -> str:
    since = f", since {change['since']}" if change["since"] else ""
    by = f", asked for by {change['by']}" if change["by"] else ""
    step = f": {change['step']}" if change["step"] else ""
    return f"{change['what']}{since}{by}{step}"


def _last(change: Mapping[str, Any]) -> str:
    return f"{change['verb']} at {change['at']}: {change['verdict']}: {change['message']}"


def _ssh(ssh: Mapping[str, Any]) -> str:
    keys, door = ssh["keys"], ssh["door"]
    age = "never fetched" if keys["fetched_at"] is None else f"fetched {keys['age_seconds']} s ago"
    trouble = f"; {keys['problem']}" if keys["problem"] else ""
    refused = f"; sources refused for now: {door['penalised']}" if door["penalised"] else ""
    count = "1 key" if keys["keys"] == 1 else f"{keys['keys']} keys"
    return f"{door['logged_in']} logged in; {count}, {age}{trouble}{refused}"


def _pod(pod: Mapping[str, Any]) -> str:
    told = f"told at {pod['told_at']}" if pod["told_at"] else "not told yet"
    waiting = f"; {pod['waiting']} Events wait" if pod["waiting"] else ""
    trouble = f"; {pod['problem']}" if pod["problem"] else ""
    return f"{pod['pod']}, {told}{waiting}{trouble}"


def _join(*words: str | None) -> str:
    return " ".join(word for word in words if word)
