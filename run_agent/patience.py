"""Try again for as long as a caller has patience, with exponential back-off and jitter.

Owns when the next try is made and when to stop trying. Must not know what a try does: HTTP is
`controller` and `storage`. Clock, sleep and randomness come from the `Pace`.
"""

import logging
import math
import os
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any, NoReturn, TypeVar

import tenacity

from run_agent.errors import UnavailableError

T = TypeVar("T")

log = logging.getLogger(__name__)

FIRST_WAIT_SECONDS = 0.5
"""Before the second try; doubled before each further one."""

LONGEST_WAIT_SECONDS = 15.0
"""Where the doubling ends: a controller that is back is noticed within this time."""

RETRY_AFTER_LIMIT_SECONDS = 60.0
"""Most that a `Retry-After` is given; a maintenance page may ask for hours."""

SHORTEST_TRY_SECONDS = 1.0
"""Less time than this proves nothing, so no try is started with less of it left."""


class PassingError(Exception):
    """One try failed for a reason that may pass by itself.

    Its parts make the message once patience ends: `problem (reason, 3 tries in 12 s); advice`.
    `wait` is how many seconds the other side asked us to stay away.
    """

    def __init__(self, problem: str, reason: str, advice: str, *, wait: float = 0.0) -> None:
        super().__init__(f"{problem} ({reason})")
        self.problem = problem
        self.reason = reason
        self.advice = advice
        self.wait = wait


@dataclass(frozen=True, slots=True)
class Pace:
    """How tries are spaced: seconds before the second one, and at most; what tells the time."""

    first: float = FIRST_WAIT_SECONDS
    longest: float = LONGEST_WAIT_SECONDS
    shortest_try: float = SHORTEST_TRY_SECONDS
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    random: Callable[[], float] = random.random

    def backoff(self, tries: int) -> float:
        """Return the seconds to wait after `tries` tries: half of it fixed, half by chance."""
        doubled = self.first * 2.0 ** min(tries - 1, 30)
        return min(self.longest, doubled) * (0.5 + self.random() / 2)


def persist(
    attempt: Callable[[float], T],
    *,
    pace: Pace,
    patience: float = math.inf,
    tries: float = math.inf,
) -> T:
    """Call `attempt` until it returns, raises anything but `PassingError`, or patience ends.

    That is after `patience` seconds or that many `tries`, by default never. `attempt` gets the
    seconds it may take. Raises `UnavailableError` at the end (75: it
    may work later), with the last reason, the number of tries and how long they took.
    """
    started = pace.clock()

    def elapsed() -> float:
        return pace.clock() - started

    def room() -> float:
        return patience - elapsed() - pace.shortest_try

    def wait(state: tenacity.RetryCallState) -> float:
        # The last wait is cut short, so that the last try comes when patience ends, not before.
        return min(_failure(state).wait + pace.backoff(state.attempt_number), max(room(), 0.0))

    def stop(state: tenacity.RetryCallState) -> bool:
        return state.attempt_number >= tries or room() < max(_failure(state).wait, pace.first / 2)

    def give_up(state: tenacity.RetryCallState) -> NoReturn:
        error = _failure(state)
        made = "1 try" if state.attempt_number == 1 else f"{state.attempt_number} tries"
        raise UnavailableError(
            f"{error.problem} ({error.reason}, {made} in {elapsed():.0f} s); {error.advice}",
            exit_code=os.EX_TEMPFAIL,
        ) from error

    retrying = tenacity.Retrying(
        retry=tenacity.retry_if_exception_type(PassingError),
        wait=wait,
        stop=stop,
        sleep=pace.sleep,
        before_sleep=_tell,
        retry_error_callback=give_up,
    )
    return retrying(lambda: attempt(max(pace.shortest_try, patience - elapsed())))


def retry_after(headers: Mapping[str, str]) -> float:
    """Return the seconds of a `Retry-After` (RFC 9110, 10.2.3), 0 without a valid one.

    A date is read against the answer's own `Date`, so that the clocks need not agree.
    """
    value = headers.get("Retry-After", "").strip()
    if value.isascii() and value.isdecimal():
        seconds = float(value)
    else:
        try:
            until = parsedate_to_datetime(value)
            seconds = (until - parsedate_to_datetime(headers.get("Date", ""))).total_seconds()
        except (ValueError, TypeError):
            seconds = 0.0
    return min(max(seconds, 0.0), RETRY_AFTER_LIMIT_SECONDS)


def _failure(state: tenacity.RetryCallState) -> PassingError:
    error: Any = state.outcome.exception() if state.outcome else None
    assert isinstance(error, PassingError)
    return error


def _tell(state: tenacity.RetryCallState) -> None:
    log.warning("%s; trying again in %.1f s", _failure(state), state.upcoming_sleep)
