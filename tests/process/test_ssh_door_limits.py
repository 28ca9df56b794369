"""The door against attackers: penalties, too many at once, and what the log says of it."""

import contextlib
import os
import re
import resource
import socket
import subprocess
import threading
import time

import pytest

from support.need import need
from support.ssh_door import ATTACKER, BANNER, PERSON, entrances, goes
from support.wait import PATIENCE_SECONDS, holds, until


@pytest.fixture
def enter(tmp_path):
    yield from entrances(tmp_path)


@pytest.fixture
def entrance(enter):
    return enter()


# -- penalties -------------------------------------------------------------------------------------


def fail(entrance, daemon, source, times):
    """Fail to log in from `source`, again and again; return the daemon."""
    for _ in range(times):
        entrance.connect(source, BANNER)
        daemon = daemon or entrance.daemon()
        before = entrance.counts("failed_logins")[0]
        daemon.fail(daemon.connection())
        entrance.until(failed_logins=before + 1)
    return daemon


def test_after_failed_logins_the_source_is_refused_at_the_door_and_others_are_not(entrance):
    daemon = fail(entrance, None, ATTACKER, 4)
    said = goes(entrance.connect(ATTACKER))
    assert re.fullmatch(rb"too many failed .* your address; try again in (1\d|20) s\r\n", said)
    entrance.until(refused=1, penalised=1)
    entrance.connect(PERSON, BANNER)
    assert daemon.connection()
    entrance.put_forward(20)
    entrance.connect(ATTACKER, BANNER)
    assert daemon.connection()


def test_a_real_client_shows_why(entrance):
    fail(entrance, None, PERSON, 4)
    client = subprocess.run(
        ["ssh", "-v", "-F", "none", "-p", str(entrance.port), f"root@{PERSON}"],
        capture_output=True, text=True, timeout=PATIENCE_SECONDS, check=False,
    )  # fmt: skip
    assert client.returncode == 255
    assert "too many failed logins from your address" in client.stderr


def test_somebody_with_many_keys_of_which_the_last_is_right_has_not_failed(entrance):
    daemon = None
    for _ in range(10):
        entrance.connect(says=BANNER)
        daemon = daemon or entrance.daemon()
        number = daemon.connection()
        for _ in range(5):
            daemon.say(failed=number)
        daemon.log_in(number)
        daemon.hang_up_on(number, login=True)
    entrance.until(wrong_keys=50, failed_logins=0, logins=10, penalised=0)


def test_a_login_in_time_ends_what_has_added_up(entrance):
    daemon = fail(entrance, None, PERSON, 3)
    entrance.connect(says=BANNER)
    daemon.log_in(daemon.connection())
    fail(entrance, daemon, PERSON, 10)
    entrance.until(penalised=0)


def test_an_exempt_network_is_never_refused(enter):
    entrance = enter(SSH_PENALTY_EXEMPT="127.0.0.2/32")
    fail(entrance, None, ATTACKER, 10)
    entrance.until(penalised=0, failed_logins=10)


def test_to_be_dropped_excuses_no_wrong_keys(enter):
    entrance = enter(SSH_MAX_STARTUPS="1:0:1")
    entrance.connect(ATTACKER, BANNER)
    daemon = entrance.daemon()
    daemon.hello()
    before = daemon.connection()
    for count in range(1, 5):
        daemon.say(failed=before)
        entrance.until(wrong_keys=count)
        entrance.connect(ATTACKER, BANNER)
        told = [daemon.receive(), daemon.receive()]
        assert {"drop": before} in told
        daemon.hang_up_on(before, login=False)
        before = next(message["connection"] for message in told if "connection" in message)
    entrance.until(failed_logins=4, penalised=1)


def test_who_takes_the_whole_time_to_log_in_is_penalised_at_the_second_time(entrance):
    for _ in range(2):
        entrance.connect(ATTACKER, BANNER)
    daemon = entrance.daemon()
    daemon.hello()
    numbers = [daemon.connection() for _ in range(2)]
    entrance.put_forward(61)
    for number in numbers:
        daemon.hang_up_on(number, login=False)
    entrance.until(unauthenticated=0, penalised=1, failed_logins=0)


