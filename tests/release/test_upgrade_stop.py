"""A replica that is told to stop in the middle of an upgrade."""

import pytest

from support.changing import CHANGE_SECONDS, NEW, OLD, STEPS, Site
from support.long_tests import LONG


@pytest.mark.parametrize("step", STEPS if LONG else ("placing", "installing"))
def test_the_stop_waits_for_the_upgrade(platform, step):
    site = Site(platform, "mix", {"GRACE_SECONDS": "60", "UPGRADE_SETTLE_SECONDS": "2"})
    change = site.upgrade_anew(until=step)
    assert site.replica.term().wait(CHANGE_SECONDS) == 0
    ended = change.end()
    if step != "permanent":
        assert site.replica.events("waiting for the upgrade to the current deploy to end")
        assert ended.code == 0, ended
    site.start_again(version=NEW)


@pytest.mark.parametrize("step", ["fetching", "verifying"])
def test_the_stop_cuts_an_upgrade_that_lasts_too_long(platform, step):
    site = Site(platform, "mix", {"GRACE_SECONDS": "12", "UPGRADE_SETTLE_SECONDS": "10"})
    change = site.upgrade_anew(until=step)
    assert site.replica.term().wait() == 0
    change.end()
    assert site.replica.events("not waiting longer for the upgrade to the current deploy")
    site.start_again(version=OLD)
    site.assert_sound(OLD)
