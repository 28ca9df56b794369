"""What a pod is told of its replica."""

import time
from dataclasses import replace
from pathlib import Path

import pytest

from entrypoint import pod
from entrypoint.init import marker
from entrypoint.replica import Facts, LastChange, Replica
from run_agent.cluster.account import Account
from run_agent.cluster.report import Condition
from upgrade.outcome import Verdict

NOW = 1_800_000_000.0
RUNNING = {"state": "running", "pid": 7, "out_of_memory": None}
KEYS = {"keys": 2, "rejected": 0, "fetched_at": "…", "age_seconds": 30, "problem": None}


def replica(*, ready=True, release=RUNNING, **facts):
    made = Replica(Facts("hello", **facts), release=dict(release))
    made.set_ready(ready=ready)
    return made


def change(verb, verdict, message="so it went"):
    return LastChange(verb, "2026-11-21T12:00:00Z", str(verdict), message)


def ago(seconds):
    return time.strftime(marker.TIME, time.gmtime(time.time() - seconds))


ACCOUNT = Account("127.0.0.1", 443, Path("/nowhere"), "default", "hello-0")


def told(of):
    return pod.report(of, of.facts.last_change, pod.condition(of))


def look(of):
    """Return what looks at a replica again and gives the Events that are new."""
    ours = pod.Pod(ACCOUNT, of)
    return lambda: list(ours._happened())


def test_a_report_says_what_runs_and_how_the_last_change_ended():
    last = change("upgrade", Verdict.DONE)
    report = told(
        replica(
            deploy="41",
            version="1.1.0+build",
            digest="ab" * 32,
            hot_upgraded_at="2026-11-21T12:00:01Z",
            last_change=last,
        )
    )
    assert report.labels == {"deploy": "41", "version": "1.1.0+build"}
    assert report.annotations == {
        "version": "1.1.0+build",
        "slug-digest": "ab" * 32,
        "hot-upgraded-at": "2026-11-21T12:00:01Z",
        "last-operation": "upgrade",
        "last-verdict": "done",
        "last-operation-at": "2026-11-21T12:00:00Z",
    }


def test_what_is_unknown_takes_an_earlier_entry_away():
    report = told(replica())
    assert set(report.labels.values()) | set(report.annotations.values()) == {None}


def test_a_ready_replica_fulfils_the_condition():
    assert pod.condition(replica(release=RUNNING, version="1.0.0")) == Condition(
        status=True, reason="Ready", message="1.0.0 serves"
    )


@pytest.mark.parametrize(
    ("reason", "make"),
    [
        ("NotReady", lambda r: r.set_ready(ready=False)),
        ("Draining", lambda r: setattr(r, "draining", True)),
        ("Stopping", lambda r: setattr(r, "stopping", True)),
        ("ReleaseEnded", lambda r: r.release.update(state="backoff")),
        ("Booting", lambda r: r.release.update(state="none")),
    ],
)
def test_a_replica_that_does_not_serve_says_why(reason, make):
    it = replica()
    make(it)
    condition = pod.condition(it)
    assert (condition.status, condition.reason) == (False, reason)


def test_a_replica_that_waits_says_what_for():
    it = replica(ready=False)
    it.wait_for("app", "the app to accept on port 4000")
    assert pod.condition(it).message == "waiting for the app to accept on port 4000"


def test_a_replica_that_boots_says_what_it_waits_for():
    it = replica(ready=False, release={"state": "none"})
    assert pod.condition(it).message == ""
    it.wait_for("deploy", "the current deploy from https://controller.example")
    assert pod.condition(it) == Condition(
        status=False,
        reason="Booting",
        message="waiting for the current deploy from https://controller.example",
    )


@pytest.mark.parametrize(
    ("release", "message"),
    [
        ({"state": "ended", "code": 78}, "exit code 78"),
        ({"state": "lingering", "code": 0}, "exit code 0"),
        ({"state": "backoff", "code": 143}, "exit code 143; it is started again"),
        (
            {"state": "backoff", "code": 137, "out_of_memory": "killed by the kernel"},
            "killed by the kernel; it is started again",
        ),
    ],
)
def test_a_release_that_has_ended_says_how(release, message):
    condition = pod.condition(replica(release=release))
    assert condition == Condition(status=False, reason="ReleaseEnded", message=message)


@pytest.mark.parametrize(
    ("verb", "verdict", "reason", "warning"),
    [
        ("upgrade", Verdict.DONE, "UpgradeDone", False),
        ("upgrade", Verdict.REFUSED, "UpgradeRefused", True),
        ("upgrade", Verdict.UNCHANGED, "UpgradeFailed", True),
        ("upgrade", Verdict.RECOVERED, "RolledBack", True),
        ("upgrade", Verdict.DOWN, "UpgradeFailed", True),
        ("downgrade", Verdict.DONE, "RolledBack", False),
        ("downgrade", Verdict.REFUSED, "UpgradeRefused", True),
    ],
)
def test_a_change_of_version_is_an_event(verb, verdict, reason, warning):
    event = pod.of_change(change(verb, verdict), NOW)
    assert (event.reason, event.warning, event.message) == (reason, warning, "so it went")


