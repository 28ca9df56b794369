"""The door against real clients and probers: whom it hands over, when, and to which daemon."""

import socket

import pytest

from run_agent.ssh.door import RECHECK_SECONDS, SILENT_SECONDS
from run_agent.ssh.startups import MUTE_SECONDS, SILENT_STARTS
from support.ssh_door import ATTACKER, BANNER, PERSON, PROBER, entrances, goes
from support.wait import holds, until

MOMENT_SECONDS = 0.2


@pytest.fixture
def enter(tmp_path):
    yield from entrances(tmp_path)


@pytest.fixture
def entrance(enter):
    return enter()


# -- handing over ----------------------------------------------------------------------------------


def test_somebody_who_speaks_is_handed_to_the_daemon_with_all_that_was_said(entrance):
    client = entrance.connect(says=BANNER)
    daemon = entrance.daemon()
    message = daemon.receive()
    number = message["connection"]
    assert message["source"] == list(client.getsockname())
    assert message["local"] == list(client.getpeername())
    assert 59 < message["grace"] <= 60
    behind = daemon.clients[number]
    assert not behind.get_inheritable()
    assert behind.recv(100) == BANNER
    behind.sendall(b"SSH-2.0-us\r\n")
    assert client.recv(100) == b"SSH-2.0-us\r\n"
    daemon.hang_up_on(number, login=False)
    assert goes(client) == b""  # our copy is closed as well
    entrance.until(unauthenticated=0, handed_over=1, daemon_starts=1)


def test_one_byte_is_enough_and_the_rest_may_come_later(entrance):
    client = entrance.connect(says=b"S")
    daemon = entrance.daemon()
    behind = daemon.clients[daemon.connection()]
    client.sendall(BANNER[1:])
    until(lambda: behind.recv(100, socket.MSG_PEEK) == BANNER, "the rest to arrive")


def test_the_next_ones_come_over_the_same_link(entrance):
    for _ in range(9):
        entrance.connect(says=BANNER)
    daemon = entrance.daemon()
    daemon.hello()
    numbers = {daemon.connection() for _ in range(9)}
    assert len(numbers) == 9
    assert not entrance.daemon_is_wanted()


def test_a_path_longer_than_the_kernel_takes_is_reached(enter, tmp_path):
    entrance = enter(tmp_path / ("a" * 100) / ("b" * 100))
    entrance.connect(says=BANNER)
    assert entrance.daemon().connection()


