"""What was started, kept in the run folder (0600).

For sessions that want the same environment, and for an agent that takes over. Written once per
start, before the release runs.
"""

import json
import os
from pathlib import Path
from typing import Any

from run_agent import files
from run_agent.errors import RunAgentError, UnavailableError
from run_agent.model import Deploy, Launch, Layout
from run_agent.slug import record

FIELDS = {"argv", "env", "cwd", "stop_group", "deploy"}


def save(layout: Layout, launch: Launch, deploy: Deploy | None) -> None:
    """Write the launch, and the deploy that it belongs to; raises `RunAgentError`."""
    kept = to_json(launch) | {"deploy": deploy and record.deploy_to_json(deploy)}
    try:
        files.atomic_write(layout.environment, json.dumps(kept).encode(), mode=0o600)
    except OSError as error:
        raise RunAgentError(
            f"cannot write {layout.environment} ({error.strerror}): the run folder must be "
            "writable and have room; mount a tmpfs there",
            exit_code=os.EX_IOERR,
        ) from error


def to_json(launch: Launch) -> dict[str, Any]:
    """Return the launch as PID 1 takes it."""
    return {
        "argv": list(launch.argv),
        "env": dict(launch.env),
        "cwd": str(launch.cwd),
        "stop_group": launch.stop_group,
    }


def load(layout: Layout) -> Launch:
    """Read the launch.

    Raises `UnavailableError` while nothing has been started, and `RunAgentError` where the file
    belongs to somebody else.
    """
    kept = _read(layout.environment)
    return Launch(tuple(kept["argv"]), kept["env"], Path(kept["cwd"]), kept["stop_group"])


def load_deploy(layout: Layout) -> Deploy | None:
    """Read the deploy that was started; none where a command or an image was. Raises as `load`."""
    kept = _read(layout.environment)["deploy"]
    return record.deploy_from_json(kept) if kept else None


def _read(path: Path) -> dict[str, Any]:
    try:
        kept: dict[str, Any] = json.loads(path.read_bytes())
        if not isinstance(kept, dict) or not kept.keys() >= FIELDS:
            raise ValueError("it is not of the form that run-agent writes")  # noqa: TRY301 - as unreadable
    except FileNotFoundError:
        raise UnavailableError(
            f"cannot find the release's environment at {path}: no release has been started here "
            "yet; see `run-agent status`, or set RUN_AGENT_ROOT"
        ) from None
    except (OSError, ValueError) as error:
        raise RunAgentError(
            f"cannot read {path} ({error}); use the account that the replica runs as",
            exit_code=os.EX_NOPERM,
        ) from error
    return kept
