"""Install a version of a mix release by release_handler, with the new deploy's configuration.

Owns the one call on the node that does so (`upgrade/erl/run_agent_install.erl`). Up and down are
the same to it. What serves afterwards is the caller's to ask: a call may be cut off.
"""

from run_agent.errors import RunAgentError
from run_agent.node import NO_ANSWER
from run_agent.redaction import redacted
from upgrade import on_node
from upgrade.model import Change


async def install(change: Change, *, deadline: float) -> None:
    """Have the node run `change.to_version`; not yet permanent. `deadline` is in seconds.

    Raises `RunAgentError` with the reason. Where it was before the point of no return nothing has
    changed; where it was after it, or the call was cut off, the node may be restarting itself.
    """
    folder = change.root / "releases" / change.to_version
    put, unset = change.environment()
    try:
        await on_node.call(
            change.node,
            change.run,
            "run_agent_install",
            "install",
            change.to_version,
            str(folder),
            put,
            unset,
            deadline=deadline,
        )
    except RunAgentError as error:
        raise _explained(change, error) from None


def _explained(change: Change, error: RunAgentError) -> RunAgentError:
    """Say what was to be done, without the values that a configuration may repeat in its words."""
    reason = str(error).removeprefix("cannot install: ")
    keep = (change.name, change.from_version, change.to_version)
    reason = redacted(reason, change.env, change.env_before, keep=keep)
    if error.exit_code in NO_ANSWER:
        reason = f"{reason}; the call ended without an answer, so the node may be restarting itself"
    return RunAgentError(
        f"cannot install {change.to_version} over {change.from_version}: {reason}",
        exit_code=error.exit_code,
    )
