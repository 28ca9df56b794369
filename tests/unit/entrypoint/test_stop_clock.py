"""The stop clock: which phase of a stop is due when, and that none exceeds the grace."""

import itertools

import pytest

from entrypoint.init import stop
from entrypoint.init.stop import StopClock

START = 1000.0
DRAINS = (0.0, 0.1, 1.0, 5.0, 24.0, 24.9, 100.0)
GRACES = (0.0, 0.1, 0.5, 1.0, 2.0, 10.0, 25.0, 86_400.0)


def phases(clock, *, busy=False, end=100_000.0):
    """Advance from one due time to the next; return (seconds since the start, phase) of each."""
    seen, now = [], START
    while clock.next_at() < START + end:
        now = max(now, clock.next_at())
        if (phase := clock.advance(now, busy=busy)) is None:
            break
        seen.append((round(now - START, 3), phase))
    return seen


def test_drain_then_term_then_kill():
    clock = StopClock(START, drain=5, grace=25)
    assert clock.phase == stop.DRAIN
    assert phases(clock) == [(5, stop.TERM), (23, stop.KILL)]
    assert clock.next_at() == clock.ends_at == START + 25


def test_without_a_drain_the_release_is_asked_at_once():
    assert StopClock(START, drain=0, grace=25).advance(START) == stop.TERM


def test_no_phase_begins_before_it_is_due():
    clock = StopClock(START, drain=5, grace=25)
    assert clock.advance(START + 4.99) is None
    assert clock.phase == stop.DRAIN


def test_a_late_look_takes_one_phase_at_a_time():
    clock = StopClock(START, drain=5, grace=25)
    assert clock.advance(START + 60) == stop.TERM
    assert clock.advance(START + 60) == stop.KILL
    assert clock.advance(START + 60) is None


def test_a_second_term_skips_the_drain_and_nothing_else():
    clock = StopClock(START, drain=5, grace=25)
    clock.hurry(START + 1)
    assert phases(clock) == [(1, stop.TERM), (23, stop.KILL)]
    clock.hurry(START + 2)
    assert clock.phase == stop.KILL


def test_a_change_holds_back_term_for_half_of_what_the_drain_leaves():
    clock = StopClock(START, drain=5, grace=25)
    assert phases(clock, busy=True) == [(5, stop.HOLD), (14, stop.TERM), (23, stop.KILL)]


def test_the_hold_ends_with_the_change():
    clock = StopClock(START, drain=5, grace=25)
    assert clock.advance(START + 5, busy=True) == stop.HOLD
    assert clock.advance(START + 6, busy=True) is None
    assert clock.advance(START + 6, busy=False) == stop.TERM


def test_a_change_that_begins_after_term_is_not_waited_for():
    clock = StopClock(START, drain=0, grace=25)
    assert clock.advance(START) == stop.TERM
    assert phases(clock, busy=True) == [(23, stop.KILL)]


def test_a_second_term_begins_the_hold_and_a_third_ends_it():
    clock = StopClock(START, drain=5, grace=25)
    clock.hurry(START + 1)
    assert clock.advance(START + 1, busy=True) == stop.HOLD
    assert clock.next_at() == START + 12, "half of what is left now"
    clock.hurry(START + 2)
    assert phases(clock, busy=True) == [(2, stop.TERM), (23, stop.KILL)]


def test_a_release_that_ends_in_the_hold_leaves_the_rest_its_two_seconds():
    clock = StopClock(START, drain=5, grace=25)
    clock.advance(START + 5, busy=True)
    clock.sweep(START + 7)
    assert phases(clock, busy=True) == [(8.5, stop.SWEEP_KILL)]


def test_after_the_release_the_rest_gets_its_two_seconds():
    clock = StopClock(START, drain=5, grace=25)
    clock.sweep(START + 7)
    assert clock.phase == stop.SWEEP
    assert phases(clock) == [(8.5, stop.SWEEP_KILL)]
    assert clock.ends_at == START + 9


def test_a_release_that_ended_late_leaves_the_rest_what_was_kept_for_it():
    clock = StopClock(START, drain=0, grace=25)
    clock.sweep(START + 23.1)
    assert phases(clock) == [(24.5, stop.SWEEP_KILL)]
    assert clock.ends_at == START + 25


@pytest.mark.parametrize(("drain", "grace"), [*itertools.product(DRAINS, GRACES)])
def test_every_stop_keeps_to_the_grace_and_kills_before_its_end(drain, grace):
    clock = StopClock(START, drain=drain, grace=grace)
    most = max(grace, stop.LEAST_SECONDS)
    assert START <= clock.drain_until <= clock.hold_until <= clock.kill_at
    assert clock.kill_at < clock.ends_at == START + most
    assert clock.kill_at <= clock.sweep_kill_at < clock.ends_at
