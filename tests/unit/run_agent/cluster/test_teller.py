"""When the pod is told, what a failure changes, and what the log says of it."""

import asyncio
import bisect
import logging
import math
from dataclasses import replace
from pathlib import Path

import pytest

from run_agent.cluster.account import Account
from run_agent.cluster.messages import REPORT, Result
from run_agent.cluster.report import Condition, Event, Report
from run_agent.cluster.teller import EVENTS_KEPT, FIRST_REPORT_SECONDS, Pace, Teller
from run_agent.errors import RunAgentError

POD = Account("10.0.0.1", 443, Path("/x"), "shop", "hello-1")
EPOCH = 1_700_000_000.0
HOUR = 3600.0
WORKER_TAKES = 1.0
READY = Condition(status=True, reason="Ready")
BUSY = Condition(status=False, reason="NotReady")


def a_report(version="1", condition=READY):
    return Report({"version": version}, {}, condition)


def an_event(number=0):
    return Event("UpgradeDone", f"upgrade {number}", EPOCH + number)


class World:
    """A teller, time that passes only while it waits, and an API that answers as told.

    `answers` says, for the status of the report's result and of each Event's, what comes.
    """

    def __init__(self, chance=0.0):
        self.now, self.until = 0.0, 0.0
        self.plan = []
        self.report_status = self.event_status = 200
        self.reason, self.retry_after, self.error = "", 0.0, None
        self.asked = []
        pace = Pace(
            clock=lambda: self.now,
            date=lambda: EPOCH + self.now,
            chance=lambda: chance,
            wait=self.wait,
        )
        self.teller = Teller(POD, ask=self.ask, pace=pace)

    async def ask(self, request, deadline):
        self.asked.append((self.now, request, deadline))
        self.now += WORKER_TAKES
        self.happen()
        if self.error is not None:
            raise RunAgentError(self.error)
        results = [self.result(REPORT, self.report_status)]
        if self.report_status in {0, 401, 429, 500}:
            return results
        names = [event["metadata"]["name"] for event in request.events]
        return results + [self.result(name, self.event_status) for name in names]

    def result(self, what, status):
        done = 200 <= status < 300
        reason = self.reason if done or self.reason else f"status {status}"
        return Result(what, done, status, reason, 0.0 if done else self.retry_after)

    async def wait(self, news, seconds):
        upcoming = [at for at, _ in self.plan[:1]]
        self.now = max(self.now, min([self.now + seconds, self.until, *upcoming]))
        self.happen()
        if self.now >= self.until and not news.is_set():
            raise asyncio.CancelledError

    def happen(self):
        while self.plan and self.plan[0][0] <= self.now:
            self.plan.pop(0)[1]()

    def at(self, moment, do):
        bisect.insort(self.plan, (moment, do), key=lambda step: step[0])

    def run(self, until):
        self.until = until
        with pytest.raises(asyncio.CancelledError):
            asyncio.run(self.teller.run())

    @property
    def pauses(self):
        """The seconds between the end of each try and the next one."""
        ends = [at + WORKER_TAKES for at in self.times]
        return [start - end for end, start in zip(ends, self.times[1:], strict=False)]

    @property
    def times(self):
        return [at for at, _, _ in self.asked]

    @property
    def versions(self):
        patches = [request.patch for _, request, _ in self.asked]
        return [patch["metadata"]["labels"]["run-agent.dev/version"] for patch in patches]

    def told(self, condition=READY):
        """Have it told once, successfully."""
        self.teller.report(a_report(condition=condition))
        patience = 0 if condition.status else FIRST_REPORT_SECONDS
        self.run(self.now + patience + 2 * WORKER_TAKES)
        assert self.asked
        self.asked.clear()


@pytest.fixture(name="world")
def a_world():
    return World()


def messages(caplog, level=logging.WARNING):
    return [record.getMessage() for record in caplog.records if record.levelno >= level]


# -- the rhythm


def test_a_teller_with_nothing_to_tell_asks_for_nothing(world):
    world.run(HOUR)
    assert world.asked == []
    assert world.teller.status() == {
        "pod": "shop/hello-1",
        "told_at": None,
        "problem": None,
        "waiting": 0,
    }


