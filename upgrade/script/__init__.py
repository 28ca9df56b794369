"""An install by the release tool's own script: relx and Distillery.

Owns the call, what is believed of it (nothing: the node is asked), and that the configuration in
force is the new version's. What is peculiar to a tool is in `relx` and `distillery`. Places no
files of a new version, and removes none.
"""

import contextlib
import time
from collections.abc import Callable
from pathlib import Path

from run_agent import process, turns
from run_agent.errors import RunAgentError
from run_agent.release import Kind
from run_agent.release.erlang_term import Term
from upgrade import on_node, releases
from upgrade.model import Change
from upgrade.script import distillery, relx
from upgrade.script.call import Call, words

PREPARED = {
    Kind.RELX: relx.prepared,
    Kind.DISTILLERY_1: distillery.prepared,
    Kind.DISTILLERY_2: distillery.prepared,
}

NODE_SECONDS = 20.0
"""How long the node may take for a step of ours: the app's own config_change may be part of it."""

GUARD_MILLISECONDS = 600_000
"""How long a node that restarts itself undoes the new environment; more than any install takes."""


async def install(
    change: Change, *, deadline: float, tell: Callable[[str], None], down: bool
) -> None:
    """Have `bin/NAME upgrade|downgrade` bring `change.to_version` to serve.

    The version must be known to the node. With relx it is current afterwards, where the script
    can leave it so; Distillery's has made it permanent. `deadline` is in seconds, and for the
    script alone. `tell` is told each step. Raises `RunAgentError` with the script's last words
    where the version does not serve in the end; then the environment is as it was.
    """
    async with contextlib.AsyncExitStack() as undo:
        before = await _on_node(change, "put_for_now", *change.environment(), GUARD_MILLISECONDS)
        undo.push_async_callback(_put_back, change, before)
        with PREPARED[change.kind](change, down=down) as call:
            tell(f"running {change.name} {' '.join(call.argv[1:])}")
            said = await _run(change, call, deadline)
            await _require_serving(change, said)
            await _enforce(change, call.configuration(), tell)
            await _on_node(change, "keep")
        undo.pop_all()


async def take_over(change: Change, *, tell: Callable[[str], None], down: bool) -> None:
    """End what `install` had begun in an agent that was killed, once its script has ended.

    Whether the version serves is for the caller to ask. Raises `RunAgentError`.
    """
    async with turns.take(change.run, f"the rest of {change.name} {change.to_version}"):
        with PREPARED[change.kind](change, down=down) as call:
            if (await releases.serving(change.node)).version == change.to_version:
                await _enforce(change, call.configuration(), tell)
                await _on_node(change, "keep")


async def _on_node(change: Change, function: str, *arguments: Term) -> Term:
    return await on_node.call(
        change.node,
        change.run,
        "run_agent_environment",
        function,
        *arguments,
        deadline=NODE_SECONDS,
    )


async def _put_back(change: Change, before: Term) -> None:
    """Undo the change of the environment; a node that restarts itself has done so."""
    with contextlib.suppress(RunAgentError):
        await _on_node(change, "put_back", before)


async def _run(change: Change, call: Call, deadline: float) -> str:
    """Run the script in its turn; return how it ended, which proves nothing."""
    end = time.monotonic() + deadline
    async with turns.take(change.run, f"{change.name} {call.argv[1]}", deadline) as turn:
        try:
            ended = await process.run(
                call.argv, deadline=end - time.monotonic(), env=call.env, cwd=change.root,
                pass_fds=(turn,),
            )  # fmt: skip
        except RunAgentError as error:
            return str(error)
    printed = (ended.stdout + b"\n" + ended.stderr).decode(errors="replace")
    return f"exit code {ended.code}: {words(printed, change) or 'no words'}"


async def _require_serving(change: Change, said: str) -> None:
    failed = f"cannot install {change.to_version} by the {change.kind} script ({said})"
    try:
        version = (await releases.serving(change.node)).version
    except RunAgentError as error:
        raise RunAgentError(f"{failed}; now the node does not tell what serves") from error
    if version != change.to_version:
        raise RunAgentError(f"{failed}; {version} serves")


async def _enforce(change: Change, config: Path | None, tell: Callable[[str], None]) -> None:
    """Check that the new configuration is in force, and put what is not; values stay there."""
    if config is None:
        tell(f"the script left no configuration of {change.to_version} to check against")
        return
    match await _on_node(change, "enforce", str(config)):
        case [*mended], [*own]:
            if mended:
                tell(f"put into force, what the script had not: {_listed(mended)}")
            if own:
                tell(f"the app itself has set, other than configured: {_listed(own)}")
        case _:
            raise RunAgentError("cannot read which configuration is in force on the node")


def _listed(keys: list[Term]) -> str:
    return ", ".join(map(on_node.text, keys))
