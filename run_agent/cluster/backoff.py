"""How long the API is left alone between two tries. Pure: no I/O, no clock.

What fails is tried again ever more rarely, and something new to tell may be tried sooner: once,
before the next try that is due anyway, so that news in an outage make no storm.
"""

import math
from collections.abc import Callable, Sequence

from run_agent.cluster.messages import Result

SPACING_SECONDS = 5.0
"""Least between the end of a try and the next one, so that what goes to and fro is told once; where
the doubling of the pause after a failure that may pass begins."""

MESSAGE_SPACING_SECONDS = 60.0
"""The same where only the condition's message is new: a figure in it may never stand still."""

REST_SECONDS = 3600.0
"""From a success until the same is told again, which puts right what others have changed."""

LONGEST_SECONDS = 300.0
"""Where that ends: 12 tries an hour."""

LONGEST_PRESSING_SECONDS = 50.0
"""Where it ends while the condition may be wrong, since a readiness gate waits for that: with the
jitter a minute at most, 72 tries an hour."""

DENIED_SECONDS = 60.0
"""Where it begins for what is forbidden, or a pod that is not there: a right that comes with the
same rollout is noticed soon."""

LONGEST_DENIED_SECONDS = 3600.0
"""Where that ends: an account that will never have the right costs a worker an hour."""

JITTER = 0.2
"""A pause is longer by up to this part of it, and a rest shorter: the replicas of an app fail, and
start, together."""


class Backoff:
    """Remembers how the last tries went; `chance` gives numbers from 0 to 1."""

    def __init__(self, chance: Callable[[], float]) -> None:
        self._chance = chance
        self._spacing = SPACING_SECONDS
        self._failures = 0  # in a row, of the same kind
        self._is_denied = False
        self._stretch = 1.0
        self._news_may_hurry = True

    def pause(self, *, news: float = math.inf, is_pressing: bool = False) -> float:
        """Return how many seconds after the end of a try the next one may begin.

        `news` is the spacing of what has not been tried yet, infinite where all has been;
        `is_pressing` where the condition may be wrong.
        """
        hurried = max(self._spacing, news)
        if self._failures == 0:
            return self._spacing if news == math.inf else hurried
        first, longest = SPACING_SECONDS, LONGEST_SECONDS
        if self._is_denied:
            first, longest = DENIED_SECONDS, LONGEST_DENIED_SECONDS
        elif is_pressing:
            longest = LONGEST_PRESSING_SECONDS
        doubled = first * 2.0 ** min(self._failures - 1, 30)
        regular = max(self._spacing, min(doubled, longest) * self._stretch)
        return min(hurried, regular) if self._news_may_hurry else regular

    def rest(self) -> float:
        """Return how many seconds after a success all may be told again."""
        return REST_SECONDS * (2 - self._stretch)

    def learn(self, results: Sequence[Result], *, was_early: bool) -> None:
        """Take in how a try went, which `was_early` where it had not been due without news."""
        failures = [result for result in results if not result.done]
        is_denied = bool(failures) and all(failure.is_denial for failure in failures)
        before = self._failures if is_denied == self._is_denied else 0
        self._failures = before + 1 if failures else 0
        self._is_denied = is_denied
        self._spacing = max([SPACING_SECONDS, *(failure.retry_after for failure in failures)])
        self._stretch = 1 + JITTER * self._chance()
        # Where the report gets through and the Events do not, it must not wait for them.
        self._news_may_hurry = not was_early or any(result.done for result in results)