def test_a_report_is_told_once_and_then_there_is_rest(world):
    world.teller.report(a_report())
    for moment in range(10, 3600, 10):
        world.at(moment, lambda: world.teller.report(a_report()))
    world.run(HOUR)
    assert world.times == [0.0]
    assert world.teller.status()["told_at"] == "2023-11-14T22:13:21Z"


def test_the_first_report_waits_for_the_release_to_be_ready(world):
    world.teller.report(a_report(condition=BUSY))
    world.at(3, lambda: world.teller.report(a_report(condition=READY)))
    world.run(HOUR)
    assert world.times == [3.0]


def test_but_not_for_longer_than_ten_seconds(world):
    world.at(2, lambda: world.teller.report(a_report("1", BUSY)))
    world.at(5, lambda: world.teller.report(a_report("2", BUSY)))
    world.run(HOUR)
    assert world.times == [12.0]
    assert world.versions == ["2"]


def test_nor_when_it_is_wanted_at_once(world):
    world.at(2, lambda: world.teller.report(a_report(condition=BUSY), at_once=True))
    world.run(HOUR)
    assert world.times == [2.0]


def test_nor_when_something_has_happened(world):
    world.teller.report(a_report(condition=BUSY))
    world.at(2, lambda: world.teller.event(an_event()))
    world.run(HOUR)
    assert world.times == [2.0]


def test_what_goes_to_and_fro_is_told_every_five_seconds_at_most(world):
    world.told()
    start = world.now
    for tick in range(300):
        condition = BUSY if tick % 2 else READY
        at = start + tick / 10
        world.at(at, lambda condition=condition: world.teller.report(a_report("2", condition)))
    world.run(start + HOUR)
    assert 5 <= len(world.times) <= 6
    assert min(b - a for a, b in zip(world.times, world.times[1:], strict=False)) >= 5.0
    last = world.asked[-1][1].patch["status"]["conditions"][0]
    assert last["status"] == "False"


def test_what_came_back_to_what_was_told_is_not_told(world):
    world.told()
    start = world.now
    world.at(start + 1, lambda: world.teller.report(a_report("2")))
    world.at(start + 2, lambda: world.teller.report(a_report("1")))
    world.run(start + HOUR / 2)
    assert world.asked == []


def test_a_drain_does_not_wait(world):
    world.told()
    start = world.now
    world.at(start + 1, lambda: world.teller.report(a_report(condition=BUSY), at_once=True))
    world.run(start + HOUR)
    assert world.times == [start + 1]
    assert world.asked[0][1].is_urgent


def test_what_changes_while_it_is_told_is_told_next(world):
    world.teller.report(a_report("1"))
    world.at(0.5, lambda: world.teller.report(a_report("2")))
    world.run(HOUR)
    assert world.versions == ["1", "2"]


def test_a_change_back_while_a_try_of_unknown_outcome_runs_is_told(world):
    world.told()
    start, world.report_status = world.now, 0
    world.at(start + 10, lambda: world.teller.report(a_report("2")))
    world.at(start + 10.5, lambda: world.teller.report(a_report("1")))
    world.at(start + 12, lambda: setattr(world, "report_status", 200))
    world.run(start + HOUR)
    assert world.versions == ["2", "1"]


def test_the_condition_says_since_when_it_is_so(world):
    world.teller.report(a_report("1", BUSY))
    world.at(2, lambda: world.teller.report(a_report("1", READY)))
    world.at(100, lambda: world.teller.report(a_report("2", READY)))
    world.run(HOUR)
    since = [
        request.patch["status"]["conditions"][0]["lastTransitionTime"]
        for _, request, _ in world.asked
    ]
    assert since == ["2023-11-14T22:13:22Z"] * 2


def a_wait(message):
    return Condition(status=False, reason="NotReady", message=message)


def test_a_message_alone_is_told_once_a_minute_at_most(world):
    """An app that answers 500 and 501 in turn is waited for in other words each second."""
    world.told(condition=a_wait("it answers 500"))
    start = world.now
    for second in range(3600):
        waits = a_report(condition=a_wait(f"it answers {500 + second % 2}"))
        world.at(start + second, lambda waits=waits: world.teller.report(waits))
    world.run(start + HOUR)
    assert 50 <= len(world.times) <= 60
    assert min(world.pauses) >= 60