def test_who_speaks_and_tries_nothing_is_penalised_a_little(entrance):
    daemon = None
    for count in range(1, 20):
        entrance.connect(ATTACKER, BANNER)
        daemon = daemon or entrance.daemon()
        daemon.hang_up_on(daemon.connection(), login=False)
        entrance.until(unauthenticated=0)
        assert entrance.counts("penalised") == [count > 15]
        if count > 15:
            break


# -- too many --------------------------------------------------------------------------------------


@pytest.fixture
def many_descriptors():
    """Both ends of 2,000 connections are in this process."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    need(hard == resource.RLIM_INFINITY or hard >= 5000, "5,000 descriptors (ulimit -n)")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 5000), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_two_thousand_silent_connections_lock_nobody_out(entrance, many_descriptors):
    for _ in range(2000):
        entrance.connect(ATTACKER)
    entrance.until(accepted=2000)
    assert entrance.counts("unauthenticated")[0] <= 100
    began = time.monotonic()
    entrance.connect(PERSON, BANNER)
    daemon = entrance.daemon()
    person = None
    while person is None:
        message = daemon.receive()
        if message["source"][0] == PERSON:
            person = message["connection"]
    daemon.log_in(person)
    entrance.until(logged_in=1)
    assert time.monotonic() - began < 1
    assert daemon.clients[person].recv(100) == BANNER


def test_two_thousand_that_speak_are_dropped_by_the_daemon_for_others(entrance, many_descriptors):
    entrance.connect(PERSON, BANNER)
    daemon = entrance.daemon()
    daemon.hello()
    person, dropped = daemon.connection(), []

    def drop():
        while (message := daemon.receive()) is not None:
            if "drop" in message:
                dropped.append(message["drop"])
                daemon.hang_up_on(message["drop"], login=False)

    dropping = threading.Thread(target=drop)
    dropping.start()
    for _ in range(2000):
        entrance.connect(ATTACKER, BANNER)
    entrance.until(accepted=2001)
    daemon.log_in(person)
    entrance.until(logged_in=1)
    still, lost = entrance.counts("unauthenticated", "dropped")
    until(
        lambda: len(entrance.door._handover.connections) == still + 1,
        "the daemon to have closed what it was to",
    )
    daemon.link.shutdown(socket.SHUT_RDWR)
    dropping.join(PATIENCE_SECONDS)
    assert person not in dropped
    assert dropped
    assert still <= 100
    assert lost == 2000 - still
    entrance.until(penalised=0, unauthenticated=0)  # to be dropped is nobody's fault


def test_refusals_are_logged_one_by_one_and_then_summed_up(entrance, caplog):
    fail(entrance, None, ATTACKER, 4)
    for _ in range(200):
        entrance.connect(ATTACKER)
    entrance.until(refused=200)
    entrance.put_forward(60)
    until(lambda: "in the last minute" in caplog.text, "the sum")
    lines = [record for record in caplog.records if hasattr(record, "source")]
    assert len(lines) == 6
    assert lines[0].getMessage() == ("refused a connection from 127.0.0.2: too many failed logins")
    assert lines[-1].getMessage() == (
        "refused 200 connections in the last minute: 200 from 127.0.0.2 (too many failed logins)"
    )
    assert (lines[-1].source, lines[-1].count) == (ATTACKER, 200)


def test_without_descriptors_it_waits_and_says_so_once(entrance, caplog):
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    client = socket.socket()
    with contextlib.closing(client):
        lowest = os.open(os.devnull, os.O_RDONLY)
        os.close(lowest)
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, limits[1]))
        try:
            client.settimeout(PATIENCE_SECONDS)
            client.connect((PERSON, entrance.port))
            until(lambda: "cannot accept SSH connections" in caplog.text, "the line")
            entrance.put_forward(1)
            holds(lambda: entrance.counts("accepted") == [0], "none to be accepted", 0.2)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        entrance.put_forward(1)
        entrance.until(accepted=1)
        assert caplog.text.count("cannot accept") == 1
