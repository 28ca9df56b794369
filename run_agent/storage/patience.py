"""Try again when a failure may pass by itself, with exponential back-off and jitter.

Owns when the next try is made and which one is the last. Must not know what a try does.
"""

import logging
import random
from collections.abc import Callable
from typing import Any, NoReturn, TypeVar

import tenacity

from run_agent.errors import UnavailableError

T = TypeVar("T")

log = logging.getLogger(__name__)

TRIES = 5
"""In a row without a byte of progress. A refused connection is given up after about 6 s, so that
a replica with a good deploy on its volume boots that soon; a short outage is sat out."""

FIRST_WAIT_SECONDS = 0.5
"""Before the second try; doubled before each further one."""

LONGEST_WAIT_SECONDS = 15.0
"""Where the doubling ends."""

RETRY_AFTER_LIMIT_SECONDS = 30.0
"""Most that a `Retry-After` is given; a maintenance page may ask for hours."""


class PassingError(Exception):
    """One try failed for a reason that may pass by itself.

    `wait` is how many seconds the other side asked us to stay away.
    """

    def __init__(self, source: str, reason: str, *, wait: float = 0.0) -> None:
        super().__init__(f"cannot fetch {source} ({reason})")
        self.source = source
        self.reason = reason
        self.wait = wait


def persist(attempt: Callable[[], T]) -> T:
    """Call `attempt` until it returns or raises anything but `PassingError`, `TRIES` times.

    Raises `UnavailableError` at the end, with the last reason.
    """
    retrying = tenacity.Retrying(
        retry=tenacity.retry_if_exception_type(PassingError),
        wait=_wait,
        stop=tenacity.stop_after_attempt(TRIES),
        before_sleep=_tell,
        retry_error_callback=_give_up,
    )
    return retrying(attempt)


def _wait(state: tenacity.RetryCallState) -> float:
    doubled = FIRST_WAIT_SECONDS * 2.0 ** (state.attempt_number - 1)
    backoff = min(doubled, LONGEST_WAIT_SECONDS) * random.uniform(0.5, 1.0)  # noqa: S311 (jitter)
    return max(backoff, min(_failure(state).wait, RETRY_AFTER_LIMIT_SECONDS))


def _tell(state: tenacity.RetryCallState) -> None:
    log.warning("%s; trying again in %.1f s", _failure(state), state.upcoming_sleep)


def _give_up(state: tenacity.RetryCallState) -> NoReturn:
    error = _failure(state)
    raise UnavailableError(
        f"cannot fetch {error.source} ({error.reason}, {state.attempt_number} tries in "
        f"{state.seconds_since_start or 0:.0f} s); check the storage and the network"
    ) from error


def _failure(state: tenacity.RetryCallState) -> PassingError:
    error: Any = state.outcome.exception() if state.outcome else None
    assert isinstance(error, PassingError)
    return error
