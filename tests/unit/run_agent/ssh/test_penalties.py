"""Penalties: who is refused, for how long, and who is not."""

import ipaddress
import itertools

import pytest

from run_agent.ssh import penalties
from run_agent.ssh.penalties import Fault, Penalties, source_of

HOST, OTHER = "192.0.2.1", "192.0.2.2"
LONGEST = 600.0


@pytest.fixture
def table() -> Penalties:
    return Penalties(unit=5.0, longest=LONGEST)


def blame(table, host, times, now=0.0, fault=Fault.WRONG_KEYS):
    for _ in range(times):
        table.blame(host, fault, now)


def test_three_failures_in_a_row_are_a_persons(table):
    blame(table, HOST, 3)
    assert table.refused_for(HOST, 0.0) == 0


def test_the_fourth_refuses_the_source_until_all_of_it_has_passed(table):
    blame(table, HOST, 4)
    assert table.refused_for(HOST, 0.0) == 20
    assert table.refused_for(HOST, 19.0) == 1
    assert table.refused_for(HOST, 20.0) == 0
    assert table.refusing(19.0) == 1
    assert table.refusing(20.0) == 0


def test_other_sources_are_not_refused(table):
    blame(table, HOST, 10)
    assert table.refused_for(OTHER, 0.0) == 0


def test_failures_far_apart_never_add_up(table):
    for now in range(0, 3600, 6):
        table.blame(HOST, Fault.WRONG_KEYS, now)
        assert table.refused_for(HOST, now) == 0


def test_after_a_penalty_it_begins_anew(table):
    blame(table, HOST, 4)
    blame(table, HOST, 3, now=30.0)
    assert table.refused_for(HOST, 30.0) == 0


def test_no_penalty_is_longer_than_the_longest(table):
    blame(table, HOST, 1000)
    assert table.refused_for(HOST, 0.0) == LONGEST


def test_a_longest_penalty_below_the_minimum_still_refuses():
    table = Penalties(unit=5.0, longest=10.0)
    blame(table, HOST, 2)
    assert table.refused_for(HOST, 0.0) == 10


def test_a_connection_without_an_attempt_costs_little_and_one_that_lingers_much(table):
    blame(table, HOST, 15, fault=Fault.NO_ATTEMPT)
    assert table.refused_for(HOST, 0.0) == 0
    blame(table, OTHER, 2, fault=Fault.GRACE_EXCEEDED)
    assert table.refused_for(OTHER, 0.0) == 20


def test_zero_turns_penalties_off():
    table = Penalties(unit=0.0, longest=600.0)
    blame(table, HOST, 1000)
    assert table.refused_for(HOST, 0.0) == 0


def test_a_login_ends_the_penalty_and_vouches_for_a_while(table):
    blame(table, HOST, 10)
    table.absolve(HOST, 1.0)
    assert table.refused_for(HOST, 1.0) == 0
    blame(table, HOST, 10, now=1.0 + penalties.TRUST_SECONDS)
    assert table.refused_for(HOST, 1.0 + penalties.TRUST_SECONDS) == 0
    later = 2.0 + penalties.TRUST_SECONDS
    blame(table, HOST, 10, now=later)
    assert table.refused_for(HOST, later) == 50


def test_an_exempt_network_has_no_penalty():
    networks = [ipaddress.ip_network("192.0.2.0/31"), ipaddress.ip_network("fd00::1/128")]
    table = Penalties(5.0, 600.0, networks)
    for host in (HOST, "::ffff:192.0.2.1", "fd00::1", OTHER):
        blame(table, host, 10)
    assert table.refused_for(HOST, 0.0) == 0
    assert table.refused_for("fd00::1", 0.0) == 0
    assert table.refused_for(OTHER, 0.0) == 50


def test_an_exempt_address_is_not_refused_for_its_neighbours():
    table = Penalties(5.0, 600.0, [ipaddress.ip_network("fd00::1/128")])
    blame(table, "fd00::2", 10)
    assert table.refused_for("fd00::3", 0.0) == 50
    assert table.refused_for("fd00::1", 0.0) == 0


@pytest.mark.parametrize(
    ("host", "source"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2:ffff::1", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("::1", "::/64"),
    ],
)
def test_a_source_is_an_ipv4_address_or_an_ipv6_network(host, source):
    assert source_of(host) == source


def test_the_table_stays_small(table):
    for number in range(3 * penalties.SOURCES):
        table.blame(f"2001:db8:0:{number:x}::1", Fault.WRONG_KEYS, number / 1000)
        table.absolve(f"2001:db8:1:{number:x}::1", number / 1000)
    assert len(table._penalties) == penalties.SOURCES
    assert len(table._logins) == penalties.SOURCES


def test_a_flood_of_other_sources_frees_nobody(table):
    blame(table, HOST, 100)
    for number in range(3 * penalties.SOURCES):
        table.blame(f"2001:db8:0:{number:x}::1", Fault.WRONG_KEYS, 0.0)
    assert table.refused_for(HOST, 0.0) == 500


def test_a_table_full_of_long_penalties_lets_no_newcomer_off(table):
    for number, _ in itertools.product(range(penalties.SOURCES), range(10)):
        table.blame(f"2001:db8:0:{number:x}::1", Fault.WRONG_KEYS, 0.0)
    blame(table, HOST, 4)
    assert table.refused_for(HOST, 0.0) == 20


def test_what_has_passed_is_forgotten_and_nothing_else(table):
    blame(table, HOST, 3)
    blame(table, OTHER, 1)
    blame(table, "192.0.2.3", 1, now=5.0)
    assert table._penalties.keys() == {HOST, "192.0.2.3"}


def test_one_source_that_fails_for_ever_takes_no_memory(table):
    for number in range(5 * penalties.SOURCES):
        table.blame(HOST, Fault.WRONG_KEYS, number / 1000)
    assert len(table._ends) <= 2 * penalties.SOURCES
    assert table.refused_for(HOST, number / 1000) == LONGEST
