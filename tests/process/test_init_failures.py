"""What goes wrong with a release is named: out of memory, ends in a row, a run that was cut off."""

import signal
import sys
import time

import pytest

from support import cgroup
from support.replica import kill_all
from support.wait import holds, until

PYTHON = (sys.executable, "-I", "-S")

EATS_MEMORY = "x = [b'x' * (1 << 20) for _ in range(200)]"
LIMIT_MIB = 64
FAILS_TWICE = "mkdir first 2>/dev/null && exit 3; mkdir second 2>/dev/null && exit 4; sleep 600"


@pytest.fixture
def memory():
    with cgroup.group("memory") as folder:
        (folder / "memory.limit_in_bytes").write_text(str(LIMIT_MIB << 20))
        yield folder


def test_a_kill_for_memory_is_named_with_limit_and_peak(boot, memory):
    wrapper = cgroup.entered(memory)
    replica = boot(*PYTHON, "-c", EATS_MEMORY, wrapper=wrapper)
    assert replica.wait() == 137
    (line,) = replica.events("release ended")
    assert line["message"].endswith(
        f"killed by the kernel, out of memory: limit {LIMIT_MIB} MiB, peak {LIMIT_MIB} MiB; "
        "exit code 137"
    )


def test_a_killed_part_of_the_release_is_named_too(boot, memory):
    programs = {"release": f'{" ".join(PYTHON)} -c "{EATS_MEMORY}"; exit 5'}
    replica = boot("./release", programs=programs, wrapper=cgroup.entered(memory))
    assert replica.wait() == 5
    assert replica.events("a process in the container was killed by the kernel, out of memory")


def test_a_plain_kill_is_not_taken_for_want_of_memory(boot, memory):
    replica = boot("sh", "-c", "kill -9 $$", wrapper=cgroup.entered(memory))
    assert replica.wait() == 137
    assert replica.events("release ended")[0]["message"].endswith(": SIGKILL, exit code 137")


def test_the_next_run_reports_one_that_was_cut_off(boot):
    replica = boot("sleep", "600").until_ready()
    replica.signal(signal.SIGKILL)
    replica.wait()
    until(lambda: "entrypoint.agent" not in str(replica.commands()), "the agent ends without PID 1")
    kill_all(replica.alive)

    again = boot("true", root=replica.root)
    assert again.wait() == 0
    (line,) = again.events("the previous run, started at")
    assert line["severity"] == "ERROR"
    assert "ended without a stop" in line["message"]


@pytest.mark.parametrize("command", [("true",), ("false",), ("sh", "-c", "kill -9 $$")])
def test_an_end_in_order_is_not_reported(start, command):
    first = start(*command)
    first.wait()
    again = start("true", root=first.root)
    assert again.wait() == 0
    assert not again.events("the previous run")


def test_with_restart_a_release_that_fails_is_started_again(boot):
    replica = boot(
        "./release", programs={"release": FAILS_TWICE}, settings={"RESTART": "on-failure"}
    )
    replica.until_said("exit code 3")
    unready_and_alive(replica, started=1)
    replica.until_said("exit code 4")
    unready_and_alive(replica, started=2)
    replica.until_ready()
    assert len(replica.events("release started")) == 3
    first, second = (
        float(event["message"].split()[5]) for event in replica.events("starting the release again")
    )
    assert 0.8 <= first <= 1.2
    assert 1.6 <= second <= 2.4
    assert (
        replica.get("/readyz").body["release_pid"]
        == (replica.events("release started")[-1]["release_pid"])
    )
    assert replica.term().wait() == 143
    assert len(replica.events("release started")) == 3, "a stop is no failure"


def unready_and_alive(replica, *, started):
    """Both hold from the end of the release, the `started`-th, until another one runs."""

    def is_so():
        ready, alive = replica.get("/readyz"), replica.get("/livez")
        if len(replica.events("release started")) > started:
            return True
        return (ready.status, alive.status) == (503, 200)

    holds(is_so, "unready and alive", 0.5)


def test_with_restart_a_release_that_ends_well_is_not_started_again(boot):
    replica = boot("true", settings={"RESTART": "on-failure"})
    assert replica.wait() == 0
    assert len(replica.events("release started")) == 1


def test_a_stop_between_two_starts_ends_it_at_once(boot):
    replica = boot("false", settings={"RESTART": "on-failure", "DRAIN_SECONDS": "10"})
    pauses = "starting the release again in"  # the second is 1.6 s at least: time for what follows
    until(lambda: len(replica.events(pauses)) == 2, lambda: f"a second pause: {replica.log}")
    asked_at = time.monotonic()
    assert replica.term().wait() == 143
    assert time.monotonic() - asked_at < 3
    assert len(replica.events("release started")) == 2


def test_what_a_failed_release_left_in_its_group_is_gone_before_the_next_start(boot):
    release = "mkdir first 2>/dev/null || exec sleep 600; sleep 601 & exit 3"
    replica = boot("./release", programs={"release": release}, settings={"RESTART": "on-failure"})
    replica.until_said("starting the release again in")
    assert "sleep 601" not in replica.commands().values()
    until(lambda: len(replica.events("release started")) == 2, "it is started again")
    until(lambda: "sleep 600" in replica.commands().values(), "it runs")


def test_a_limit_of_processes_is_named_when_a_release_cannot_be_started_again(boot):
    with cgroup.group("pids") as folder:
        fails = "until [ -e go ]; do sleep 0.02; done; exit 3"
        replica = boot(
            "./release",
            programs={"release": f"[ -e healed ] && exec sleep 600; {fails}"},
            settings={"RESTART": "on-failure"},
            wrapper=cgroup.entered(folder),
        ).until_ready()
        (replica.root / "go").touch()
        replica.until_said("starting the release again in")
        (folder / "pids.max").write_text("1")
        replica.until_said("cannot start the release (Resource temporarily unavailable)")
        assert replica.get("/livez").status == 200
        (replica.root / "healed").touch()
        (folder / "pids.max").write_text("max")
        replica.until_ready()
        assert replica.term().wait() == 143
