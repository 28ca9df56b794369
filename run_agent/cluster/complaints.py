"""What the log says while the pod cannot be told: each failure once, then every hour, and the end.

Must not decide what is tried again: that is the teller's.
"""

import logging
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from run_agent.cluster.account import Account
from run_agent.cluster.messages import REPORT, Result

REMIND_SECONDS = 3600.0
"""How often a failure that stays the same is logged again."""

ADVICE = {
    200: "look for a webhook, or a proxy, in between",
    401: "the token is read anew and it is tried again; check the clocks",
    404: "check POD_NAME and POD_NAMESPACE",
}

log = logging.getLogger("cluster")


@dataclass(slots=True)
class _Complaint:
    """Since when something fails, and when that was last logged (seconds of `Pace.clock`)."""

    since: float
    logged: float


class Complaints:
    """Says what keeps us from telling the pod: once, every hour, and when it is over."""

    def __init__(self, account: Account, clock: Callable[[], float]) -> None:
        self._account, self._clock = account, clock
        self._open: dict[tuple[bool, int, str], _Complaint] = {}
        self.problem: str | None = None

    def hear(self, problems: Sequence[Result], dropped: int) -> bool:
        """Log what is new in `problems`; return whether there are none."""
        now = self._clock()
        texts = {_kind(problem): self._text(problem) for problem in problems}
        for kind, text in texts.items():
            complaint = self._open.setdefault(kind, _Complaint(now, -math.inf))
            if now - complaint.logged >= REMIND_SECONDS:
                log.warning("%s", text)
                complaint.logged = now
        self.problem = next(iter(texts.values()), None)
        if problems:
            return False
        if self._open:
            since = min(complaint.since for complaint in self._open.values())
            log.info(
                "pod %s is told again, after %s%s", self._account.label, _duration(now - since),
                f"; {dropped} Events were dropped" if dropped else "",
            )  # fmt: skip
            self._open.clear()
        return True

    def _text(self, problem: Result) -> str:
        what = "how its replica is" if problem.what == REPORT else "what happened"
        status = f"{problem.status} " if problem.status >= 300 else ""
        return (
            f"cannot tell pod {self._account.label} {what} ({status}{problem.reason}); "
            f"{_advice(problem)}"
        )


def _advice(problem: Result) -> str:
    is_report = problem.what == REPORT
    if problem.status == 403:
        verb = "`patch` `pods/status`" if is_report else "`create` `events`"
        return f"let the service account {verb}, as in examples/kubernetes"
    if problem.is_hopeless and not is_report:
        return "it is dropped"
    if problem.status == 0 and "certificate" in problem.reason:
        return "check the clocks and the ca.crt of the service account; it is tried again"
    return ADVICE.get(problem.status, "it is tried again")


def _kind(problem: Result) -> tuple[bool, int, str]:
    """Return what makes it the same failure: a status, or else the reason without its figures."""
    reason = "" if problem.status >= 300 else re.sub(r"\d+", "", problem.reason)
    return problem.what == REPORT, problem.status, reason


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{round(seconds / 60)} min"