@pytest.mark.parametrize(
    "news", [a_report(), a_report("2"), a_report(condition=replace(BUSY, reason="Draining"))]
)
def test_but_holds_up_nothing_else(world, news):
    world.told(condition=BUSY)
    start = world.now
    world.at(start + 10, lambda: world.teller.report(a_report(condition=a_wait("x"))))
    world.at(start + 20, lambda: world.teller.report(news))
    world.run(start + 60)
    assert world.times == [start + 20]


def test_a_message_alone_hurries_not_even_where_events_are_forbidden(world):
    world.told(condition=BUSY)
    start, world.event_status = world.now, 403
    world.teller.event(an_event())
    for second in range(0, 600, 2):
        waits = a_report(condition=a_wait(str(second)))
        world.at(start + second, lambda waits=waits: world.teller.report(waits))
    world.run(start + 600)
    assert 9 <= len(world.times) <= 12
    assert min(world.pauses[1:]) >= 60  # with the Event comes the first message


@pytest.mark.parametrize(("chance", "seconds"), [(0.0, 3600), (1.0, 3600 * 0.8)])
def test_at_rest_the_same_is_told_each_hour(chance, seconds):
    """Whatever somebody else has made of it: no answer of theirs comes to us."""
    world = World(chance)
    world.teller.report(a_report())
    world.run(4 * HOUR)
    assert world.pauses[:3] == pytest.approx([seconds] * 3)
    assert set(world.versions) == {"1"}
    assert len({str(request.patch) for _, request, _ in world.asked}) == 1


def test_what_is_put_right_each_hour_is_tried_again_like_all_else(world):
    world.told()
    world.report_status = 500
    world.run(HOUR + 60)
    assert world.pauses[:3] == [5, 10, 20]


def test_the_first_condition_is_as_old_as_the_agent_before_us_knew_it(world):
    two_hours_ago = EPOCH - 2 * HOUR
    world.teller.report(a_report(), since=two_hours_ago)
    world.at(100, lambda: world.teller.report(a_report(condition=BUSY), since=two_hours_ago))
    world.run(HOUR)
    since = [
        request.patch["status"]["conditions"][0]["lastTransitionTime"]
        for _, request, _ in world.asked
    ]
    assert since == ["2023-11-14T20:13:20Z", "2023-11-14T22:15:00Z"]


# -- Events


def test_an_event_is_told_with_the_report(world):
    world.teller.report(a_report())
    world.teller.event(an_event())
    world.run(HOUR)
    [(_, request, _)] = world.asked
    assert [event["message"] for event in request.events] == ["upgrade 0"]
    assert world.teller.status()["waiting"] == 0


def test_an_event_does_not_need_a_report(world):
    world.teller.event(an_event())
    world.run(HOUR)
    [(_, request, _)] = world.asked
    assert request.patch == {}
    assert world.teller.status()["told_at"] is None


def test_an_event_that_was_not_told_stays_and_only_that(world):
    world.event_status = 500
    world.teller.report(a_report())
    world.teller.event(an_event())
    world.at(2, lambda: setattr(world, "event_status", 200))
    world.run(HOUR)
    assert len(world.asked) == 2
    assert world.teller.status()["waiting"] == 0


def test_the_oldest_events_give_way_which_is_said_once(world, caplog):
    caplog.set_level(logging.INFO)
    world.report_status = 0
    world.teller.report(a_report())
    for number in range(EVENTS_KEPT + 5):
        world.teller.event(an_event(number))
    world.at(2, lambda: setattr(world, "report_status", 200))
    world.run(HOUR)
    told = [event["message"] for event in world.asked[-1][1].events]
    assert told == [f"upgrade {number}" for number in range(5, EVENTS_KEPT + 5)]
    [dropped] = [text for text in messages(caplog) if "cannot keep" in text]
    assert dropped.endswith("the first of them is UpgradeDone: upgrade 0")
    assert messages(caplog, logging.INFO)[-1].endswith("5 Events were dropped")


def test_an_event_that_the_api_will_never_take_is_given_up(world, caplog):
    world.event_status, world.reason = 422, "is invalid"
    world.teller.event(an_event())
    world.run(HOUR)
    assert len(world.asked) == 1
    assert world.teller.status()["waiting"] == 0
    assert any(text.endswith("(422 is invalid); it is dropped") for text in messages(caplog))


# -- failures


@pytest.mark.parametrize("status", [0, 401, 409, 429, 500])
def test_what_may_pass_is_tried_again_ever_more_rarely(world, status):
    world.told()
    world.report_status = status
    world.teller.report(a_report("2"))
    world.run(2 * HOUR)
    assert world.pauses[:8] == [5, 10, 20, 40, 80, 160, 300, 300]
    assert sum(at > HOUR for at in world.times) <= 12


