"""While the agent changes the release: the stop waits, what ends is started again, and restarts.

What an agent says while it does so is said here in its place, through its own link to PID 1.
"""

import ctypes
import itertools
import json
import os
import signal
import socket
import time
from contextlib import suppress

import psutil
import pytest

from support.need import need
from support.wait import holds, until

PIDFD_GETFD = 438
"""The number of pidfd_getfd(2), which Python 3.11 does not know."""

UPGRADE = "upgrade of deploy 41"

STUBBORN = "trap '' TERM; echo up; while :; do sleep 0.1; done"
WAITS = "echo up; while :; do sleep 0.05; done"
"""Not one long sleep: a child that bash has just forked loses a TERM that its group gets."""

TAKES_ITS_TIME = f"trap 'sleep 0.4; echo in order; exit 5' TERM; {WAITS}"
STOPS_WHEN_TOLD = f"trap 'until [ -e go ]; do sleep 0.02; done; exit 5' TERM; {WAITS}"

AGENT_PATIENCE_SECONDS = 45.0
"""An agent that died at its own start comes back after a pause of up to 30 s."""


def link_of(agent):
    """Return the agent's end of its link to PID 1."""
    arguments = psutil.Process(agent).cmdline()
    number = json.loads(arguments[arguments.index("entrypoint.agent") + 1])["link"]
    libc = ctypes.CDLL(None, use_errno=True)
    pidfd = os.pidfd_open(agent)
    descriptor = libc.syscall(PIDFD_GETFD, pidfd, number, 0)
    os.close(pidfd)
    need(descriptor >= 0, f"pidfd_getfd ({os.strerror(ctypes.get_errno())})")
    return socket.socket(fileno=descriptor)


def say(replica, **message):
    """Tell PID 1 something as the agent that runs."""
    with link_of(replica.agent_pid) as link:
        link.setblocking(True)
        link.sendall(json.dumps(message).encode() + b"\n")


def until_started(replica, times):
    """Wait until the release has been started so often; return its pids, as PID 1 has them."""
    until(lambda: len(replica.events("release started")) >= times, lambda: replica.log, every=0.02)
    return [event["release_pid"] for event in replica.events("release started")]


def kill_release(replica):
    """Kill the release that runs, and wait until that is seen."""
    ends = len(replica.events("release ended"))
    os.kill(replica.release_pid, signal.SIGKILL)
    until(lambda: len(replica.events("release ended")) > ends, "its end is seen")


# -- a stop ---------------------------------------------------------------------------------------


def test_a_stop_waits_for_the_change_to_end(boot):
    replica = boot("sleep", "600").until_ready()
    say(replica, busy=UPGRADE)
    replica.term().until_said(f"waiting for the {UPGRADE} to end")
    holds(lambda: replica.get("/livez").status == 200, "the release runs on", 0.5)
    assert replica.get("/readyz").status == 503
    assert not replica.events("asking the release to stop")
    say(replica, busy=None)
    assert replica.wait() == 143
    assert not replica.events("not waiting longer")
    assert replica.alive() == []


def test_it_waits_no_longer_than_leaves_the_release_time_to_stop(start):
    replica = start("bash", "-c", TAKES_ITS_TIME, settings={"GRACE_SECONDS": "4"})
    replica.until_printed("up")
    say(replica, busy=UPGRADE)
    asked_at = time.monotonic()
    replica.term().until_said(f"not waiting longer for the {UPGRADE}: it is cut")
    assert time.monotonic() - asked_at >= 1.6 - 0.1  # half of the 4 s less 0.8 for the rest
    assert replica.wait() == 5
    assert "in order" in replica.stdout


def test_further_terms_end_first_the_drain_and_then_the_hold(start):
    settings = {"DRAIN_SECONDS": "60", "GRACE_SECONDS": "200"}
    replica = start("sleep", "600", settings=settings).until_ready()
    say(replica, busy=UPGRADE)
    replica.term().until_said("draining for 60 s")
    replica.term().until_said(f"waiting for the {UPGRADE} to end")
    holds(lambda: replica.process.poll() is None, "it waits", 0.3)
    assert replica.term().wait() == 143
    assert replica.events(f"not waiting longer for the {UPGRADE}: it is cut")


def test_a_stop_does_not_wait_for_an_agent_that_has_died(start):
    replica = start("sleep", "600", settings={"GRACE_SECONDS": "100"}).until_ready()
    say(replica, busy=UPGRADE)
    replica.term().until_said("waiting for the")
    os.kill(replica.agent_pid, signal.SIGKILL)
    assert replica.wait() == 143
    assert replica.events(f"not waiting longer for the {UPGRADE}: it is cut")


def test_a_change_that_was_over_before_holds_nothing_up(start):
    replica = start("sleep", "600").until_ready()
    say(replica, busy=UPGRADE)
    say(replica, busy=None)
    assert replica.term().wait() == 143
    assert not replica.events("waiting")


# -- a release that ends meanwhile ----------------------------------------------------------------


@pytest.mark.parametrize("code", [0, 3])
def test_a_release_that_ends_meanwhile_is_started_again(boot, code):
    release = f"echo up; until [ -e $(echo go*) ]; do sleep 0.02; done; rm go*; exit {code}"
    replica = boot("./release", programs={"release": release})
    replica.until_printed("up")
    say(replica, busy=UPGRADE)
    (replica.root / "go1").touch()
    first, second = until_started(replica, 2)
    assert first != second
    assert replica.events("starting the release again in")[0]["message"].endswith(
        f"(it ended during the {UPGRADE})"
    )
    replica.until_ready()
    say(replica, busy=None)
    (replica.root / "go2").touch()
    assert replica.wait() == code
    assert len(replica.events("release started")) == 2


