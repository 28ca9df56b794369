"""What the release inherits: nothing of ours, and everything of the container's."""

import json
import os
import signal
import sys
from pathlib import Path

import pytest

from support.replica import descriptors, signals_in, status_of
from support.wait import until

SEEN = """
import json, os, sys
print(json.dumps({
    "descriptors": sorted(int(n) for n in os.listdir("/proc/self/fd")),
    "stdout": os.readlink("/proc/self/fd/1"),
    "stderr": os.readlink("/proc/self/fd/2"),
    "stdin": os.readlink("/proc/self/fd/0"),
    "group": [os.getpid(), os.getpgrp()],
    "environ": open("/proc/self/environ").read(),
    "cwd": os.getcwd(),
}), flush=True)
import signal; signal.pause()
"""

ADDED = {"READY_CHECK", "LC_CTYPE"}
"""What `exec` sets by default, and Python where no locale is set (PEP 538)."""


@pytest.fixture
def seen(boot):
    replica = boot(sys.executable, "-I", "-S", "-c", SEEN).until_ready()
    replica.until_printed("}")
    return replica, json.loads(replica.stdout)


def test_it_has_three_descriptors_and_they_are_the_containers(seen):
    replica, release = seen
    listing = max(release["descriptors"])  # of listdir itself
    assert release["descriptors"] in ([0, 1, 2], [0, 1, 2, listing])
    assert release["stdin"] == os.devnull
    assert release["stdout"] == str(replica.out)
    assert release["stderr"] == str(replica.err)


def test_its_output_is_the_containers_own_pipe_and_no_copy(boot):
    ours, theirs = os.pipe()
    try:
        replica = boot("sleep", "600", stdout=theirs).until_ready()
        fds = Path(f"/proc/{replica.release_pid}/fd")
        assert (fds / "1").readlink() == Path(f"/proc/self/fd/{theirs}").readlink()
        agents = Path(f"/proc/{replica.agent_pid}/fd")
        assert (agents / "1").readlink() == Path(str(replica.err)), "stdout is the app's"
    finally:
        os.close(ours)
        os.close(theirs)


def test_it_blocks_and_ignores_no_signal(boot):
    replica = boot("sleep", "600").until_ready()
    for pid in (replica.release_pid, replica.agent_pid):
        status = status_of(pid)
        assert signals_in(status["SigBlk"]) == set()
    assert signals_in(status_of(replica.release_pid)["SigIgn"]) == set()


def test_what_the_container_ignores_does_not_reach_it(boot):
    """Such as nohup, many a supervisor leaves HUP, INT or PIPE ignored."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        replica = boot("sleep", "600")
    finally:
        signal.signal(signal.SIGHUP, before)
    assert signals_in(status_of(replica.until_ready().release_pid)["SigIgn"]) == set()


def test_it_leads_a_group_of_its_own_in_the_folder_and_with_the_environment_given(seen):
    replica, release = seen
    pid, group = release["group"]
    assert pid == group
    assert release["cwd"] == str(replica.root)
    environ = dict(entry.split("=", 1) for entry in release["environ"].split("\0") if entry)
    assert {name: environ[name] for name in replica.environ} == replica.environ
    assert environ.keys() - replica.environ.keys() <= ADDED


@pytest.mark.parametrize(("own", "agents"), [(0, 200), (700, 900), (938, 1000)])
def test_the_kernel_is_to_take_the_agent_before_the_release(boot, own, agents):
    """Kubernetes starts a pod that asks for little of its node's memory near 1000."""
    given = ("sh", "-c", f'echo {own} > /proc/self/oom_score_adj && exec "$@"', "sh")
    replica = boot("sleep", "600", wrapper=given).until_ready()
    pids = (replica.pid, replica.release_pid, replica.agent_pid)
    scores = [int(Path(f"/proc/{pid}/oom_score_adj").read_text()) for pid in pids]
    assert scores == [own, own, agents]


@pytest.mark.parametrize("closed", ["0<&-", "1>&-", "2>&-", "0<&- 1>&- 2>&-"])
def test_a_container_without_some_of_the_three_streams_runs_as_well(boot, closed):
    wrapper = ("bash", "-c", f'exec "$@" {closed}', "bash")
    replica = boot("sleep", "600", wrapper=wrapper).until_ready()
    started = replica.get("/readyz").body["release_pid"]
    release = until(
        lambda: replica.outside(started), "the release, which shows nothing in its exec"
    )
    # until it has become the program, the child has what PID 1 has
    until(lambda: _program(release) == "sleep", "the release to be executed")
    until(
        lambda: descriptors(release).keys() == {"0", "1", "2"}, "its loader to close what it opened"
    )
    targets = descriptors(release).values()
    assert not any(target.startswith(("pipe:", "socket:")) for target in targets)
    assert replica.term().wait() == 143


def _program(pid: int) -> str:
    return Path(f"/proc/{pid}/comm").read_text().strip()
