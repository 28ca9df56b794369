"""What the log says while the pod cannot be told: each failure once, and its end.

Must not decide what is tried again: that is the teller's.
"""

import logging
import re
from collections.abc import Callable, Sequence

from run_agent.cluster.account import Account
from run_agent.cluster.messages import REPORT, Result

ADVICE = {
    200: "look for a webhook, or a proxy, in between",
    401: "the token is read anew and it is tried again; check the clocks",
    404: "check POD_NAME and POD_NAMESPACE",
}

log = logging.getLogger("cluster")


class Complaints:
    """Says what keeps us from telling the pod: once, and when it is over."""

    def __init__(self, account: Account, clock: Callable[[], float]) -> None:
        self._account, self._clock = account, clock
        self._since: dict[tuple[bool, int, str], float] = {}  # seconds of the clock
        self.problem: str | None = None

    def hear(self, problems: Sequence[Result], dropped: int) -> bool:
        """Log what is new in `problems`; return whether there are none."""
        now = self._clock()
        texts = {_kind(problem): self._text(problem) for problem in problems}
        for kind, text in texts.items():
            if kind not in self._since:
                log.warning("%s", text)
                self._since[kind] = now
        self.problem = next(iter(texts.values()), None)
        if problems:
            return False
        if self._since:
            log.info(
                "pod %s is told again, after %s%s",
                self._account.label, _duration(now - min(self._since.values())),
                f"; {dropped} Events were dropped" if dropped else "",
            )  # fmt: skip
            self._since.clear()
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
