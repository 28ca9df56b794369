"""The last good list of SSH keys as it is kept: on the volume, and on its way to the daemon.

The volume is for the next start: what is in force must not depend on whether it has room.
"""

import json
import logging
from dataclasses import dataclass

from run_agent import files
from run_agent.errors import RunAgentError
from run_agent.model import Layout

LAST_SECOND = 253_402_300_800.0
"""The end of the year 9999; a time of ours is before it."""

log = logging.getLogger("ssh.keys")


@dataclass(frozen=True, slots=True)
class Kept:
    """The last good list of `app`, as it came, and when (epoch seconds) it was last confirmed."""

    app: str
    fetched_at: float
    lines: tuple[str, ...]


def load(layout: Layout, app: str) -> Kept | None:
    """Return what is kept on the volume; None, and a warning, where it is of no use for `app`."""
    try:
        kept = from_json(layout.ssh_keys.read_bytes())
    except FileNotFoundError:
        return None
    except OSError as error:
        log.warning("cannot read %s (%s); nobody gets in before the keys are fetched",
                    layout.ssh_keys, error.strerror)  # fmt: skip
        return None
    except (ValueError, KeyError, TypeError, RecursionError):
        log.warning("cannot use %s: it is corrupt; nobody gets in before the keys are fetched",
                    layout.ssh_keys)  # fmt: skip
        return None
    if kept.app != app:
        log.warning("the SSH keys on the volume are of the app %s: left aside", kept.app)
        return None
    return kept


def save(layout: Layout, kept: Kept) -> None:
    """Put the list on the volume, whole or not at all; raises `RunAgentError`."""
    try:
        layout.ssh_keys.parent.mkdir(parents=True, exist_ok=True)
        files.atomic_write(layout.ssh_keys, to_json(kept), fsync=True)
    except OSError as error:
        raise RunAgentError(
            f"cannot keep the SSH keys in {layout.ssh_keys} ({error.strerror}); make room there "
            "or correct its mode: they are in force, but a restart begins with the list before"
        ) from error


def to_json(kept: Kept) -> bytes:
    """Return the list as the file and the wire have it."""
    content = {"app": kept.app, "fetched_at": kept.fetched_at, "lines": kept.lines}
    return json.dumps(content).encode()


def from_json(content: bytes) -> Kept:
    """Read what `to_json` wrote; raises `ValueError`, `KeyError` or `TypeError` for all else."""
    found = json.loads(content)
    app, at, lines = found["app"], found["fetched_at"], found["lines"]
    sound = isinstance(app, str) and isinstance(at, float) and 0 <= at < LAST_SECOND
    if not sound or not isinstance(lines, list) or not all(isinstance(line, str) for line in lines):
        raise ValueError("of another form")
    return Kept(app, at, tuple(lines))
