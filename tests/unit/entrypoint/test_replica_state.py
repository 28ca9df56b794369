"""What the agent knows of its replica, and what of it survives the agent."""

import json

import pytest

from entrypoint.replica import Facts, Replica

RUNNING = {"state": "running", "pid": 7, "code": None, "started_at": 1_700_000_000.0}
NOTHING = {"state": "none", "pid": None, "code": None, "started_at": None}


def hello(replica=None, **changes):
    """Return PID 1's greeting, with what a predecessor told it; it came as JSON."""
    told = {"release": NOTHING, "memo": None, "verdict": {}, "draining": False, "up_seconds": 0.1}
    told |= {"busy": None}
    if replica is not None:
        told |= {"memo": replica.memo(), "verdict": replica.verdict(), "release": replica.release}
    return json.loads(json.dumps(told | changes))


@pytest.fixture
def replica():
    replica = Replica.from_hello(hello(release=RUNNING), "hello")
    replica.learn(node="hello@10.0.0.1", deploy="41", version="0.1.0", port=4000)
    replica.note("the controller was down")
    return replica


def test_the_first_agent_knows_the_name_only():
    replica = Replica.from_hello(hello(), "hello")
    assert replica.facts == Facts("hello")
    assert not replica.is_ready
    assert replica.waits() == []


def test_a_successor_knows_what_its_predecessor_knew(replica):
    replica.set_ready(ready=True)
    heir = Replica.from_hello(hello(replica), "hello")
    assert heir.facts == replica.facts
    assert heir.is_ready
    assert heir.verdict() == replica.verdict()
    assert heir.status() == replica.status()


def test_a_successor_of_one_that_was_not_ready_is_not_ready(replica):
    assert not Replica.from_hello(hello(replica), "hello").is_ready


def test_a_change_that_was_under_way_is_so_from_the_first_moment(replica):
    heir = Replica.from_hello(hello(replica, busy="upgrade to 0.2.0"), "hello")
    assert heir.change is not None
    assert heir.change["what"] == "upgrade to 0.2.0"
    assert heir.status()["change"] == heir.change
    assert "change" not in heir.verdict()  # which everybody may read


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        ({"release": "hello"}, "hello 0.1.0 as hello@10.0.0.1, port 4000"),
        ({"release": "hello", "version": None, "port": None}, "hello as hello@10.0.0.1"),
        ({"release": "hello", "node": None}, "hello 0.1.0, port 4000"),
    ],
)
def test_what_serves_is_described_as_far_as_it_is_known(replica, facts, words):
    replica.learn(**facts)
    assert replica.facts.described() == words


def test_a_drain_survives(replica):
    assert Replica.from_hello(hello(replica, draining=True), "hello").draining


def test_ready_since_is_when_it_became_ready(replica):
    replica.set_ready(ready=True)
    since = replica.verdict()["since"]
    replica.set_ready(ready=True)
    assert replica.verdict()["since"] == since
    replica.set_ready(ready=False)
    assert replica.verdict()["since"] is None


def test_a_wait_keeps_the_time_of_its_first_mention(replica):
    replica.wait_for("app", "the app to accept on port 4000")
    (first,) = replica.waits()
    replica.wait_for("app", "GET / to succeed")
    assert replica.waits() == [{"what": "GET / to succeed", "since": first["since"]}]
    replica.wait_for("app", None)
    replica.wait_for("app", None)
    assert replica.waits() == []


@pytest.mark.parametrize(
    ("changes", "ready"),
    [({}, True), ({"draining": True}, False), ({"stopping": True}, False)],
)
def test_status_is_ready_only_while_it_serves(replica, changes, ready):
    replica.set_ready(ready=True)
    for name, value in changes.items():
        setattr(replica, name, value)
    assert replica.status()["ready"] is ready
    assert replica.verdict()["ready"] is True, "the app itself is"
    replica.release = NOTHING
    assert replica.status()["ready"] is False


def test_the_verdict_names_the_release_it_is_about(replica):
    assert replica.verdict()["release_pid"] == 7


def test_everything_told_is_json(replica):
    for said in (replica.memo(), replica.verdict(), replica.status()):
        assert json.loads(json.dumps(said))
