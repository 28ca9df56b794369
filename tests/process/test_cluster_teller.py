"""The pod and its teller through outages: real workers, a real API, a clock that runs fast."""

import asyncio
import contextlib
import datetime as dt
import logging
import math
import time

import psutil
import pytest

from run_agent import process, settings
from run_agent.cluster import account
from run_agent.cluster.report import Condition, Event, Report
from run_agent.cluster.teller import Pace
from support.brisk_teller import brisk_teller
from support.kubernetes_api import KubernetesApi
from support.wait import PATIENCE_SECONDS, POLL_SECONDS

HASTE = 100.0
"""How much faster the teller's clock runs than ours."""

OUTAGE_SECONDS = 30.0
"""Longer than a worker on a loaded machine takes to find out that nobody answers."""

READY = Condition(status=True, reason="Ready")
DRAINING = Condition(status=False, reason="Draining")
A_POD = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "hello-1"}}


async def hasten(news, seconds):
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(None if seconds == math.inf else seconds / HASTE):
            await news.wait()


QUICK = Pace(clock=lambda: time.monotonic() * HASTE, wait=hasten)


class Leap:
    """A clock that stands still but where somebody waits; who waits until the end is stopped."""

    def __init__(self, seconds):
        self.now, self.end = 0.0, seconds
        self.pace = Pace(clock=lambda: self.now, wait=self.wait)

    async def wait(self, _news, seconds):
        self.now = min(self.now + seconds, self.end)
        if self.now >= self.end:
            raise asyncio.CancelledError


def a_report(version, condition=READY):
    return Report({"version": version}, {}, condition)


def version_in(api):
    pod = api.get("Pod", "hello-1")
    return (pod["metadata"].get("labels") or {}).get("run-agent.dev/version") if pod else None


async def until(condition, what, seconds=OUTAGE_SECONDS):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited {seconds:g} s in vain: {what}"
        await asyncio.sleep(POLL_SECONDS)


@contextlib.asynccontextmanager
async def running(teller):
    task = asyncio.create_task(teller.run())
    try:
        yield task
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


def messages(caplog, level=logging.WARNING):
    return [record.getMessage() for record in caplog.records if record.levelno >= level]


@pytest.fixture(name="api")
def an_api():
    with KubernetesApi() as api:
        api.add(A_POD)
        yield api


@pytest.fixture(name="ours")
def our_account(api, tmp_path):
    environ = api.mount(tmp_path) | {"HOSTNAME": "hello-1", "APP_KEY": "k"}
    return account.find(settings.load(environ | {"RUN_AGENT_ROOT": str(tmp_path)}))


def lose_the_pod(api):
    api.remove("Pod", "hello-1")


