"""The container's limit of memory: whom the kernel kills, whom not, and that it is named."""

from pathlib import Path

import pytest

from support.need import need
from support.ssh_replica import ssh
from support.wait import until

LIMIT_MIB = 256
LIMIT = f"{LIMIT_MIB}m"

EATS = "tail /dev/zero"
"""Keeps in memory a line that never ends."""

EATS_ON_THE_NODE = 'byte_size(:binary.copy("x", 1_000_000_000))'

SAME_HOST = ("--hostname=replica-0",)
"""The container of a pod that is restarted in place keeps its host name."""


NAMED = f"out of memory: limit {LIMIT_MIB} MiB, peak {LIMIT_MIB} MiB"


@pytest.fixture(autouse=True)
def no_swap():
    """Require that memory ends where the limit is."""
    need(not Path("/proc/swaps").read_text().splitlines()[1:], "a machine without swap")


def test_a_command_that_is_killed_for_memory_is_named(host):
    replica = host.boot(*EATS.split(), verb=("exec", "--"), memory=LIMIT)
    assert replica.wait(60) == 137
    (line,) = replica.events("release ended")
    assert line["message"].endswith(f"killed by the kernel, {NAMED}; exit code 137")


def test_a_release_that_is_killed_for_memory_is_named(host):
    replica = host.boot_release(memory=LIMIT)
    replica.verb("distillery_eval", EATS_ON_THE_NODE, timeout=60)
    assert replica.wait(60) == 137
    (line,) = replica.events("release ended")
    assert line["message"].endswith(f"killed by the kernel, {NAMED}; exit code 137")


def test_a_session_is_killed_before_the_release(host):
    replica, key = host.boot_open(memory=LIMIT)
    release, agent = replica.release_pid, replica.agent_pid
    assert ssh(replica, key, "--", f"{EATS} | cat; echo ${{PIPESTATUS[0]}}").stdout == b"137\n"
    assert ssh(replica, key, "--", "echo in").stdout == b"in\n"
    assert replica.exec("bash", "-c", EATS).returncode == 137
    assert (replica.release_pid, replica.agent_pid) == (release, agent)
    replica.until_ready()  # a check may have timed out while memory was short
    line = replica.until_said("a process in the container was killed by the kernel")
    assert NAMED.partition(",")[0] in line["message"]
    assert not replica.events("release ended")


def test_where_pid_1_itself_is_killed_the_next_start_tells(host):
    first = host.boot("sleep", "600", verb=("exec", "--"), memory=LIMIT, options=SAME_HOST)
    first.until_ready()
    Path(f"/proc/{first.pid}/oom_score_adj").write_text("1000")
    first.exec("bash", "-c", EATS)
    assert first.wait(60) == 137
    until(lambda: not first.alive(), "everything is gone")
    assert not first.events("release ended")
    again = host.boot("true", verb=("exec", "--"), root=first.root, options=SAME_HOST)
    assert again.wait() == 0
    (line,) = again.events("the previous run, started at")
    assert line["severity"] == "ERROR"
    assert "ended without a stop" in line["message"]
