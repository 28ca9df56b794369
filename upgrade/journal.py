"""What is under way, on disk (0600), for the agent that comes after one that was killed.

Owns `RUN/change.json`. It exists from before the first file is placed until the change is over.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

from run_agent import files
from run_agent.errors import RunAgentError


class Phase(StrEnum):
    """How far a change has come."""

    PLACING = "placing"
    INSTALLING = "installing"
    VERIFYING = "verifying"
    PERMANENT = "permanent"


@dataclass(frozen=True, slots=True)
class Entry:
    """A change that was begun. `env` is the environment that it is to end with: secrets.

    `digest` is that of the slug that it leads to, `deploy` what the controller said of it, in the
    form of the records; none where an image's own release is changed.
    """

    phase: Phase
    what: str
    down: bool
    from_version: str
    to_version: str
    incarnation: str
    digest: str | None
    deploy: Mapping[str, Any] | None = field(repr=False)
    env: Mapping[str, str] = field(repr=False)


class Journal:
    """The one change that may be under way in the run folder."""

    def __init__(self, run: Path) -> None:
        self._path = run / "change.json"

    def begin(self, entry: Entry) -> None:
        """Note a change before anything is touched; raises `RunAgentError` (74)."""
        with files.writing_run_folder(self._path.parent):
            files.atomic_write(self._path, json.dumps(asdict(entry)).encode())

    def reached(self, entry: Entry, phase: Phase) -> Entry:
        """Note how far it has come; raises as `begin`."""
        further = replace(entry, phase=phase)
        self.begin(further)
        return further

    def read(self) -> Entry | None:
        """Return the change that was begun and not ended; raises `RunAgentError` (70)."""
        try:
            kept = json.loads(self._path.read_bytes())
            return Entry(**kept | {"phase": Phase(kept["phase"])})
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError, LookupError) as error:
            raise RunAgentError(
                f"cannot read {self._path} ({type(error).__name__}), which tells what change a "
                "killed agent had begun; see `run-agent releases`, then remove it",
                exit_code=os.EX_SOFTWARE,
            ) from error

    def end(self) -> None:
        """Forget it: the change is over."""
        self._path.unlink(missing_ok=True)
