"""Real releases that crash, hang or leave something behind."""

import signal

import psutil
import pytest

from support import slugs
from support.wait import until

UP_SECONDS = 60.0


@pytest.fixture
def boot(platform):
    def boot(kind, settings=None, *, as_pid_1=False, **config):
        platform.deploy(slugs.slug(kind).read_bytes(), config=config)
        return platform.boot(settings=settings, as_pid_1=as_pid_1)

    return boot


def last_error(replica) -> str:
    return [event for event in replica.events() if event["severity"] == "ERROR"][-1]["message"]


@pytest.mark.parametrize("kind", ["mix", "relx"])
def test_a_crash_at_the_start_gives_the_vm_s_own_code(boot, kind):
    replica = boot(kind, HELLO_START="crash")
    assert replica.wait(UP_SECONDS) == 1
    assert last_error(replica).endswith(": exit code 1")
    assert not replica.alive()


@pytest.mark.parametrize("as_pid_1", [True, False], ids=["pid-1", "ordinary"])
@pytest.mark.parametrize("kind", ["mix", "relx"])
def test_a_stop_that_hangs_ends_with_the_grace_and_nothing_is_left(boot, kind, as_pid_1):
    faults = {"HELLO_STOP": "slow", "HELLO_ORPHANS": "2"}
    replica = boot(kind, {"GRACE_SECONDS": "3"}, as_pid_1=as_pid_1, **faults)
    replica.until_ready(UP_SECONDS)
    until(lambda: orphans(replica) == 2, "two orphans")  # they start without being waited for
    assert replica.term().wait(8) == 128 + signal.SIGKILL
    assert "killed by run-agent at the end of the grace period, exit code 137" in last_error(
        replica
    )
    assert not replica.alive()


def orphans(replica) -> int:
    return sum(command.startswith("sleep ") for command in replica.commands().values())


@pytest.mark.parametrize("kind", ["mix", "relx"])
def test_what_daemonised_does_not_outlive_an_orderly_stop(boot, kind):
    replica = boot(kind, HELLO_ORPHANS="3").until_ready(UP_SECONDS)
    assert replica.term().wait() == 0
    assert not replica.alive()


def test_a_release_that_is_killed_is_named_with_the_signal(boot):
    replica = boot("relx").until_ready(UP_SECONDS)
    psutil.Process(replica.release_pid).kill()
    assert replica.wait() == 128 + signal.SIGKILL
    assert last_error(replica).endswith(": SIGKILL, exit code 137")
    assert not replica.alive()


def test_a_name_that_is_taken_ends_the_second_replica_and_not_the_first(platform, reserved):
    platform.deploy(slugs.slug("relx").read_bytes())
    first = platform.boot().until_ready(UP_SECONDS)
    second = platform.boot(settings={"TCP_PORT": str(reserved.free())})
    assert second.wait(UP_SECONDS) == 1
    until(first.is_ready, "the first one is not ready")
