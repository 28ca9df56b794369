"""What release_handler on the node knows, and the small steps around an install, in typed form.

Every function raises `RunAgentError` as `on_node.call` does, and where the node refuses. None
deletes a file: those that were placed are `additions`'.
"""

import os
from pathlib import Path

from run_agent.errors import RunAgentError
from run_agent.node import Node
from run_agent.release import erlang_term
from run_agent.release.erlang_term import Atom, Term
from upgrade import on_node
from upgrade.model import Known, Relup, Serving

STEP_SECONDS = 20.0
"""How long release_handler may take for a step; it answers in milliseconds, unless it is busy."""

_PROGRAM = "run_agent_releases"


async def serving(node: Node) -> Serving:
    """Ask which versions the node knows, and where its tree is, symbolic links resolved.

    Needs no file, so a full disk cannot hide what serves. Raises `RunAgentError` as
    `Node.evaluate`, 75 also for a node that is still booting, 78 for a release without sasl.
    """
    answer = await node.evaluate(on_node.source("run_agent_serving.expressions"))
    [term] = erlang_term.consult(f"{answer}.")
    return _serving(term)


async def relup(node: Node, run: Path, path: Path) -> Relup | None:
    """Read a relup file (relup(4)) on the node: it may hold any term. None where no file is."""
    match await on_node.call(node, run, _PROGRAM, "relup", str(path)):
        case Atom("none"):
            return None
        case (version, list() as up, list() as down):
            return Relup(on_node.text(version), dict(map(_way, up)), dict(map(_way, down)))
    raise _unread("relup")


async def set_unpacked(node: Node, run: Path, rel_file: Path) -> None:
    """Tell release_handler of the version whose files are in the node's tree."""
    await on_node.call(node, run, _PROGRAM, "set_unpacked", str(rel_file), deadline=STEP_SECONDS)


async def make_permanent(node: Node, run: Path, version: str) -> None:
    """Have a restart of the node's tree boot the current version; nothing if it does already."""
    await on_node.call(node, run, _PROGRAM, "make_permanent", version, deadline=STEP_SECONDS)


async def remove(node: Node, run: Path, version: str) -> None:
    """Have release_handler forget a version that is unpacked or old; nothing if it knows none."""
    await on_node.call(node, run, _PROGRAM, "remove", version, deadline=STEP_SECONDS)


def _serving(term: Term) -> Serving:
    match term:
        case (root, erts, list() as known):
            tree = Path(on_node.text(root)).resolve()
            return Serving(tree, on_node.text(erts), tuple(map(_known, known)))
        case Atom("started"):
            raise RunAgentError(
                "cannot change the release hot: release_handler does not run on the node; have "
                "sasl in the release",
                exit_code=os.EX_CONFIG,
            )
        case Atom():
            raise RunAgentError(
                "cannot ask the node which versions it has: it is still booting; try again when "
                "it is ready",
                exit_code=os.EX_TEMPFAIL,
            )
    raise _unread("versions")


def _known(term: Term) -> Known:
    match term:
        case (name, version, Atom(status)):
            return Known(on_node.text(name), on_node.text(version), status)
    raise _unread("versions")


def _way(term: Term) -> tuple[str, bool]:
    match term:
        case (version, Atom(restarts)):
            return on_node.text(version), restarts == "true"
    raise _unread("relup")


def _unread(what: str) -> RunAgentError:
    return RunAgentError(f"cannot read what the node answered about its {what}")