@pytest.mark.parametrize("status", [0, 401, 409, 429, 500])
def test_but_every_minute_for_a_readiness_gate_that_waits(status):
    world = World(chance=1.0)
    world.report_status = status
    world.teller.report(a_report(condition=BUSY))  # without any condition a gate waits, too
    world.run(2 * HOUR)
    assert world.pauses[:6] == pytest.approx([6, 12, 24, 48, 60, 60])
    assert max(world.pauses) < 60.1
    assert sum(at > HOUR for at in world.times) <= 60


def test_a_condition_that_differs_shortens_the_pause_that_runs(world):
    world.told()
    world.report_status = 500
    world.teller.report(a_report("2"))
    world.run(HOUR)
    start = world.now
    world.asked.clear()
    world.at(start + 10, lambda: world.teller.report(a_report("3")))  # is tried once, in vain
    world.at(start + 20, lambda: world.teller.report(a_report("3", BUSY)))
    world.run(start + 70)
    assert world.times == [start + 10, start + 10 + WORKER_TAKES + 50]


def test_what_the_pod_may_say_by_a_try_of_unknown_outcome_is_corrected_soon(world):
    world.told()
    start, world.report_status = world.now, 0
    world.at(start + 10, lambda: world.teller.report(a_report(condition=BUSY)))
    world.at(start + 10.5, lambda: world.teller.report(a_report()))
    world.run(start + HOUR)
    assert max(world.pauses) == 50


def test_a_pause_is_a_fifth_longer_at_most(caplog):
    world = World(chance=1.0)
    world.report_status = 0
    world.teller.report(a_report())
    world.run(20)
    assert world.times == [0.0, 7.0]


@pytest.mark.parametrize("status", [403, 404, 422])
def test_what_waiting_does_not_mend_is_tried_every_hour_in_the_end(world, status):
    world.report_status = world.event_status = status
    world.teller.report(a_report())
    world.teller.event(an_event())
    world.run(4 * HOUR)
    assert world.pauses == [60, 120, 240, 480, 960, 1920, 3600, 3600]


@pytest.mark.parametrize("status", [403, 404, 500])
def test_what_is_new_is_tried_soon_and_once(world, status):
    world.told()
    world.report_status = status
    world.teller.report(a_report("2"))
    world.run(HOUR)
    start = world.now
    world.asked.clear()
    for second in range(10, 200, 3):
        world.at(start + second, lambda second=second: world.teller.report(a_report(str(second))))
    world.run(start + 200)
    assert world.times == [start + 10]


def test_what_is_denied_after_an_outage_is_tried_again_soon(world):
    world.report_status = 500
    world.teller.report(a_report())
    world.run(HOUR)
    world.report_status, before = 403, len(world.asked)
    world.run(HOUR + 300)
    assert world.pauses[before : before + 2] == [60, 120]


def test_a_report_does_not_wait_for_events_that_are_forbidden(world):
    world.event_status = 403
    world.teller.report(a_report())
    world.teller.event(an_event())
    for moment in (100, 110, 120):
        condition = BUSY if moment % 20 else READY
        world.at(moment, lambda c=condition: world.teller.report(a_report("2", c)))
    world.run(130)
    assert [at for at in world.times if at >= 100] == [100, 110, 120]


@pytest.mark.parametrize(("condition", "tries"), [(READY, 24), (BUSY, 144)])
def test_news_in_an_outage_make_no_storm(world, condition, tries):
    world.told(condition=READY)
    start, world.report_status = world.now, 500
    for second in range(0, 2 * 3600, 10):
        at, report = start + second, a_report(str(second), condition)
        world.at(at, lambda report=report: world.teller.report(report))
        world.at(at + 1, lambda second=second: world.teller.event(an_event(second)))
    world.run(start + 2 * HOUR)
    assert sum(at > start + HOUR for at in world.times) <= tries


def test_news_make_no_storm_of_what_is_denied(world):
    world.report_status = world.event_status = 403
    for second in range(0, 4 * 3600, 10):
        world.at(second, lambda second=second: world.teller.report(a_report(str(second))))
    world.run(4 * HOUR)
    assert len(world.asked) <= 16


