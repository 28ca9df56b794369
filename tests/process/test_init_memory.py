"""Kills for want of memory are told one by one, and no other end is put down to them."""

import os
import shlex
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

from run_agent.cluster.backoff import SPACING_SECONDS
from support import cgroup, small_slugs
from support.kubernetes_api import KubernetesApi
from support.need import need
from support.platform import Platform, volume
from support.told_pod import TELL_SECONDS, ToldPod
from support.wait import until

LIMIT_MIB = 256
"""Enough for a replica and the worker that tells its pod."""

EATS = (sys.executable, "-I", "-S", "-c", f"x = [b'x' * (1 << 20) for _ in range({LIMIT_MIB})]")

VOLUNTEERS = "echo 1000 > /proc/self/oom_score_adj"
"""Whoever says this is taken first, before even the agent."""

EATEN = f"exec {shlex.join(EATS)}"

PROGRAMS = {
    "release": "(setsid ./orphan &); exec sleep 600",
    "orphan": f"until [ -e go ]; do sleep 0.02; done; {VOLUNTEERS}; {EATEN}",
}

OF_ANOTHER = "a process in the container was killed by the kernel, out of memory: limit"
POD = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "hello-0", "uid": "u-1"}}


@pytest.fixture
def memory():
    need(not Path("/proc/swaps").read_text().splitlines()[1:], "a machine without swap")
    with cgroup.group("memory") as folder:
        (folder / "memory.limit_in_bytes").write_text(str(LIMIT_MIB << 20))
        yield folder


@contextmanager
def frozen(pid):
    """Keep a process from doing anything, dying included."""
    with cgroup.group("freezer") as folder:
        state = folder / "freezer.state"
        (folder / "cgroup.procs").write_text(str(pid))
        state.write_text("FROZEN")
        try:
            until(lambda: state.read_text() == "FROZEN\n", "it is frozen")
            yield
        finally:
            state.write_text("THAWED")


def eat(memory, *first):
    """Have the kernel kill a process beside the replica, as `kubectl exec` starts them."""
    script = "; ".join([*first, EATEN])
    done = subprocess.run([*cgroup.entered(memory), "sh", "-c", script], check=False)
    assert done.returncode == -signal.SIGKILL


def test_a_killed_process_is_told_and_a_later_kill_by_hand_not_put_down_to_it(boot, memory):
    replica = boot("sleep", "600", wrapper=cgroup.entered(memory)).until_ready()
    eat(memory, VOLUNTEERS)
    line = replica.until_said(OF_ANOTHER)  # at the agent's next sign of life
    assert line["message"].endswith(f"limit {LIMIT_MIB} MiB, peak {LIMIT_MIB} MiB")
    assert line["severity"] == "WARNING"
    os.kill(replica.release_pid, signal.SIGKILL)
    assert replica.wait() == 137
    (line,) = replica.events("release ended")
    assert line["message"].endswith(": SIGKILL, exit code 137")
    assert len(replica.events("out of memory")) == 1
    assert not list(volume(replica.root).glob("running-*"))


def test_an_orphan_that_is_killed_is_told_at_its_end(boot, memory):
    replica = boot("./release", programs=PROGRAMS, wrapper=cgroup.entered(memory)).until_ready()
    agent = replica.agent_pid
    os.kill(agent, signal.SIGSTOP)  # it gives no sign of life meanwhile
    (replica.root / "go").touch()
    replica.until_said(OF_ANOTHER)
    os.kill(agent, signal.SIGCONT)
    assert replica.term().wait() == 143


def test_a_release_that_takes_its_time_to_die_is_named_all_the_same(boot, memory):
    """As one does that has much memory to give back, while others end."""
    replica = boot("./release", programs=PROGRAMS, wrapper=cgroup.entered(memory)).until_ready()
    release = replica.release_pid
    orphan = until(lambda: running(replica, "./orphan"), lambda: f"{replica.commands()}")
    with frozen(release):
        os.kill(release, signal.SIGKILL)
        (replica.root / "go").touch()
        until(lambda: not Path(f"/proc/{orphan}").exists(), "the orphan is reaped")
    assert replica.wait() == 137
    (line,) = replica.events("out of memory")
    assert line["message"].startswith("release ended")
    assert f"killed by the kernel, out of memory: limit {LIMIT_MIB} MiB" in line["message"]


def running(replica, program):
    """Return the process that runs that script; none while there is none."""
    found = [pid for pid, command in replica.commands().items() if program in command.split()]
    return found[0] if found else None


def test_a_killed_agent_is_an_event_that_its_successor_tells(platform: Platform, tmp_path, memory):
    platform.deploy(small_slugs.serving())
    root = tmp_path / "pod"
    with KubernetesApi() as api:
        api.add(POD)
        settings = api.mount(root) | {"POD_NAME": "hello-0"}
        replica = platform.boot(root=root, settings=settings, wrapper=cgroup.entered(memory))
        replica.until_ready()
        agent, release = replica.agent_pid, replica.release_pid
        Path(f"/proc/{agent}/oom_score_adj").write_text("1000")
        eat(memory)
        replica.until_said("agent ended with exit code 137")
        assert replica.events(OF_ANOTHER)
        until(api.events, lambda: replica.log, TELL_SECONDS)
        event = api.events()[0]
        assert (event["reason"], event["type"]) == ("OutOfMemory", "Warning")
        assert event["message"].startswith(OF_ANOTHER)
        assert replica.release_pid == release
        assert replica.term().wait() == 0


def test_an_end_that_the_next_run_finds_is_the_event_that_was_told_already(start, tmp_path, memory):
    """Something of the release's lingers, so its agent has the time to tell it, too."""
    root, lingers = tmp_path / "pod", "(trap '' TERM; sleep 600) &"
    with KubernetesApi() as api:
        api.add(POD)
        told = ToldPod(api, POD["metadata"]["name"])
        settings = api.mount(root) | {"POD_NAME": "hello-0", "CONTROLLER_URL": "none"}
        programs = {"release": f"{lingers} until [ -e go ]; do sleep 0.02; done; {EATEN}"}
        first = start("./release", root=root, settings=settings, programs=programs,
                      wrapper=cgroup.entered(memory)).until_ready()  # fmt: skip
        told.until_ready(lambda: first.log)
        spaced = time.monotonic() + SPACING_SECONDS  # from here on news is told at once
        until(lambda: time.monotonic() > spaced, "", 2 * SPACING_SECONDS)
        (root / "go").touch()
        assert first.wait() == 137
        before = len(_told(api))  # one; none on a machine that is too busy to tell it in time
        again = start("sleep", "600", root=root, settings=settings).until_ready()
        until(lambda: _told(api)[before:], lambda: f"{api.requests}: {again.log}", TELL_SECONDS)
        assert told.reasons == ["OutOfMemory"]
        assert again.term().wait() == 143


def _told(api):
    """Return what the API has answered of the Events it was told."""
    return [asked.status for asked in api.requests if asked.method == "POST" and asked.status]


@pytest.mark.parametrize("thing", ["too deep", "a pipe", "a link to itself"])
def test_a_marker_that_the_app_has_spoilt_stops_no_start(thing, start):
    first = start("true")
    assert first.wait() == 0
    marker = volume(first.root) / f"running-{os.uname().nodename}.json"
    if thing == "too deep":
        marker.write_text("[" * 10_000)
    elif thing == "a pipe":
        os.mkfifo(marker)
    else:
        marker.symlink_to(marker.name)
    again = start("sleep", "600", root=first.root).until_ready()
    assert marker.is_file()
    assert again.term().wait() == 143
    assert not marker.exists()
    assert "Traceback" not in again.log
