"""How many answers it takes to change a verdict."""

import asyncio
import contextlib

import pytest

from run_agent import health
from run_agent.errors import RunAgentError


@pytest.fixture(autouse=True)
def _at_once(monkeypatch):
    for name in "FIRST_PAUSE", "LAST_PAUSE", "READY_PAUSE":
        monkeypatch.setattr(health, name, 0.0)


def verdicts(*answers, ready=False):
    """Return what a watch tells that gets these answers, an error being raised."""
    told, left = [], list(answers)

    async def check():
        if not left:
            raise asyncio.CancelledError
        answer = left.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def watch():
        with contextlib.suppress(asyncio.CancelledError):
            await health.watch(check, told.append, ready=ready)

    asyncio.run(watch())
    return told


def test_one_answer_makes_it_ready():
    assert verdicts("a", "b", None) == ["a", "b", None]


def test_a_ready_app_may_miss_twice():
    assert verdicts(None, "a", "b", None) == [None, None]
    assert verdicts("a", "b", None, ready=True) == [None]


def test_three_misses_in_a_row_make_it_unready():
    assert verdicts(None, "a", "b", "c", "d", None) == [None, "c", "d", None]
    assert verdicts("a", None, "a", "b", ready=True) == [None]


def test_a_check_that_cannot_be_made_is_a_miss_and_tells_why():
    error = RunAgentError("cannot start erl_call")
    assert verdicts(error) == ["its check, which fails: cannot start erl_call"]
    assert verdicts(error, error, None, ready=True) == [None]


def test_a_successor_of_a_watch_goes_on_with_what_it_found():
    assert verdicts("a", "b", ready=True) == []
    assert verdicts("a", "b", "c", ready=True) == ["c"]