def test_the_first_pause_is_short_and_they_grow(start):
    replica = start("sleep", "600").until_ready()
    say(replica, busy=UPGRADE)
    for times in (2, 3, 4):
        kill_release(replica)
        until_started(replica, times)
    pauses = [float(e["message"].split()[5]) for e in replica.events("starting the release again")]
    assert pauses == pytest.approx([0.2, 0.4, 0.8], rel=0.3)


def test_it_is_busy_beyond_the_death_of_its_agent(start):
    replica = start("sleep", "600").until_ready()
    say(replica, busy=UPGRADE)
    agent = replica.agent_pid
    os.kill(agent, signal.SIGKILL)
    kill_release(replica)
    until_started(replica, 2)
    until(lambda: replica.agent() not in {None, agent}, "another agent", AGENT_PATIENCE_SECONDS)
    # nothing is noted of this change, so the next agent cannot go on with it
    until(lambda: "cut, as the agent was killed" in last_change(replica), lambda: replica.log)
    kill_release(replica)
    assert replica.wait() == 137


def last_change(replica):
    done = replica.verb("status", "--json")
    last = done.returncode == 0 and json.loads(done.stdout)["last_change"]
    return last["message"] if last else ""


def test_the_next_agent_is_told(start):
    replica = start("sleep", "600").until_ready()
    assert told_to_the_next_agent(replica, busy=UPGRADE)["busy"] == UPGRADE


def told_to_the_next_agent(replica, **told):
    """Kill agents until one can be stopped before it reads its greeting; return that.

    Each has `told` PID 1 something before it dies.
    """
    for _ in itertools.repeat(None, 10):
        before = replica.agent_pid
        replica.until_ready()
        say(replica, **told)
        os.kill(before, signal.SIGKILL)
        agent = until(
            lambda before=before: replica.agent() not in {None, before} and replica.agent(),
            "another agent",
            AGENT_PATIENCE_SECONDS,
            every=0,
        )
        os.kill(agent, signal.SIGSTOP)
        with link_of(agent) as link:
            link.setblocking(False)
            with suppress(BlockingIOError):  # it was quicker
                greeting = link.recv(1 << 20, socket.MSG_PEEK)
                return json.loads(greeting.splitlines()[0])["hello"]
    raise AssertionError("no agent could be stopped before it read its greeting")


# -- what the agent asks for ----------------------------------------------------------------------


def test_another_launch_counts_from_the_next_start_on(start):
    replica = start("sleep", "600", settings={"RESTART": "on-failure"}).until_ready()
    environ = {"PATH": os.environ["PATH"], "RUN_AGENT_ROOT": str(replica.root), "COLOUR": "red"}
    argv = ["bash", "-c", "echo $COLOUR in $PWD; exec sleep 600"]
    (replica.root / "other").mkdir()
    launch = {"argv": argv, "env": environ, "cwd": str(replica.root / "other"), "stop_group": True}
    say(replica, relaunch=launch)
    holds(lambda: len(replica.events("release started")) == 1, "nothing happens now", 0.3)
    kill_release(replica)
    replica.until_printed(f"red in {replica.root}/other")


def test_a_restart_starts_it_again_whatever_restart_says(boot):
    replica = boot("bash", "-c", TAKES_ITS_TIME)
    replica.until_printed("up")
    say(replica, restart=True)
    first, second = until_started(replica, 2)
    assert first != second
    assert "in order" in replica.stdout
    until(lambda: replica.stdout.count("up") == 2, "it is up again")
    ready = replica.until_ready().get("/readyz").body
    assert ready["release_pid"] == second
    assert replica.term().wait() == 5
    assert len(replica.events("release started")) == 2


def test_what_does_not_stop_to_be_restarted_is_killed_with_its_group(start):
    programs = {"release": "./beside & . ./beside", "beside": STUBBORN}
    replica = start("./release", programs=programs)
    until(lambda: replica.stdout.count("up") == 2, "both are up")

    def both():  # and not what one of them has forked to become a sleep
        found = {pid for pid, command in replica.commands().items() if "bash ./" in command}
        return len(found) == 2 and found

    before = until(both, lambda: f"both in {replica.commands()}")
    asked_at = time.monotonic()
    say(replica, restart=True)
    replica.until_said("killed by run-agent 10 s after it was asked to stop, exit code 137")
    assert time.monotonic() - asked_at > 9.5
    until_started(replica, 2)
    assert not before & set(replica.commands())


def test_a_restart_ends_a_pause_between_two_starts(start):
    replica = start("false", settings={"RESTART": "on-failure"})
    until(lambda: len(replica.events("starting the release again in")) == 3, lambda: replica.log)
    asked_at = time.monotonic()
    say(replica, restart=True)
    until_started(replica, 4)
    assert time.monotonic() - asked_at < 2, "it would have been 3.2 s at least"


def test_a_restart_in_a_stop_is_too_late(start):
    replica = start("sleep", "600", settings={"DRAIN_SECONDS": "1"}).until_ready()
    replica.term().until_said("draining for 1 s")
    say(replica, restart=True)
    assert replica.wait() == 143
    assert len(replica.events("release started")) == 1


def test_a_stop_ends_a_restart_that_is_under_way(start):
    replica = start("bash", "-c", STOPS_WHEN_TOLD)
    replica.until_printed("up")
    say(replica, restart=True)
    replica.until_said("stopping the release, to start it again")
    replica.term().until_said("asking the release to stop")
    (replica.root / "go").touch()
    assert replica.wait() == 5
    assert len(replica.events("release started")) == 1