@pytest.mark.parametrize("words", [b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\x02\x00", b"\0"])
def test_what_does_not_speak_ssh_is_turned_away_without_a_daemon(entrance, words):
    client = entrance.connect(says=words)
    goes(client)
    assert entrance.counts("not_ssh", "unauthenticated") == [1, 0]
    assert not entrance.daemon_is_wanted()


def test_the_keys_are_given_to_every_daemon_and_start_none(entrance):
    entrance.loop.call_soon_threadsafe(entrance.door.keys_changed, b"some keys")
    assert not entrance.daemon_is_wanted()
    entrance.connect(says=BANNER)
    daemon = entrance.daemon()
    assert daemon.receive_passed() == ({"keys": True}, b"some keys")
    assert "connection" in daemon.receive()
    entrance.loop.call_soon_threadsafe(entrance.door.keys_changed, b"others")
    assert daemon.receive_passed() == ({"keys": True}, b"others")


# -- the daemon's life -----------------------------------------------------------------------------


def test_an_idle_daemon_may_go_and_the_next_connection_calls_another(entrance):
    entrance.connect(says=BANNER)
    first = entrance.daemon()
    number = first.connection()
    first.hello()
    first.say(idle=True)  # it had not seen the connection yet
    first.say(authenticated=number)
    entrance.until(logged_in=1)
    first.hang_up_on(number, login=True)
    entrance.until(logged_in=0)
    first.say(idle=True)
    assert first.receive() == {"bye": True}
    assert first.receive() is None
    entrance.connect(says=BANNER)
    assert entrance.daemon().connection() != number
    assert entrance.counts("daemon_starts") == [2]


def test_a_daemon_that_dies_takes_its_connections_out_of_the_counts(entrance):
    for _ in range(4):
        entrance.connect(says=BANNER)
    daemon = entrance.daemon()
    daemon.hello()
    numbers = [daemon.connection() for _ in range(4)]
    daemon.say(authenticated=numbers[0])
    entrance.until(logged_in=1, unauthenticated=3)
    daemon.close()
    entrance.until(logged_in=0, unauthenticated=0, lost=4)
    assert not entrance.daemon_is_wanted()
    entrance.connect(says=BANNER)
    assert entrance.daemon().connection()


def test_what_the_settings_limit_is_counted(entrance):
    limits = ("too_many_attempts", "too_slow", "unresponsive")
    for _ in range(4):
        entrance.connect(says=BANNER)
    daemon = entrance.daemon()
    first, *others = [daemon.connection() for _ in range(4)]
    daemon.hello()
    daemon.log_in(first)
    daemon.say(session_refused=first)
    for number, limit in zip(others, limits, strict=True):
        daemon.hang_up_on(number, login=False, limit=limit)
    daemon.hang_up_on(first, login=True, limit=None)
    entrance.until(sessions_refused=1, logged_in=0, **dict.fromkeys(limits, 1))


def test_the_agents_successor_learns_what_the_daemon_has(enter):
    entrance = enter(daemon_runs=True)
    daemon = entrance.daemon()
    daemon.hello([[1, ATTACKER], [2, ATTACKER]], [[3, PERSON]])
    entrance.until(unauthenticated=2, logged_in=1, daemon_starts=0)
    daemon.say(closed=1, login=False, reason="gone")
    daemon.say(authenticated=2)
    daemon.say(closed=3, login=True, reason="gone")
    entrance.until(unauthenticated=0, logged_in=1)
    entrance.connect(says=BANNER)
    assert daemon.connection() > 3


def test_a_daemon_that_does_not_greet_is_given_up(entrance):
    client = entrance.connect(says=BANNER)
    daemon = entrance.daemon()
    number = daemon.connection()
    entrance.put_forward(31)
    entrance.until(lost=1, unauthenticated=0)
    assert daemon.receive() is None
    daemon.clients[number].close()
    assert goes(client) == b""
    entrance.connect(says=BANNER)
    assert entrance.daemon().connection()


def test_nonsense_from_the_daemon_ends_the_link_and_not_the_door(entrance):
    for nonsense in ({"what": 1}, {"hello": 5}, {"failed": "x"}, {"hello": {}}):
        entrance.connect(says=BANNER)
        daemon = entrance.daemon()
        daemon.connection()
        daemon.say(**nonsense)
        assert daemon.receive() is None
    entrance.connect(says=BANNER)
    assert entrance.daemon().connection()


def test_without_the_daemons_socket_a_connection_is_closed_and_the_door_goes_on(entrance, caplog):
    entrance.layout.sshd_socket.unlink()
    assert goes(entrance.connect(says=BANNER)) == b""
    entrance.until(lost=1, unauthenticated=0)
    assert "cannot reach the SSH daemon" in caplog.text


def test_what_a_dead_daemon_had_not_taken_goes_to_the_next(enter):
    entrance = enter(SSH_MAX_STARTUPS="1000:30:1000")
    for _ in range(600):
        entrance.connect(says=BANNER)
    entrance.until(handed_over=600)
    entrance.daemon().close()
    until(lambda: entrance.counts("lost") != [0], "its end to be noticed")
    taken = entrance.counts("lost")[0]
    assert 0 < taken < 600
    second = entrance.daemon()
    assert len({second.connection() for _ in range(600 - taken)}) == 600 - taken


def test_where_no_daemon_lives_nobody_is_sent_for_ever(enter):
    entrance = enter(SSH_MAX_STARTUPS="1000:30:1000")
    for _ in range(600):
        entrance.connect(says=BANNER)
    entrance.until(handed_over=600)

    def all_are_lost():
        entrance.daemon_is_wanted()  # and gone at once
        return entrance.counts("lost", "unauthenticated") == [600, 0]

    until(all_are_lost, "each to be tried twice at most")


def test_what_a_slow_daemon_has_not_taken_is_bounded(enter):
    entrance = enter(SSH_MAX_STARTUPS="300:30:300")
    for _ in range(2000):
        entrance.connect(ATTACKER, BANNER)
    entrance.until(accepted=2000)
    entrance.put_forward(0)
    assert len(entrance.door._handover.connections) < 1000  # the kernel's queue, and 300
    person = entrance.connect(PERSON, BANNER)
    daemon = entrance.daemon()
    while daemon.receive().get("source") != list(person.getsockname()):
        pass


def test_a_daemon_that_takes_nothing_holds_up_nobody(enter):
    entrance = enter(SSH_MAX_STARTUPS="1000:30:1000")
    for _ in range(600):
        entrance.connect(says=BANNER)
    entrance.until(handed_over=600)  # and most of them wait in the door
    daemon = entrance.daemon()
    assert len({daemon.connection() for _ in range(600)}) == 600


# -- those who say nothing -------------------------------------------------------------------------


def test_a_client_that_waits_for_the_banner_gets_it_after_a_second(entrance):
    client = entrance.connect()
    holds(lambda: not entrance.daemon_is_wanted(), "no daemon at once", MOMENT_SECONDS)
    entrance.put_forward(SILENT_SECONDS)
    daemon = entrance.daemon()
    message = daemon.receive()
    assert message["grace"] <= 60 - SILENT_SECONDS
    daemon.clients[message["connection"]].sendall(b"SSH-2.0-us\r\n")
    assert client.recv(100) == b"SSH-2.0-us\r\n"


def test_a_prober_every_second_for_an_hour_starts_no_daemon(entrance):
    for number in range(1, 3601):
        entrance.connect(PROBER).close()
        until(lambda: entrance.counts("probed") == [number], "the probe to be seen", every=0)  # noqa: B023 - asked at once
        entrance.put_forward(1)
    entrance.until(unauthenticated=0, handed_over=0, daemon_starts=0, penalised=0)
    assert not entrance.daemon_is_wanted()


def test_a_prober_that_stays_silent_starts_one_rarely_and_keeps_none(entrance):
    for _ in range(360):  # every ten seconds for an hour; it stays for five of them
        probe = entrance.connect(PROBER)
        entrance.until(unauthenticated=1)
        before = entrance.counts("handed_over")
        entrance.put_forward(5)
        probe.close()
        if entrance.counts("handed_over") != before:
            daemon = entrance.daemon()
            daemon.hello()
            daemon.hang_up_on(daemon.connection(), login=False)
            daemon.say(idle=True)
            assert daemon.receive() == {"bye": True}
        entrance.until(unauthenticated=0)
        entrance.put_forward(5)
    assert 1 <= entrance.counts("daemon_starts")[0] <= 3600 / MUTE_SECONDS


def test_silent_ones_get_a_daemon_that_runs_anyway(entrance):
    for number in range(SILENT_STARTS + 3):
        entrance.connect(f"127.0.0.{10 + number}")
    entrance.until(unauthenticated=SILENT_STARTS + 3)
    entrance.put_forward(SILENT_SECONDS)
    entrance.until(handed_over=SILENT_STARTS + 3, daemon_starts=1)


def test_when_silent_ones_have_started_enough_daemons_they_wait_their_time_out(entrance):
    for number in range(SILENT_STARTS):
        entrance.connect(f"127.0.0.{10 + number}")
        entrance.until(unauthenticated=1)
        entrance.put_forward(SILENT_SECONDS)
        entrance.daemon().close()
        entrance.until(unauthenticated=0)
    client = entrance.connect(PERSON)
    entrance.until(unauthenticated=1)
    entrance.put_forward(59)
    entrance.until(unauthenticated=1, silent=0)
    entrance.put_forward(1)
    assert goes(client) == b""
    entrance.until(unauthenticated=0, silent=1, penalised=0, daemon_starts=SILENT_STARTS)


def test_a_silent_one_that_waits_gets_the_daemon_that_another_has_started(entrance):
    for number in range(SILENT_STARTS):
        entrance.connect(f"127.0.0.{10 + number}")
        entrance.until(unauthenticated=1)
        entrance.put_forward(SILENT_SECONDS)
        entrance.daemon().close()
        entrance.until(unauthenticated=0)
    entrance.connect(PERSON)
    entrance.until(unauthenticated=1)
    entrance.put_forward(SILENT_SECONDS)
    entrance.connect(PROBER, BANNER)
    daemon = entrance.daemon()
    assert daemon.receive()["source"][0] == PROBER
    entrance.put_forward(RECHECK_SECONDS)
    assert daemon.receive()["source"][0] == PERSON


def test_somebody_silent_from_where_somebody_logged_in_is_always_heard(entrance):
    for _ in range(SILENT_STARTS + 3):
        entrance.connect(says=BANNER)
        daemon = entrance.daemon()
        daemon.log_in(daemon.connection())
        entrance.until(logged_in=1)
        daemon.close()
        entrance.until(logged_in=0)
        entrance.connect()
        entrance.until(unauthenticated=1)
        entrance.put_forward(SILENT_SECONDS)
        silent = entrance.daemon()
        assert silent.connection()
        silent.close()
        entrance.until(unauthenticated=0)
