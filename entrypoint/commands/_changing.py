"""How the verbs that change the running release show their progress and their verdict."""

import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from entrypoint.ask import call
from run_agent.errors import RunAgentError
from run_agent.settings import layout_of

USUAL_COLUMNS = 80
"""Of a terminal that does not tell how wide it is."""


def carry_out(
    environ: Mapping[str, str],
    verb: str,
    show: Callable[[Mapping[str, Any]], Iterator[str]],
    *,
    as_json: bool,
    **arguments: object,
) -> int:
    """Have the agent carry out `verb`, its steps on stderr; print its result, return its code.

    `show` makes lines for people of the result. Raises what the agent says where there is none;
    a program gets that on stdout as well.
    """
    try:
        result, code = _ask(environ, verb, redraws=sys.stderr.isatty() and not as_json, **arguments)
    except RunAgentError as error:
        if as_json:
            print(json.dumps({"error": str(error), "exit": error.exit_code}), flush=True)
        raise
    print(json.dumps({**result, "exit": code}) if as_json else "\n".join(show(result)))
    return code


def verdict(outcome: Mapping[str, Any]) -> Iterator[str]:
    """Give how a change of the version ended: notes go to stderr, the verdict is the last line."""
    for note in outcome["notes"]:
        print(f"note: {note}", file=sys.stderr, flush=True)
    yield f"{outcome['verdict']}: {outcome['message']}"


def _ask(
    environ: Mapping[str, str], verb: str, *, redraws: bool, **arguments: object
) -> tuple[Mapping[str, Any], int]:
    drawn = False
    try:
        for answer in call(layout_of(environ).control_socket, verb, **arguments):
            if "result" in answer:
                if drawn:
                    _draw("")
                drawn = False
                return answer["result"], int(answer["exit"])
            if step := answer["progress"].get("step"):
                if redraws:
                    _draw(step)
                else:
                    print(step, file=sys.stderr, flush=True)
                drawn = redraws
    finally:
        if drawn:
            print(file=sys.stderr, flush=True)  # the error that comes next begins a line
    raise AssertionError("a call ends with its result, or raises")


def _draw(step: str) -> None:
    """Redraw the one line of progress; of a wider one the terminal would redraw the end only."""
    columns = os.get_terminal_size(sys.stderr.fileno()).columns or USUAL_COLUMNS
    sys.stderr.write(f"\r\033[K{step[: columns - 1]}")
    sys.stderr.flush()
