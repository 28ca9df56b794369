"""How the release was started, kept in the run folder (0600) for the sessions that want the same.

Written once per start, before the release runs; read by `shell`.
"""

import json
import os
from pathlib import Path

from run_agent import files
from run_agent.errors import RunAgentError, UnavailableError
from run_agent.model import Launch, Layout


def save(layout: Layout, launch: Launch) -> None:
    """Write the launch; raises `RunAgentError` where the run folder cannot be written."""
    files.atomic_write(layout.environment, json.dumps(to_json(launch)).encode(), mode=0o600)


def to_json(launch: Launch) -> dict[str, object]:
    """Return the launch as PID 1 takes it."""
    return {
        "argv": list(launch.argv),
        "env": dict(launch.env),
        "cwd": str(launch.cwd),
        "stop_group": launch.stop_group,
    }


def load(layout: Layout) -> Launch:
    """Read what `save` wrote.

    Raises `UnavailableError` while nothing has been started, and `RunAgentError` where the file
    belongs to somebody else.
    """
    try:
        fields = json.loads(layout.environment.read_bytes())
    except FileNotFoundError:
        raise UnavailableError(
            f"cannot find the release's environment at {layout.environment}: no release has been "
            "started here yet; see `run-agent status`"
        ) from None
    except (OSError, ValueError) as error:
        raise RunAgentError(
            f"cannot read {layout.environment} ({error}); use the account that the replica runs as",
            exit_code=os.EX_NOPERM,
        ) from error
    return Launch(
        tuple(fields["argv"]), fields["env"], Path(fields["cwd"]), fields["stop_group"]
    )
