"""Start-ups: when a connection is dropped, and whose."""

import itertools

import pytest

from run_agent.settings import Startups
from run_agent.ssh import startups
from run_agent.ssh.startups import SilentStarts, StartUps

LIMITS = Startups(begin=10, rate=30, full=100)


def never():
    return 1.0 - 1e-9


def always():
    return 0.0


def nobody(source):
    return False


def crowd(random, *sources):
    """Give start-ups with one connection for each of `sources`, numbered from 0."""
    startups = StartUps(LIMITS, random)
    for number, source in enumerate(sources):
        startups.add(number, source)
    return startups


@pytest.mark.parametrize(
    ("waiting", "probability"), [(0, 0), (9, 0), (10, 0.3), (55, 0.65), (99, 0.992), (100, 1)]
)
def test_the_probability_rises_as_sshd_has_it(waiting, probability):
    some = crowd(never, *["a"] * waiting)
    assert some.drop_probability() == pytest.approx(probability, abs=0.001)


def test_a_limit_without_a_slope_is_a_wall():
    startups = StartUps(Startups(3, 0, 3), never)
    assert [startups.admit(number, "a", nobody) for number in range(4)] == [None, None, None, 0]


def test_below_the_beginning_nobody_is_dropped():
    startups = StartUps(LIMITS, always)
    assert {startups.admit(number, "a", nobody) for number in range(10)} == {None}


def test_there_are_never_more_than_full():
    startups = StartUps(LIMITS, never)
    for number in range(2000):
        startups.admit(number, f"source {number % 7}", nobody)
        assert len(startups) <= LIMITS.full


def test_the_oldest_of_the_source_that_has_the_most_goes():
    some = crowd(always, "a", *["b"] * 7, "c", "c")
    assert some.admit(10, "person", nobody) == 1
    assert some.admit(11, "b", nobody) == 2


def test_below_full_a_source_keeps_its_only_connection():
    some = crowd(always, *map(str, range(99)))
    assert some.admit(99, "person", nobody) is None
    assert some.admit(100, "person", nobody) == 99


def test_among_equals_the_oldest_goes():
    some = crowd(always, *map(str, range(100)))
    assert some.admit(100, "person", nobody) == 0


def test_a_trusted_source_goes_last_even_if_it_has_the_most():
    some = crowd(always, *["trusted"] * 8, "b", "b")
    assert some.admit(10, "trusted", {"trusted"}.__contains__) == 8


def test_a_newcomer_goes_where_all_others_are_trusted():
    some = crowd(always, *["trusted"] * 100)
    assert some.admit(100, "stranger", {"trusted"}.__contains__) == 100


def test_where_all_are_trusted_they_may_be_several_times_as_many():
    some = StartUps(LIMITS, always)
    trusts = {"trusted", "other"}.__contains__
    most = startups.TRUSTED_TIMES * LIMITS.full
    assert {some.admit(number, "trusted", trusts) for number in range(most)} == {None}
    assert some.admit(most, "other", trusts) == 0
    assert some.admit(most + 1, "stranger", trusts) == most + 1


def test_an_attacker_never_costs_somebody_else_the_place():
    startups = StartUps(LIMITS, always)
    startups.admit(0, "person", nobody)
    victims = {startups.admit(number, "attacker", nobody) for number in range(1, 5000)}
    assert 0 not in victims


def test_attackers_from_everywhere_leave_a_person_some_time():
    startups = StartUps(LIMITS, never)
    for number in range(1000):
        startups.admit(number, f"attacker {number}", nobody)
    startups.admit(1000, "person", nobody)
    victims = [startups.admit(number, f"attacker {number}", nobody) for number in range(1001, 1100)]
    assert 1000 not in victims


def test_who_has_gone_counts_no_longer_and_may_be_told_twice():
    some = crowd(never, "a", "b")
    some.remove(0)
    some.remove(0)
    assert len(some) == 1
    assert some._by_source.keys() == {"b"}


def test_silent_clients_start_a_daemon_a_few_times_and_then_rarely():
    starts = SilentStarts(0.0)
    sources = map(str, itertools.count())
    granted = sum(starts.wait(next(sources), float(now), runs=False) == 0 for now in range(3600))
    assert granted == startups.SILENT_STARTS + 3600 // startups.SILENT_START_SECONDS - 1


def test_the_time_to_wait_is_when_the_next_start_is_due():
    starts = SilentStarts(0.0)
    for _ in range(startups.SILENT_STARTS):
        starts.wait("a", 0.0, runs=False)
    wait = starts.wait("a", 100.0, runs=False)
    assert wait == pytest.approx(startups.SILENT_START_SECONDS - 100)
    assert starts.wait("a", 100.0 + wait + 1e-6, runs=False) == 0


def test_while_the_daemon_runs_a_silent_client_costs_nothing():
    starts = SilentStarts(0.0)
    assert {starts.wait("a", 0.0, runs=True) for _ in range(100)} == {0}
    assert starts.wait("a", 0.0, runs=False) == 0


def test_a_prober_keeps_no_daemon_running():
    starts = SilentStarts(0.0)
    starts.came_to_nothing("prober", 0.0)
    assert starts.wait("prober", 10.0, runs=True) == startups.MUTE_SECONDS - 10
    assert starts.wait("prober", startups.MUTE_SECONDS, runs=True) == 0
    assert starts.wait("person", 10.0, runs=True) == 0


def test_only_so_many_probers_are_remembered():
    starts = SilentStarts(0.0)
    for number in range(2 * startups.MUTE_SOURCES):
        starts.came_to_nothing(str(number), 0.0)
    assert len(starts._mute) == startups.MUTE_SOURCES