@pytest.mark.parametrize(
    ("verb", "verdict"),
    [
        ("upgrade", Verdict.ALREADY_THERE),
        ("upgrade", "cut"),
        ("migrate", Verdict.DONE),
        ("reconfigure", Verdict.DONE),
    ],
)
def test_what_changed_no_version_is_none(verb, verdict):
    assert pod.of_change(change(verb, verdict), NOW) is None


def test_each_change_is_told_once_and_one_from_before_not_again():
    it = replica(last_change=change("upgrade", Verdict.DONE))
    news = look(it)
    assert news() == []
    it.learn(last_change=change("upgrade", Verdict.REFUSED, "no relup"))
    assert [event.message for event in news()] == ["no relup"]
    assert news() == []


def test_a_try_that_ends_like_the_one_before_is_told_once():
    """With FOLLOW=hot there is one a minute as long as an outage lasts."""
    it = replica()
    ours = pod.Pod(ACCOUNT, it)
    failed = change("upgrade", Verdict.UNCHANGED, "no storage")
    it.learn(last_change=replace(failed, at=ago(60)))
    assert len(list(ours._happened())) == 1
    first = pod.report(it, ours._change, pod.condition(it))
    it.learn(last_change=replace(failed, at=ago(0)))
    assert not list(ours._happened())
    assert pod.report(it, ours._change, pod.condition(it)) == first
    it.learn(last_change=replace(it.facts.last_change, message="no controller"))
    assert len(list(ours._happened())) == 1


def test_but_its_time_is_shown_once_that_of_the_first_is_old():
    it = replica()
    ours = pod.Pod(ACCOUNT, it)
    failed = change("upgrade", Verdict.UNCHANGED, "no storage")
    it.learn(last_change=replace(failed, at=ago(pod.SAME_AGAIN_SECONDS + 5)))
    assert len(list(ours._happened())) == 1
    again = replace(failed, at=ago(0))
    it.learn(last_change=again)
    assert not list(ours._happened())
    report = pod.report(it, ours._change, pod.condition(it))
    assert report.annotations["last-operation-at"] == again.at


def killed(at, message="limit 64 MiB"):
    return RUNNING | {"last_kill": {"message": message, "at": at}}


@pytest.fixture
def now():
    return time.time()


def test_a_kill_for_want_of_memory_is_told_once_with_its_time(now):
    it = replica(release=RUNNING | {"last_kill": None})
    news = look(it)
    assert news() == []
    it.release = killed(now)
    (event,) = news()
    assert (event.reason, event.message, event.at) == ("OutOfMemory", "limit 64 MiB", now)
    assert event.warning
    assert news() == []
    it.release = killed(now + 1, "of the release")
    assert [event.message for event in news()] == ["of the release"]


def test_kills_in_a_row_that_read_alike_are_told_once_in_a_while(now):
    it = replica(release=killed(now))
    news = look(it)
    assert len(news()) == 1
    it.release = killed(now + pod.KILL_AGAIN_SECONDS - 1)
    assert news() == []
    it.release = killed(now + pod.KILL_AGAIN_SECONDS)
    assert len(news()) == 1


def test_a_kill_is_told_by_the_next_agent_too_unless_its_event_has_expired(now):
    it = replica(release=killed(now - 60))
    assert look(it)() == look(it)(), "the same: the API knows it by its name"
    it = replica(release=killed(now - pod.EVENT_SECONDS))
    assert look(it)() == []


def test_stale_keys_are_told_once_an_outage():
    it = replica()
    news = look(it)
    it.ssh_keys = KEYS | {"problem": "cannot reach it", "age_seconds": 599}
    assert news() == []
    it.ssh_keys = KEYS | {"problem": "cannot reach it", "age_seconds": 600}
    (event,) = news()
    assert (event.reason, event.warning) == ("SshKeysStale", True)
    assert event.message == "cannot reach it; the list is 10 min old"
    it.ssh_keys = it.ssh_keys | {"age_seconds": 660}
    assert news() == []
    it.ssh_keys = KEYS
    assert news() == []
    it.ssh_keys = KEYS | {"problem": "again", "age_seconds": 700}
    assert len(news()) == 1


def test_keys_that_never_came_are_stale():
    assert pod.stale_keys(KEYS | {"problem": "refused", "age_seconds": None}) == (
        "refused; there is no list"
    )
