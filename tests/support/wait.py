"""Waiting for a condition, with a deadline: what tests do instead of sleeping."""

import time
from collections.abc import Callable
from typing import TypeVar

PATIENCE_SECONDS = 20.0
"""Longer than anything takes on a loaded machine that has no wait of its own."""

POLL_SECONDS = 0.005

T = TypeVar("T")


def until(
    condition: Callable[[], T],
    what: str | Callable[[], str],
    seconds: float = PATIENCE_SECONDS,
    every: float = POLL_SECONDS,
) -> T:
    """Return what `condition` gives as soon as that is true; fail with `what` after `seconds`."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        if time.monotonic() >= deadline:
            said = what if isinstance(what, str) else what()
            raise AssertionError(f"waited {seconds:g} s in vain: {said}")
        time.sleep(every)
    return value


def holds(condition: Callable[[], object], what: str, seconds: float) -> None:
    """Fail with `what` where `condition` does not hold all the time for `seconds`."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        assert condition(), what
        time.sleep(POLL_SECONDS)
