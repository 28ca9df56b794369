"""An upgrade whose agent, VM or whole container is killed at any of its steps."""

import os
import signal

import psutil
import pytest

from support.changing import NEW, OLD, STEPS, Line, Site
from support.long_tests import LONG
from support.wait import until

NEVER = {"RESTART": "never"}


def test_the_agent_is_killed(platform):
    """The next one ends the change; nobody who is connected notices."""
    site = Site(platform, "mix", NEVER)
    pid = site.replica.release_pid
    with Line(site.replica) as line:
        for step in STEPS:
            change = site.upgrade_anew(until=step)
            os.kill(site.replica.agent_pid, signal.SIGKILL)
            change.end()
            site.assert_sound(OLD if step == "fetching" else None)
            site.back()
            line.assert_goes_on()
    assert site.replica.release_pid == pid


@pytest.mark.parametrize("seconds", [0.0, 0.3, 0.6, 1.0] if LONG else [0.3])
@pytest.mark.parametrize("kind", ["relx", "distillery2"])
def test_the_agent_is_killed_while_a_script_installs(platform, kind, seconds):
    """PID 1 ends the script, which is of the agent's session; the next agent tidies up after it."""
    site = Site(platform, kind, NEVER)
    change = site.upgrade_anew(until="installing")
    change.ends_within(seconds)
    os.kill(site.replica.agent_pid, signal.SIGKILL)
    change.end()
    site.assert_sound()


CODES = {
    "fetching": {0, 11},  # it is back in time, or not
    "placing": {12},
    "installing": {12},
    "verifying": {12},
    "permanent": {0},
}
"""How an upgrade ends whose VM is killed at that step."""


def test_the_vm_is_killed(platform):
    """PID 1 starts the release again, though RESTART=never: it knows of the change."""
    site = Site(platform, "mix", NEVER | {"UPGRADE_SETTLE_SECONDS": "1"})
    for count, step in enumerate(STEPS, 2):
        vm = psutil.Process(site.replica.release_pid)  # to look for it takes longer than some steps
        change = site.upgrade_anew(until=step)
        vm.kill()
        ended = change.end()
        assert ended.code in CODES[step], (step, ended, site.replica.log)
        until(lambda count=count: starts(site) >= count, lambda: site.replica.log)
        site.until_quiet()
        assert starts(site) == count, step
        site.assert_sound(ended.outcome["serves"])
        if step != "permanent":  # else the node began in the new tree
            site.back()


def starts(site):
    return len(site.replica.events("release started"))


@pytest.mark.parametrize("step", STEPS if LONG else ("placing", "installing", "permanent"))
def test_the_container_is_killed(platform, step):
    """It starts anew with the controller's deploy, be that the old one or the new."""
    site = Site(platform, "mix", NEVER)
    change = site.upgrade_anew(until=step)
    site.replica.end()
    change.end()
    site.start_again(version=OLD)
    site.assert_sound(OLD)
    site.replica.end()
    site.start_again(version=NEW)
