"""How a change can end, and the exit codes of `upgrade`, `downgrade` and `reconfigure`."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from run_agent.errors import RunAgentError


class Verdict(StrEnum):
    """What can be said once a change is over."""

    DONE = "done"
    ALREADY_THERE = "already there"
    REFUSED = "refused"
    UNCHANGED = "failed, nothing changed"
    RECOVERED = "failed and recovered"
    DOWN = "failed and down"


EXIT_CODES = {
    Verdict.DONE: 0,
    Verdict.ALREADY_THERE: 0,
    Verdict.REFUSED: 10,
    Verdict.UNCHANGED: 11,
    Verdict.RECOVERED: 12,
    Verdict.DOWN: 13,
}

LOCKED = 14
"""Exit code of who finds another change under way."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """The end of a change: `message` is a sentence for people, `serves` the version that serves.

    `notes` are what else a person should know. `try_again` says that it failed for something
    passing, as an outage of the storage is.
    """

    verdict: Verdict
    message: str
    serves: str | None = None
    notes: tuple[str, ...] = ()
    try_again: bool = False

    @property
    def exit_code(self) -> int:
        """What a program that waited for the change ends with."""
        return EXIT_CODES[self.verdict]

    def to_json(self) -> dict[str, Any]:
        """Return it as `--json` shows it."""
        return {
            "verdict": str(self.verdict),
            "message": self.message,
            "serves": self.serves,
            "notes": list(self.notes),
            "try_again": self.try_again,
        }


class RefusedError(RunAgentError):
    """A change that must not be tried; nothing was touched (10)."""

    exit_code = EXIT_CODES[Verdict.REFUSED]