FAULTS = {
    "refused": (KubernetesApi.refuse, KubernetesApi.listen),
    "hangs": (KubernetesApi.hang, KubernetesApi.heal),
    "accepts only": (KubernetesApi.deaf, KubernetesApi.listen),
    "500": (lambda api: api.fail(500), KubernetesApi.heal),
    "409": (lambda api: api.fail(409), KubernetesApi.heal),
    "429": (lambda api: api.fail(429, headers={"Retry-After": "60"}), KubernetesApi.heal),
    "cut": (KubernetesApi.cut, KubernetesApi.heal),
    "garbled": (KubernetesApi.garble, KubernetesApi.heal),
    "may nothing": (lambda api: setattr(api, "rules", []), lambda api: setattr(api, "rules", None)),
    "no pod": (lose_the_pod, lambda api: api.add(A_POD)),
    "old token": (lambda api: api.rotate_token(remount=False), KubernetesApi.remount),
    "old authority": (lambda api: api.rotate_certificate(remount=False), KubernetesApi.remount),
    "clock": (
        lambda api: api.rotate_certificate(valid_in=dt.timedelta(hours=1)),
        KubernetesApi.rotate_certificate,
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_the_state_is_right_after_a_fault_and_the_log_says_it_once(api, ours, caplog, fault):
    caplog.set_level(logging.INFO)
    break_it, mend_it = FAULTS[fault]

    async def live():
        teller = brisk_teller(ours, pace=QUICK)
        async with running(teller):
            teller.report(a_report("1"))
            await until(lambda: teller.status()["told_at"], "the first report is told")
            assert messages(caplog, logging.INFO) == []

            break_it(api)
            teller.event(Event("UpgradeDone", "1 to 2", time.time()))
            teller.report(a_report("2"))
            await until(lambda: teller.status()["problem"], "the fault is seen")
            teller.report(a_report("3"))

            mend_it(api)
            await until(lambda: version_in(api) == "3", "the pod says it")
            await until(lambda: not teller.status()["problem"], "all is told")
            assert teller.status()["waiting"] == 0

    asyncio.run(live())
    assert [event["message"] for event in api.events()] == ["1 to 2"]
    *warnings, again = messages(caplog, logging.INFO)
    assert len(set(warnings)) == len(warnings) <= 2  # one for each verb
    assert all(text.startswith("cannot tell pod default/hello-1 ") for text in warnings)
    assert again.startswith("pod default/hello-1 is told again, after ")
    assert api.token not in caplog.text


def test_an_hour_of_an_outage_costs_few_requests(api, ours):
    leap = Leap(60)
    teller = brisk_teller(ours, pace=leap.pace)
    live(teller, a_report("1"))
    api.fail(503)
    api.requests.clear()
    leap.end += 3600
    live(teller, a_report("2"), an_event())
    assert 10 <= len(api.requests) <= 18


def test_four_hours_without_the_right_cost_few_requests(api, ours):
    api.rules = []
    teller = brisk_teller(ours, pace=Leap(4 * 3600).pace)
    live(teller, a_report("1"), *(an_event(number) for number in range(20)))
    assert 14 <= len(api.requests) <= 2 * 10


def live(teller, report, *events):
    """Have it live, by a clock that leaps, to its end."""
    teller.report(report)
    for event in events:
        teller.event(event)
    with pytest.raises(asyncio.CancelledError):
        asyncio.run(teller.run())


def an_event(number=0):
    return Event("UpgradeDone", f"{number} to {number + 1}", time.time())


def test_an_hour_at_rest_costs_one(api, ours):
    leap = Leap(60)
    teller = brisk_teller(ours, pace=leap.pace)
    live(teller, a_report("1"))
    api.requests.clear()
    leap.end += 10 * 3600
    live(teller, a_report("1"))
    assert 9 <= len(api.requests) <= 13


def test_a_gate_that_was_changed_by_hand_is_put_right_within_the_hour(api, ours):
    leap = Leap(60)
    teller = brisk_teller(ours, pace=leap.pace)
    live(teller, a_report("1", DRAINING))
    open_by_hand(api)
    leap.end += 3600
    live(teller, a_report("1", DRAINING))  # the same as before
    assert said_by(api)["status"] == "False"
    assert said_by(api)["reason"] == "Draining"
    assert version_in(api) == "1"


def open_by_hand(api):
    """Change our condition and a label as somebody with rights of their own does."""
    pod = api.get("Pod", "hello-1")
    [condition] = pod["status"]["conditions"]
    condition |= {"status": "True", "reason": "OpenedByHand"}
    pod["metadata"]["labels"]["run-agent.dev/version"] = "by-hand"
    api.remove("Pod", "hello-1")
    api.add(pod)
    assert (said_by(api)["reason"], version_in(api)) == ("OpenedByHand", "by-hand")


def test_a_drain_is_told_while_nothing_else_is(api, ours):
    async def live():
        teller = brisk_teller(ours)
        async with running(teller):
            teller.report(a_report("1"))
            await until(lambda: teller.status()["told_at"], "the first report is told")
            teller.report(a_report("1", DRAINING), at_once=True)
            await until(lambda: said_by(api)["status"] != "True", "the pod says it")

    asyncio.run(live())
    assert said_by(api)["reason"] == "Draining"
    assert [request.method for request in api.requests] == ["PATCH", "PATCH"]


def test_a_drain_does_not_wait_for_what_is_told_now(api, ours):
    api.hang(match="POST")

    async def live():
        teller = brisk_teller(ours)
        async with running(teller):
            teller.report(a_report("1"))
            teller.event(an_event())
            await until(lambda: api.requests[-1:] and api.requests[-1].method == "POST", "it hangs")
            assert said_by(api)["status"] == "True"
            teller.report(a_report("1", DRAINING), at_once=True)
            await until(lambda: said_by(api)["status"] == "False", "the pod says it")
            assert teller.status()["problem"] is None, "the API's silence was waited out"
            assert len(psutil.Process().children()) == 1
            api.heal()
            await until(lambda: not teller.status()["waiting"], "the Event is told")

    asyncio.run(live())
    assert len(api.events()) == 1


def said_by(api):
    [condition] = api.get("Pod", "hello-1")["status"]["conditions"]
    return condition


def test_who_stops_in_the_middle_leaves_no_worker(api, ours):
    api.hang()

    async def live():
        teller = brisk_teller(ours)
        async with running(teller):
            teller.report(a_report("1"))
            await until(lambda: api.requests, "the API was asked")
            assert psutil.Process().children()

    asyncio.run(live())
    assert not psutil.Process().children()


def test_nobody_waits_for_last_words_that_nobody_hears(api, ours, caplog):
    api.deaf()
    teller = brisk_teller(ours)
    teller.event(Event("BootFailed", "no slug", time.time(), warning=True))
    began = time.monotonic()
    asyncio.run(teller.last_words(3.0))
    assert time.monotonic() - began < 4.5
    assert teller.status()["waiting"] == 1


def test_last_words_are_heard(api, ours):
    teller = brisk_teller(ours)
    teller.event(Event("BootFailed", "no slug", time.time(), warning=True))
    asyncio.run(teller.last_words(PATIENCE_SECONDS))
    [event] = api.events()
    assert (event["reason"], event["type"]) == ("BootFailed", "Warning")


def test_last_words_do_not_wait_for_what_is_told_now(api, ours, caplog):
    api.hang(times=1)

    async def live():
        teller = brisk_teller(ours)
        async with running(teller) as task:
            teller.report(a_report("1"))
            await until(lambda: api.requests, "the API was asked")
            teller.event(Event("BootFailed", "no slug", time.time(), warning=True))
            await teller.last_words(OUTAGE_SECONDS)
            assert not task.done()

    asyncio.run(live())
    assert [event["reason"] for event in api.events()] == ["BootFailed"]
    assert messages(caplog) == [], "the API's silence was waited out"


def test_a_worker_that_hangs_in_the_kernel_ends_nothing_else(api, ours, monkeypatch, caplog):
    api.hang()
    monkeypatch.setattr(process, "KILL_WAIT_SECONDS", 0.0)  # nobody is reaped so fast
    monkeypatch.setattr("run_agent.cluster.teller.WORKER_SECONDS", 1.0)

    async def live():
        teller = brisk_teller(ours)
        async with running(teller) as task:
            teller.report(a_report("1"))
            await until(lambda: teller.status()["problem"], "it is given up")
            assert not task.done()
        assert task.cancelled()
        await until(lambda: not psutil.Process().children(), "the worker is gone")

    asyncio.run(live())
    assert "hangs in the kernel, most likely in a disk" in caplog.text