def test_a_stop_in_an_outage_is_tried_once(world):
    world.report_status = 0
    world.teller.report(a_report())
    leaving = a_report(condition=BUSY)
    for moment in (100, 101, 102, 103):
        world.at(moment, lambda: world.teller.report(leaving, at_once=True))
    world.run(110)
    assert [at for at in world.times if at >= 100] == [100.0]


@pytest.mark.parametrize("seconds", [7.0, 500.0])
def test_who_asks_to_be_left_alone_is_left_alone(world, seconds):
    world.report_status, world.retry_after = 429, seconds
    world.teller.report(a_report())
    world.at(2, lambda: setattr(world, "report_status", 200))
    world.run(HOUR)
    assert world.times == [0.0, WORKER_TAKES + seconds]


def test_after_a_success_the_pauses_begin_anew(world):
    world.report_status = 0
    world.teller.report(a_report("1"))
    world.at(50, lambda: setattr(world, "report_status", 200))
    world.run(100)
    world.asked.clear()
    world.report_status = 0
    world.teller.report(a_report("2"))
    world.run(110)
    assert world.times == [100.0, 106.0]


def test_a_worker_that_fails_is_a_failure_like_any_other(world, caplog):
    world.error = "cannot wait longer than 30 s for python; it was ended"
    world.teller.report(a_report())
    world.run(HOUR)
    assert len(world.asked) > 10
    assert world.asked[0][2] == 30.0
    [said] = messages(caplog)
    assert said == (
        "cannot tell pod shop/hello-1 how its replica is (cannot wait longer than 30 s for python; "
        "it was ended); it is tried again"
    )


# -- what is said


def test_a_failure_is_said_once_and_so_is_its_end(world, caplog):
    caplog.set_level(logging.INFO)
    world.report_status, world.reason = 403, "pods is forbidden"
    world.teller.report(a_report())
    world.run(2.5 * HOUR)
    text = (
        "cannot tell pod shop/hello-1 how its replica is (403 pods is forbidden); let the service "
        "account `patch` `pods/status`, as in examples/kubernetes"
    )
    assert messages(caplog, logging.INFO) == [text]
    assert world.teller.status()["problem"] == text
    world.report_status, world.reason = 200, ""
    world.run(4 * HOUR)
    assert messages(caplog, logging.INFO)[1:] == ["pod shop/hello-1 is told again, after 183 min"]
    assert world.teller.status()["problem"] is None


def test_the_next_outage_is_said_anew(world, caplog):
    caplog.set_level(logging.INFO)
    for version in ("1", "2"):
        world.report_status = 0
        world.teller.report(a_report(version))
        for number in range(EVENTS_KEPT + 1):
            world.teller.event(an_event(number))
        world.run(world.now + 2)
        world.report_status = 200
        world.run(world.now + 60)
    said = messages(caplog, logging.INFO)
    assert len(said) == 6
    assert said[:3] == said[3:]


def test_failures_that_take_turns_are_said_once_each(world, caplog):
    world.teller.report(a_report())
    world.report_status = 0
    for moment in range(0, 3600, 100):
        reason = f"no answer within {moment} s" if moment % 200 else "connection refused"
        world.at(moment, lambda reason=reason: setattr(world, "reason", reason))
    world.run(HOUR)
    assert len(messages(caplog)) == 2


def test_each_verb_has_an_advice_of_its_own(world, caplog):
    world.report_status = world.event_status = 403
    world.teller.report(a_report())
    world.teller.event(an_event())
    world.run(10)
    report, event = messages(caplog)
    assert "`patch` `pods/status`" in report
    assert event.startswith("cannot tell pod shop/hello-1 what happened (403 ")
    assert "`create` `events`" in event


def test_a_pod_that_loses_what_it_was_told_is_said_and_not_told_again(world, caplog):
    world.reason = "the API has dropped run-agent.dev/version"
    world.teller.report(a_report())
    world.run(HOUR)
    assert len(world.asked) == 1
    [said] = messages(caplog)
    assert said == world.teller.status()["problem"]
    assert said.endswith(
        "(the API has dropped run-agent.dev/version); look for a webhook, or a proxy, in between"
    )


# -- last words


