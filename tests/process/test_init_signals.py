"""Signals: which reach the release, which stop it, and that none is lost at the start."""

import itertools
import os
import random
import signal
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from support.replica import cpu_seconds, signals_in, status_of
from support.wait import holds, until

PASSED_ON = ("HUP", "QUIT", "USR1", "USR2", "WINCH")

LISTENER = """
for name in HUP QUIT USR1 USR2 WINCH TERM INT; do trap "echo $1 $name" $name; done
echo "$1 up"
while :; do sleep 0.02; done
"""
"""A bash program that tells every signal that it gets; $1 is what it calls itself."""

WAITS = {
    "app/.profile.d/waits.sh": "touch begun; sleep 600",
    "app/bin/hello": "",
    "app/releases/0.1.0/any": "",
}
"""A release in the app folder whose boot never ends."""
IMAGE = {"CONTROLLER_URL": "none", "MY_POD_IP": "127.0.0.1"}

BOOTS = 24
"""Stops at random moments of a boot, per way of running."""


@pytest.fixture
def listening(boot):
    """Run a release that tells its signals, and so does another process in its group."""
    replica = boot("bash", "-c", f"bash -c '{LISTENER}' - sibling & {LISTENER}", "-", "release")
    replica.until_printed("sibling up")
    replica.until_printed("release up")
    return replica


@pytest.mark.parametrize("name", PASSED_ON)
def test_a_signal_for_the_app_reaches_the_release_and_nothing_else(listening, name):
    agent = listening.agent_pid
    listening.signal(signal.Signals[f"SIG{name}"])
    listening.until_printed(f"release {name}")
    listening.signal(signal.SIGUSR1)  # what would come late, comes before the next one
    until(lambda: listening.stdout.count("release USR1") > (name == "USR1"), "the second signal")
    assert "sibling " not in listening.stdout.replace("sibling up", "")
    assert listening.agent() == agent
    assert listening.process.poll() is None


def test_many_signals_of_one_kind_and_of_all_kinds_arrive(listening):
    for times, name in itertools.product((1, 2, 3), PASSED_ON):
        listening.signal(signal.Signals[f"SIG{name}"])
        until(lambda n=name, t=times: listening.stdout.count(f"release {n}") == t, f"a {name}")


@pytest.mark.parametrize("name", ["TERM", "INT"])
def test_term_and_int_stop_it(boot, name):
    waits = "while :; do sleep 0.05; done"  # a child just forked would lose its group's TERM
    replica = boot("bash", "-c", f"trap 'echo asked; exit 5' TERM; echo up; {waits}")
    replica.until_printed("up")
    replica.signal(signal.Signals[f"SIG{name}"])
    assert replica.wait() == 5
    assert "asked" in replica.stdout
    assert replica.events(f"stopping: SIG{name} received")


@pytest.mark.parametrize("second", ["TERM", "INT"])
def test_a_second_one_skips_the_drain(boot, second):
    replica = boot("sleep", "600", settings={"DRAIN_SECONDS": "60", "GRACE_SECONDS": "120"})
    replica.until_ready().term().until_said("draining for 60 s")
    holds(lambda: replica.process.poll() is None, "it drains", 0.3)
    replica.signal(signal.Signals[f"SIG{second}"])
    assert replica.wait() == 128 + signal.SIGTERM


def test_a_stop_at_any_moment_of_the_boot_ends_it(boot):
    """Neither lost, nor left undone: 143 by us, by the release, or by the kernel before us."""
    settings = {"HEALTH_PORT": "none", "DRAIN_SECONDS": "0.1"}

    def interrupted(delay):
        replica = boot("sleep", "600", settings=settings)
        until_it_can_be_stopped(replica)
        time.sleep(delay)  # the moment itself is what is tested
        code = replica.term().wait(60)
        return code, replica.alive()

    delays = [random.uniform(0, 0.3) for _ in range(BOOTS)]
    with ThreadPoolExecutor(4) as pool:
        ends = list(pool.map(interrupted, delays))
    assert ends == [(143, [])] * BOOTS


def until_it_can_be_stopped(replica):
    """Wait until TERM is blocked or caught: the kernel drops it for a PID 1 that does neither."""

    def can_be():
        status = status_of(replica.pid)
        is_ours = status["Name"].startswith("python")  # and not yet, or no longer, unshare
        return is_ours and signal.SIGTERM in signals_in(status["SigBlk"], status["SigCgt"])

    until(can_be, "TERM blocked or caught", every=0)


def test_a_stop_before_the_release_runs_ends_with_143(boot):
    """The agent is stopped before it can say what to start."""
    replica = boot(verb=("init", "hello"), programs=WAITS, settings=IMAGE)
    until((replica.root / "app" / "begun").exists, lambda: f"it boots: {replica.log}")
    os.kill(replica.agent_pid, signal.SIGSTOP)
    assert replica.get("/livez").status == 200
    assert replica.get("/readyz").status == 503
    assert replica.term().wait() == 143
    assert replica.events("stopping: SIGTERM received")
    assert not replica.events("release started")


def test_a_flood_of_signals_disturbs_nothing(listening):
    for _ in range(2000):
        listening.signal(signal.SIGCHLD)
        listening.signal(signal.SIGWINCH)
    until(lambda: "release WINCH" in listening.stdout, "one of them")
    assert listening.get("/livez").status == 200
    before = cpu_seconds(listening.pid)
    holds(lambda: True, "", 0.5)
    assert cpu_seconds(listening.pid) - before < 0.1, "it is quiet again"
