"""What a container runtime does to a replica: exec, kill, restart, run again, remove."""

import json
from pathlib import Path

import psutil
import pytest

from support import small_slugs
from support.platform import current
from support.replica import status_of
from support.wait import until

LINE = "trap 'echo bye; exit 0' TERM; echo up; while :; do sleep 0.02; done"

NO_CHECK = {"READY_CHECK": "none"}

LEAVE_SECONDS = 10.0
"""How long podman may take to clear up after a container."""


@pytest.fixture
def replica(host):
    """Boot a slug that stops in order."""
    host.deploy(small_slugs.running(LINE))
    return until_up(host.boot(settings=NO_CHECK))


def until_up(replica):
    """Wait until it is ready, and would stop in order."""
    replica.until_ready().until_printed("up")
    return replica


def test_pid_1_is_ours_and_exec_asks_it(replica):
    assert "entrypoint.init" in replica.exec("cat", "/proc/1/cmdline").stdout
    assert status_of(replica.pid)["NSpid"].split()[-1] == "1"
    said = json.loads(replica.verb("status", "--json").stdout)
    assert (said["app"], said["deploy"], said["ready"]) == ("hello", "41", True)
    assert replica.outside(said["release_pid"]) == replica.release_pid
    done = replica.exec("gigalixir_run", "shell", "--", "echo $APP_NAME; exit 3")
    assert (done.returncode, done.stdout) == (3, "hello\n")


def test_a_drain_by_exec_takes_it_out_of_service_and_back(replica):
    assert replica.verb("drain").returncode == 0
    until(lambda: replica.get("/readyz").status == 503, "it drains")
    assert replica.get("/livez").status == 200
    assert replica.verb("drain", "--undo").returncode == 0
    until(replica.is_ready, "it serves again")


def test_kill_names_a_signal(replica):
    replica.runtime("kill", "--signal=USR2")
    assert replica.wait() == 140
    assert replica.events("release ended")[0]["message"].endswith("SIGUSR2, exit code 140")


def test_kill_with_term_is_an_orderly_stop(replica):
    replica.runtime("kill", "--signal=TERM")
    assert replica.wait() == 0
    assert "bye" in replica.stdout


def test_restarted_in_place_it_is_a_new_replica_on_the_same_volume(replica):
    first, digest = replica.pid, current(replica.root)
    replica.restart()
    replica.until_ready()
    assert replica.pid != first
    said = json.loads(replica.verb("status", "--json").stdout)
    assert (said["digest"], said["notes"]) == (digest, [])


def test_one_after_the_other_on_a_volume(host, replica):
    digest = current(replica.root)
    for _ in range(2):
        replica = until_up(host.boot_again(replica, settings=NO_CHECK))
        assert current(replica.root) == digest
        assert not replica.events("the previous run")
    assert replica.term().wait() == 0


@pytest.mark.parametrize("end", ["stopped", "killed", "removed while it runs"])
def test_nothing_of_it_is_left_on_the_machine(replica, end):
    container = json.loads(replica.runtime("container", "inspect"))[0]
    marks = (container["Id"], container["Name"], container["GraphDriver"]["Data"]["MergedDir"])
    assert left(marks), "something of it can be seen while it runs"
    if end == "stopped":
        assert replica.container.stop() == 0
    elif end == "killed":
        replica.signal(9)
        assert replica.wait() == 137
    replica.end()
    until(lambda: not left(marks), lambda: f"{left(marks)} is left", LEAVE_SECONDS)


def left(marks):
    """List the mounts, processes and control groups that name the container."""
    found = Path("/proc/self/mountinfo").read_text().splitlines()
    for process in psutil.process_iter():
        try:
            found.append(" ".join(process.cmdline()))
        except psutil.Error:
            continue
    found += map(str, Path("/sys/fs/cgroup").glob("*/libpod_parent/*"))
    return [line for line in found if any(mark in line for mark in marks)]
