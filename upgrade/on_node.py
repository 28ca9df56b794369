"""Our Erlang programs, run on the node: sent as source, interpreted there, nothing left behind.

Owns `RUN/on_node`, through which arguments and results travel (0600, gone after the call), since
they may hold secrets and may be long. What the programs do is theirs: see `upgrade/erl`.
"""

import asyncio
import contextlib
import itertools
import os
import re
import time
from collections.abc import Iterator
from importlib import resources
from pathlib import Path

from run_agent import files
from run_agent.errors import RunAgentError
from run_agent.node import ANSWER_SECONDS, Node
from run_agent.release.erlang_term import Atom, Term, consult, render

LEFT_OVER_SECONDS = 3600.0
"""After this a file in our folder is one that a killed process could not remove."""

_INTERPRETER = "run_agent_interpreter.expressions"
_OTHER_PROGRAM = re.compile(r"\brun_agent_[a-z_]+(?=:)")
_REMARK = re.compile(r"^\s*%.*\n", re.MULTILINE)

_calls = itertools.count()


async def call(
    node: Node,
    run: Path,
    program: str,
    function: str,
    *arguments: Term,
    deadline: float = ANSWER_SECONDS,
) -> Term:
    """Call FUNCTION of `upgrade/erl/PROGRAM.erl` on the node and return what it returns.

    `deadline` is in seconds; past it the program may go on, but finds its result file gone.
    Raises `RunAgentError`: those of `Node.evaluate`, 70 with the reason where the program fails,
    74 where the run folder cannot be written.
    """
    asked = (_sources(program), Atom(program), Atom(function), list(arguments))
    with _exchange(run, f"{render(asked)}.\n".encode()) as (request, result):
        expression = f"({source(_INTERPRETER)})({render(str(request))}, {render(str(result))})"
        await node.evaluate(expression, deadline=deadline)
        answer = await asyncio.to_thread(result.read_text, "utf-8")
    return _value(f"{program}:{function}", node, answer)


def text(term: Term) -> str:
    """Return an Erlang string that came as a str, or as [] or a list of code points."""
    match term:
        case str():
            return term
        case list() if all(isinstance(point, int) for point in term):
            return "".join(chr(point) for point in term if isinstance(point, int))
    raise RunAgentError("cannot read the node's answer: it has no text where one belongs")


def _value(called: str, node: Node, answer: str) -> Term:
    try:
        match consult(answer):
            case [(Atom("ok"), value)]:
                return value
            case [(Atom("cannot"), reason)]:
                raise RunAgentError(f"cannot {text(reason)}")
            case [(Atom("error" | "exit" | "throw" as kind), reason)]:
                raise RunAgentError(
                    f"cannot run {called} on the node {node.name}: {kind} {text(reason)}"
                )
    except ValueError as error:
        raise RunAgentError(
            f"cannot read what {called} returned on the node {node.name}: {error}"
        ) from None
    raise RunAgentError(f"cannot read what {called} returned on the node {node.name}")


def _sources(program: str) -> list[Term]:
    """Return the program and those that it calls, as [{NAME, SOURCE}]."""
    found: dict[str, str] = {}
    wanted = [program]
    while wanted:
        name = wanted.pop()
        if name not in found:
            found[name] = source(f"{name}.erl")
            wanted += _OTHER_PROGRAM.findall(found[name])
    return [(Atom(name), source) for name, source in found.items()]


def source(name: str) -> str:
    """Return a file of `upgrade/erl` without the remarks, which the node has no use for."""
    source = resources.files("upgrade").joinpath("erl", name).read_text("utf-8")
    return _REMARK.sub("", source).strip() + "\n"


@contextlib.contextmanager
def _exchange(run: Path, request: bytes) -> Iterator[tuple[Path, Path]]:
    """Yield a file that holds the request and an empty one for the result."""
    folder = run / "on_node"
    name = f"{os.getpid()}-{next(_calls)}-{os.urandom(4).hex()}"
    asked, answered = folder / f"{name}.request", folder / f"{name}.result"
    try:
        with files.writing_run_folder(run):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            _sweep(folder)
            files.atomic_write(answered, b"")
            files.atomic_write(asked, request)
        yield asked, answered
    finally:
        with contextlib.suppress(NotADirectoryError):
            asked.unlink(missing_ok=True)
            answered.unlink(missing_ok=True)


def _sweep(folder: Path) -> None:
    """Remove what those left who were killed; a number may be another process's by now."""
    for path in folder.iterdir():
        with contextlib.suppress(FileNotFoundError):
            pid, *_ = path.name.lstrip(".").split("-")
            old = time.time() - path.stat().st_mtime > LEFT_OVER_SECONDS
            if old or not Path("/proc", pid).exists():
                path.unlink()
