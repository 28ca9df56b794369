"""Which slugs failed as a hot upgrade, so that none is tried again unasked.

Owns the records `DIGEST.failed.json` beside the trees. They outlive the tree: what failed once
may come again from the controller, when its tree has long been removed.
"""

import json
import logging
import os
from dataclasses import asdict, dataclass
from pathlib import Path

from run_agent import files
from run_agent.errors import RunAgentError
from run_agent.slug import record

log = logging.getLogger(__name__)

SUFFIX = ".failed.json"

REMEMBERED = 20
"""Slugs without a tree; of more than that, all failed, none comes back."""

REASON_LIMIT = 2000
"""Characters; the rest of what an Erlang term says is in the log."""


@dataclass(frozen=True, slots=True)
class Failure:
    """When (seconds since the epoch) an upgrade from that version failed, and why."""

    at: float
    from_version: str
    reason: str


class Failures:
    """What is remembered in the folder of the trees."""

    def __init__(self, deploys: Path) -> None:
        self._deploys = deploys

    def remember(self, digest: str, failure: Failure) -> None:
        """Keep it on the disk; of its reason, which must hold no secret, 2000 characters.

        Raises `RunAgentError` (74).
        """
        kept = asdict(failure) | {"reason": _shortened(failure.reason)}
        try:
            self._deploys.mkdir(parents=True, exist_ok=True)
            files.atomic_write(self._path(digest), json.dumps(kept).encode("ascii"), fsync=True)
            self._forget_the_oldest()
        except OSError as error:
            raise RunAgentError(
                f"cannot note in {self._deploys} that the slug {digest} failed "
                f"({error.strerror}); free space there, or make it writable",
                exit_code=os.EX_IOERR,
            ) from error

    def of(self, digest: str) -> Failure | None:
        """Return how that slug failed; none, and a warning, where the record cannot be used."""
        path = self._path(digest)
        try:
            kept = json.loads(path.read_bytes())
            return Failure(float(kept["at"]), str(kept["from_version"]), str(kept["reason"]))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError, LookupError) as error:
            log.warning("cannot use the record %s (%s); it is ignored", path, type(error).__name__)
            return None

    def forget(self, digest: str) -> None:
        """Let that slug be tried again; raises `RunAgentError` (74)."""
        path = self._path(digest)
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise RunAgentError(
                f"cannot remove {path} ({error.strerror}); make its folder writable",
                exit_code=os.EX_IOERR,
            ) from error

    def _forget_the_oldest(self) -> None:
        """Drop what is too old among the records whose tree is gone."""
        found = {path: path.name.removesuffix(SUFFIX) for path in self._deploys.glob(f"*{SUFFIX}")}
        alone = [
            path
            for path, digest in found.items()
            if record.DIGEST.fullmatch(digest) and not (self._deploys / digest).is_dir()
        ]
        for path in sorted(alone, key=lambda path: path.stat().st_mtime)[:-REMEMBERED]:
            path.unlink(missing_ok=True)

    def _path(self, digest: str) -> Path:
        return self._deploys / f"{digest}{SUFFIX}"


def _shortened(reason: str) -> str:
    return reason if len(reason) <= REASON_LIMIT else f"{reason[: REASON_LIMIT - 1]}…"
