"""Every signal that a container runtime can send to PID 1, and `podman stop`."""

import signal
import time

import pytest

from support.wait import holds, until

STOP = {signal.SIGTERM, signal.SIGINT}
PASSED_ON = {signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2, signal.SIGWINCH}
FORCED = {signal.SIGKILL, signal.SIGSTOP}
"""What no process can refuse; the others never reach a PID 1 that does not handle them."""

WITHOUT_EFFECT = [
    *sorted(set(range(1, 32)) - STOP - PASSED_ON - FORCED), signal.SIGRTMIN, signal.SIGRTMAX,
]  # fmt: skip

LISTENER = """
for number in {1..64}; do trap "echo got $number" $number; done 2>/dev/null
trap - CHLD
trap 'echo asked; exit 5' TERM
echo up
exec 3<> <(:)
while :; do read -t 0.05 -u 3; done
"""
"""A bash program that tells every signal it gets; its waiting starts no process."""


@pytest.fixture
def listening(host):
    """Run a release that tells its signals."""
    replica = host.boot("bash", "-c", LISTENER, verb=("exec", "--"))
    replica.until_printed("up")
    return replica.until_ready()


def test_each_is_passed_on_or_has_no_effect_and_none_ends_it(listening):
    pids = listening.release_pid, listening.agent_pid
    for number in WITHOUT_EFFECT:
        listening.signal(number)
    for number in sorted(PASSED_ON):
        listening.signal(number)
        listening.until_printed(f"got {number:d}\n")
    heard = set(listening.stdout.split()) - {"got", "up"}
    assert heard == {str(int(number)) for number in PASSED_ON}
    assert (listening.release_pid, listening.agent()) == pids
    assert listening.is_ready()


def test_it_can_be_stopped_and_continued(listening):
    listening.signal(signal.SIGSTOP)
    listening.signal(signal.SIGUSR1)
    holds(lambda: "got" not in listening.stdout, "nothing is passed on meanwhile", 0.2)
    listening.signal(signal.SIGCONT)
    listening.until_printed(f"got {signal.SIGUSR1:d}\n")
    assert listening.is_ready()


@pytest.mark.parametrize("number", sorted(STOP))
def test_term_and_int_stop_it(listening, number):
    listening.signal(number)
    assert listening.wait() == 5
    assert listening.events(f"stopping: {number.name} received")
    assert "asked" in listening.stdout


def test_a_second_term_skips_the_drain(host):
    settings = {"DRAIN_SECONDS": "60", "GRACE_SECONDS": "90"}
    replica = host.boot("sleep", "600", verb=("exec", "--"), settings=settings).until_ready()
    replica.term().until_said("draining for 60 s")
    assert replica.get("/readyz").status == 503
    replica.signal(signal.SIGTERM)
    assert replica.wait() == 143


def test_the_runtimes_stop_is_an_orderly_one(listening):
    listening.container.stop(30)
    assert listening.wait() == 5
    assert listening.events("stopping: SIGTERM received")


def test_the_runtimes_patience_may_end_before_ours(host):
    """Then it kills PID 1, and the kernel everything else."""
    stubborn = "trap '' TERM; echo up; exec sleep 600"
    replica = host.boot("sh", "-c", stubborn, verb=("exec", "--"))
    replica.until_printed("up")
    processes = replica.alive()
    asked_at = time.monotonic()
    replica.container.stop(1)
    assert replica.wait() == 137
    assert time.monotonic() - asked_at < 8
    until(lambda: not any(process.is_running() for process in processes), "everything is gone")


def test_pid_1_cannot_be_killed_from_inside(listening):
    assert listening.exec("bash", "-c", "kill -KILL 1").returncode == 0
    assert listening.is_ready()
    listening.signal(signal.SIGUSR1)
    listening.until_printed(f"got {signal.SIGUSR1:d}\n")


def test_a_killed_pid_1_takes_everything_with_it(listening):
    processes = listening.alive()
    assert len(processes) >= 3
    listening.signal(signal.SIGKILL)
    assert listening.wait() == 137
    until(lambda: not any(process.is_running() for process in processes), "everything is gone")