def test_last_words_are_told_whatever_the_pause(world):
    async def end():
        world.teller.event(an_event())
        await world.teller.last_words(3.0)

    world.report_status = 0
    world.teller.report(a_report())
    world.run(2)
    world.report_status = 200
    asyncio.run(end())
    [(_, request, deadline)] = world.asked[1:]
    assert request.is_urgent
    assert deadline < 3.0
    assert world.teller.status()["waiting"] == 0


def test_with_nothing_left_there_are_no_last_words(world):
    asyncio.run(world.teller.last_words(3.0))
    assert world.asked == []


def test_last_words_fail_in_silence_and_in_time():
    async def hang(_request, _deadline):
        await asyncio.sleep(math.inf)

    async def end():
        teller = Teller(POD, ask=hang)
        running = asyncio.create_task(teller.run())
        teller.event(an_event())
        await asyncio.sleep(0)
        async with asyncio.timeout(5):
            await teller.last_words(0.05)
        assert teller.status()["waiting"] == 1
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running

    asyncio.run(end())


def test_what_last_words_have_told_is_not_told_again():
    asked = []

    async def ask(request, _deadline):
        asked.append(request)
        await asyncio.sleep(0.01)
        names = [event["metadata"]["name"] for event in request.events]
        return [Result(what, True, 200) for what in (REPORT, *names)]

    async def end():
        teller = Teller(POD, ask=ask)
        teller.event(an_event())
        last = asyncio.create_task(teller.last_words(3.0))
        running = asyncio.create_task(teller.run())  # which finds something to tell, and waits
        await last
        await asyncio.sleep(0.01)
        running.cancel()

    asyncio.run(end())
    assert len(asked) == 1


def test_last_words_that_were_told_meanwhile_are_not_told_twice(world):
    async def end():
        world.until = HOUR
        running = asyncio.create_task(world.teller.run())
        world.teller.event(an_event())
        await asyncio.sleep(0)
        await world.teller.last_words(3.0)
        with pytest.raises(asyncio.CancelledError):
            await running

    asyncio.run(end())
    assert len(world.asked) == 1


# -- with the real clock


class Hanging:
    """An API whose answer to the first request never comes."""

    def __init__(self):
        self.asked, self.ended = [], 0

    async def ask(self, request, _deadline):
        self.asked.append(request)
        if len(self.asked) == 1:
            try:
                await asyncio.sleep(math.inf)
            finally:
                self.ended += 1
        names = [event["metadata"]["name"] for event in request.events]
        return [Result(what, True, 200) for what in (REPORT, *names)]


async def moments():
    """Let everybody do what there is to do."""
    for _ in range(20):
        await asyncio.sleep(0)


def test_urgent_news_end_the_worker_that_runs(caplog):
    async def tell():
        api = Hanging()
        teller = Teller(POD, ask=api.ask)
        running = asyncio.create_task(teller.run())
        teller.event(an_event())
        teller.report(a_report())
        await moments()
        assert (len(api.asked), api.ended) == (1, 0)
        teller.report(a_report("2"))  # not urgent
        await moments()
        assert (len(api.asked), api.ended) == (1, 0)
        teller.report(a_report("2", BUSY), at_once=True)
        teller.report(a_report("3", BUSY), at_once=True)
        await moments()
        assert (len(api.asked), api.ended) == (2, 1)
        last = api.asked[-1]
        assert last.is_urgent
        assert last.patch["metadata"]["labels"] == {"run-agent.dev/version": "3"}
        assert len(last.events) == 1
        assert teller.status()["waiting"] == 0
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running

    asyncio.run(tell())
    assert messages(caplog) == []


def test_last_words_end_the_worker_that_runs():
    async def tell():
        api = Hanging()
        teller = Teller(POD, ask=api.ask)
        running = asyncio.create_task(teller.run())
        teller.report(a_report())
        await moments()
        teller.event(an_event())
        async with asyncio.timeout(5):
            await teller.last_words(60.0)
        assert (len(api.asked), api.ended) == (2, 1)
        assert teller.status()["waiting"] == 0
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running

    asyncio.run(tell())


def test_news_end_a_wait():
    async def tell():
        asked = asyncio.Event()

        async def ask(_request, _deadline):
            asked.set()
            return [Result(REPORT, True, 200)]

        teller = Teller(POD, ask=ask)
        running = asyncio.create_task(teller.run())
        await asyncio.sleep(0)
        teller.report(a_report())
        async with asyncio.timeout(5):
            await asked.wait()
        running.cancel()

    asyncio.run(tell())
