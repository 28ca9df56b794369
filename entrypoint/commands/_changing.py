"""How the verbs that change the running release show their progress and their verdict."""

import json
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from entrypoint.ask import call
from run_agent.settings import layout_of


def ask(
    environ: Mapping[str, str], verb: str, *, as_json: bool, **arguments: object
) -> tuple[Mapping[str, Any], int]:
    """Have the agent carry out `verb`, show its steps on stderr; return the result and the code."""
    with_terminal = sys.stderr.isatty()
    for answer in call(layout_of(environ).control_socket, verb, **arguments):
        if "result" in answer:
            if with_terminal:
                _draw("")
            return answer["result"], int(answer["exit"])
        if step := answer["progress"].get("step"):
            if with_terminal and not as_json:
                _draw(step)
            else:
                print(step, file=sys.stderr, flush=True)
    raise AssertionError("a call ends with its result, or raises")


def show(outcome: Mapping[str, Any], *, as_json: bool) -> None:
    """Print how a change ended: the verdict is the last line."""
    if as_json:
        print(json.dumps(outcome))
        return
    for note in outcome["notes"]:
        print(f"note: {note}", file=sys.stderr, flush=True)
    print("\n".join(_verdict(outcome)))


def _verdict(outcome: Mapping[str, Any]) -> Iterator[str]:
    yield f"{outcome['verdict']}: {outcome['message']}"


def _draw(step: str) -> None:
    """Redraw the one line of progress."""
    sys.stderr.write(f"\r\033[K{step}")
    sys.stderr.flush()
