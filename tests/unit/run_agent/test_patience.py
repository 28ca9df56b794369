"""When the next try is made and when there is none, by a clock that only sleeping moves."""

import itertools
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from run_agent.errors import UnavailableError
from run_agent.patience import (
    LONGEST_WAIT_SECONDS,
    RETRY_AFTER_LIMIT_SECONDS,
    Pace,
    PassingError,
    persist,
    retry_after,
)

REFUSED = PassingError("cannot reach it", "connection refused", "check the network")
NOON = "Wed, 01 May 2024 12:00:00 GMT"

unhurried = settings(deadline=None)  # a loaded machine is no failure


@dataclass
class Clock:
    """Time that passes while somebody sleeps, or while a try takes its time."""

    now: float = 1000.0
    slept: list[float] = field(default_factory=list)

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


@pytest.fixture(name="clock")
def a_clock():
    return Clock()


def pace(clock, chance=1.0):
    return Pace(clock=lambda: clock.now, sleep=clock.sleep, random=lambda: chance)


def failing(*errors, then="done"):
    """Return an attempt that raises these errors, one a try, and then returns."""
    left = iter(errors)

    def attempt(_seconds):
        for error in left:
            raise error
        return then

    return attempt


def test_what_succeeds_at_once_is_done(clock):
    assert persist(failing(), patience=0, pace=pace(clock)) == "done"
    assert clock.slept == []


def test_waits_double_up_to_the_longest(clock):
    assert persist(failing(*[REFUSED] * 8), patience=300, pace=pace(clock)) == "done"
    assert clock.slept == [0.5, 1, 2, 4, 8, 15, 15, 15]


def test_chance_takes_half_of_a_wait_at_most(clock):
    persist(failing(*[REFUSED] * 4), patience=300, pace=pace(clock, chance=0.0))
    assert clock.slept == [0.25, 0.5, 1, 2]


def test_the_message_counts_tries_and_time(clock):
    with pytest.raises(UnavailableError) as caught:
        persist(failing(*[REFUSED] * 99), patience=13, pace=pace(clock))
    assert str(caught.value) == (
        "cannot reach it (connection refused, 6 tries in 12 s); check the network"
    )


def test_the_last_wait_is_cut_short_for_a_last_try(clock):
    with pytest.raises(UnavailableError):
        persist(failing(*[REFUSED] * 99), patience=13, pace=pace(clock))
    assert clock.slept == [0.5, 1, 2, 4, 4.5]


def test_what_is_back_in_the_last_moment_is_reached(clock):
    assert persist(failing(*[REFUSED] * 5), patience=13, pace=pace(clock)) == "done"


def test_without_patience_there_is_one_try(clock):
    with pytest.raises(UnavailableError, match=r"\(connection refused, 1 try in 0 s\)"):
        persist(failing(REFUSED), patience=0, pace=pace(clock))
    assert clock.slept == []


def test_what_will_not_pass_is_raised_at_once(clock):
    with pytest.raises(KeyError):
        persist(failing(KeyError("bug")), patience=300, pace=pace(clock))
    assert clock.slept == []


def test_a_wait_that_was_asked_for_is_kept(clock):
    asked = PassingError("cannot", "429", "wait", wait=30.0)
    persist(failing(asked), patience=300, pace=pace(clock))
    assert 30 <= clock.slept[0] <= 30 + LONGEST_WAIT_SECONDS


def test_a_wait_that_outlasts_patience_ends_it_at_once(clock):
    asked = PassingError("cannot", "429", "wait", wait=30.0)
    with pytest.raises(UnavailableError):
        persist(failing(asked), patience=15, pace=pace(clock))
    assert clock.slept == []


def test_the_log_tells_each_wait(clock, caplog):
    persist(failing(REFUSED), patience=300, pace=pace(clock))
    assert caplog.messages == ["cannot reach it (connection refused); trying again in 0.5 s"]


@unhurried
@given(
    patience=st.floats(0, 600),
    takes=st.lists(st.floats(0, 20), min_size=1, max_size=20),
    chance=st.floats(0, 1),
)
def test_patience_is_never_exceeded_by_a_try_that_keeps_its_time(patience, takes, chance):
    clock, lengths = Clock(), itertools.cycle(takes)

    def attempt(seconds):
        clock.now += min(next(lengths), seconds)
        raise REFUSED

    with pytest.raises(UnavailableError):
        persist(attempt, patience=patience, pace=pace(clock, chance))
    assert clock.now - 1000 <= max(patience, 1.0) + 1e-6


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, 0),
        ({"Retry-After": "7"}, 7),
        ({"Retry-After": " 7 "}, 7),
        ({"Retry-After": "0"}, 0),
        ({"Retry-After": "-7"}, 0),
        ({"Retry-After": "7.5"}, 0),
        ({"Retry-After": "soon"}, 0),
        ({"Retry-After": "\u0667"}, 0),
        ({"Retry-After": "9" * 400}, RETRY_AFTER_LIMIT_SECONDS),
        ({"Retry-After": "Wed, 01 May 2024 12:00:20 GMT", "Date": NOON}, 20),
        ({"Retry-After": "Wed, 01 May 2024 11:00:00 GMT", "Date": NOON}, 0),
        ({"Retry-After": "Thu, 02 May 2024 12:00:00 GMT", "Date": NOON}, RETRY_AFTER_LIMIT_SECONDS),
        ({"Retry-After": "Wed, 01 May 2024 12:00:20 -0000", "Date": NOON}, 0),  # not GMT
        ({"Retry-After": "Wed, 01 May 2024 12:00:20 GMT"}, 0),
        ({"Retry-After": "Wed, 01 May 2024 12:00:20 GMT", "Date": "noon"}, 0),
    ],
)  # fmt: skip
def test_retry_after(headers, seconds):
    assert retry_after(headers) == seconds


@unhurried
@given(st.text(), st.text())
def test_no_retry_after_is_a_surprise(value, date):
    assert 0 <= retry_after({"Retry-After": value, "Date": date}) <= RETRY_AFTER_LIMIT_SECONDS


def test_tries_can_be_what_ends(clock):
    with pytest.raises(
        UnavailableError, match=r"^cannot reach it \(connection refused, 5 tries in"
    ):
        persist(failing(*[REFUSED] * 9), tries=5, pace=pace(clock))
    assert len(clock.slept) == 4
