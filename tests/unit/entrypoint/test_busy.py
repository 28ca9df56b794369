"""What is being changed, and how long that counts without an agent."""

import pytest

from entrypoint.init.busy import ALONE_SECONDS, Busy
from entrypoint.init.log import Log

UPGRADE = "upgrade of deploy 41"
DIED = 1000.0


@pytest.fixture
def busy():
    busy = Busy(Log("json"))
    busy.say(UPGRADE)
    return busy


def test_it_lasts_as_long_as_its_agent_lives(busy):
    assert busy.ends_at is None
    busy.expire(DIED + 86_400)
    assert busy.what == UPGRADE


def test_without_an_agent_it_counts_for_a_while(busy):
    busy.agent_ended(DIED)
    busy.agent_ended(DIED + 30)  # one more, which did not get far: the first one counts
    busy.expire(DIED + ALONE_SECONDS - 0.1)
    assert busy.what == UPGRADE
    busy.expire(DIED + ALONE_SECONDS)
    assert (busy.what, busy.ends_at) == (None, None)


def test_an_agent_that_takes_over_says_when_it_ends(busy):
    busy.agent_ended(DIED)
    busy.agent_came()
    busy.expire(DIED + 86_400)
    assert busy.what == UPGRADE
    busy.say(None)
    assert busy.what is None


def test_the_death_of_an_agent_that_changes_nothing_is_nothing():
    busy = Busy(Log("json"))
    busy.agent_ended(DIED)
    assert (busy.what, busy.ends_at) == (None, None)
