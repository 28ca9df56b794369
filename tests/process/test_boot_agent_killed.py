"""The agent is killed with -9, at whatever moment: the boot completes, with one release started."""

import os
import random
import signal
import time

import psutil
import pytest

from support import small_slugs
from support.http_server import Answer
from support.platform import current, half_done, trees, until_kept, volume
from support.wait import holds, until

SLUG = "/slugs/hello-41.tar.gz"
STALLS = Answer(stall_after=1 << 18)

BACK_SECONDS = 2.0
"""How soon another agent is there."""

BOOTS = 5
"""Of each test with random moments; every one takes about a second."""

DEADLINE_SECONDS, KILLED_AFTER_SECONDS = 8.0, 6.0
"""Of a boot, and when in it the agent is killed: a second deadline would end much later."""

LONGEST_DELAY_SECONDS = 1.2
"""Until an agent is killed: a bit more than a boot takes."""


@pytest.fixture
def hello(platform):
    platform.digest = platform.deploy(small_slugs.serving(*small_slugs.ballast(1 << 20)))
    return platform


def kill_agent(replica) -> float:
    """Kill the agent that runs now, and return when."""
    agent = replica.agent_pid
    os.kill(agent, signal.SIGKILL)
    killed = time.monotonic()
    until(lambda: replica.agent() != agent, "the agent does not die", every=0)
    return killed


def boots_as_if_nothing_were(replica, digest):
    """See the boot complete, and nothing left of the agents and workers that died."""
    replica.until_ready()
    assert len(replica.events("release started")) == 1, replica.log
    until(lambda: len(replica.alive()) == 3, lambda: f"still there: {commands(replica)}")
    assert (half_done(replica.root), trees(replica.root)) == ([], {digest})
    assert current(replica.root) == digest
    status = replica.get("/readyz").body
    assert (status["deploy"], status["notes"], status["waits_for"]) == ("41", [], [])
    assert replica.outside(status["release_pid"]) == replica.release_pid


def unpacking(replica) -> bool:
    return any((volume(replica.root) / "deploys").glob(".fetching*/*"))


def commands(replica):
    return [process.cmdline() for process in replica.alive() if psutil.pid_exists(process.pid)]


def test_killed_while_it_fetches(hello):
    hello.storage.plan(SLUG, STALLS, STALLS)
    replica = hello.boot()
    for times in 1, 2:
        until(lambda t=times: hello.asked_for_slug() == t, "no slug is fetched")
        until(lambda: unpacking(replica), "nothing comes")
        killed = kill_agent(replica)
        assert replica.agent_pid
        assert time.monotonic() - killed < BACK_SECONDS
    boots_as_if_nothing_were(replica, hello.digest)


def test_killed_while_it_asks_the_controller(hello):
    hello.controller.fault("current", "hang", times=1)
    replica = hello.boot()
    until(lambda: hello.controller.count("current") == 1, "the controller is not asked")
    kill_agent(replica)
    boots_as_if_nothing_were(replica, hello.digest)


def test_the_boot_s_deadline_counts_on_for_its_successor(hello):
    hello.controller.fault("current", "hang")
    started = time.monotonic()
    replica = hello.boot(settings={"BOOT_DEADLINE_SECONDS": str(DEADLINE_SECONDS)})
    until(lambda: hello.controller.count("current") == 1, "the controller is not asked")
    until(lambda: time.monotonic() - started > KILLED_AFTER_SECONDS, "time stands still")
    kill_agent(replica)
    assert replica.wait() == os.EX_TEMPFAIL
    assert time.monotonic() - started < KILLED_AFTER_SECONDS + DEADLINE_SECONDS


@pytest.mark.parametrize(
    "moment", ["deploys/{digest}", "deploys/{digest}.json", "current", "environment", "started"]
)
def test_killed_between_the_fetch_and_the_start(hello, moment):
    replica = hello.boot()
    path = volume(replica.root) / moment.format(digest=hello.digest)
    if moment == "environment":
        path = replica.root / "run" / "run-agent" / "environment.json"
    if moment == "started":
        until(lambda: replica.events("release started"), "it does not start", every=0)
    else:
        until(lambda: os.path.lexists(path), "it does not get there", every=0)
    kill_agent(replica)
    boots_as_if_nothing_were(replica, hello.digest)


@pytest.mark.parametrize("seed", range(3))
def test_killed_at_random_moments_of_many_boots(hello, seed):
    moments = random.Random(seed)
    for _ in range(BOOTS):
        replica = hello.boot()
        until(replica.agent, "no agent runs")
        for _ in range(moments.choice((1, 1, 2))):
            time.sleep(moments.uniform(0, LONGEST_DELAY_SECONDS))  # the moment is what varies
            kill_agent(replica)
        boots_as_if_nothing_were(replica, hello.digest)
        replica.end()


def test_killed_while_it_serves_the_release_and_the_probes_do_not_notice(hello):
    replica = hello.boot().until_ready()
    pid, before = replica.release_pid, replica.get("/readyz").body
    killed = kill_agent(replica)
    holds(replica.is_ready, "it was not ready", 0.3)
    assert replica.agent_pid
    assert time.monotonic() - killed < BACK_SECONDS
    status = replica.verb("status").stdout
    assert status.startswith(f"hello: ready since {before['since']}\n")
    assert f"pid {pid}, running since" in status
    after = replica.get("/readyz").body
    assert after == before
    assert replica.release_pid == pid


def test_a_successor_knows_of_the_drain_and_of_the_notes(hello):
    replica = until_kept(hello.boot(), hello.digest)
    hello.controller.fault("any", "status", 404)
    replica = hello.boot_again(replica).until_ready()
    notes = replica.get("/readyz").body["notes"]
    assert replica.verb("drain").returncode == 0
    kill_agent(replica)
    assert replica.agent_pid
    assert replica.verb("status").stdout.splitlines()[0] == "hello: draining"
    seen = replica.get("/readyz").body
    assert (seen["notes"], seen["draining"], seen["ready"]) == (notes, True, False)
    assert len(notes) == 1
    assert replica.verb("drain", "--undo").returncode == 0
    replica.until_ready()


def test_a_deploy_counts_as_good_also_if_the_agent_dies_the_moment_it_is_ready(hello):
    replica = hello.boot()
    until(replica.is_ready, "it is not ready", every=0)
    kill_agent(replica)
    until_kept(replica, hello.digest)
