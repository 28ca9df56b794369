"""Tells the pod: at once, again after a failure and each hour, never in anybody's way.

Owns when it is told (`backoff` says how soon again); what the pod should say comes from outside.
Telling is a worker's, a process of its own: this module holds no library and opens no connection.
"""

import asyncio
import contextlib
import logging
import math
import random
import sys
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from run_agent import process
from run_agent.cluster import messages, objects
from run_agent.cluster.account import Account
from run_agent.cluster.backoff import MESSAGE_SPACING_SECONDS, SPACING_SECONDS, Backoff
from run_agent.cluster.complaints import Complaints
from run_agent.cluster.messages import REPORT, Request, Result
from run_agent.cluster.report import Event, Report
from run_agent.errors import RunAgentError

FIRST_REPORT_SECONDS = 10.0
"""How long the first report of a life waits for the release to be ready: until then a boot needs
the processor more than we do."""

WORKER_SECONDS = 30.0
"""Until a worker is killed, whatever it hangs in."""

MARGIN_SECONDS = 4.0
"""How much earlier it is to have answered: it takes a second or two to start."""

LAST_WORDS_SHARE = 0.9
"""What part of the time for last words the worker gets; the rest is for ending it."""

EVENTS_KEPT = 20
"""How many Events wait to be told; the oldest gives way."""

ARGV = (sys.executable, "-I", "-X", "utf8", "-m", "run_agent.cluster.worker")
"""Isolated (`-I`), and started with an empty environment: nothing in it is for the worker."""

log = logging.getLogger("cluster")

Ask = Callable[[Request, float], Awaitable[Sequence[Result]]]
"""Has a request carried out within so many seconds; raises `RunAgentError` where it cannot."""


async def ask_worker(request: Request, deadline: float) -> Sequence[Result]:
    """Have a worker carry out `request`, killed at the `deadline` in seconds.

    Raises `RunAgentError` where it cannot be started, is late, dies or answers nonsense.
    """
    text = messages.request_text(request)
    done = await process.run(ARGV, deadline=deadline, env={}, cwd=Path("/"), stdin=text)
    if done.code:
        lines = done.stderr.decode(errors="replace").strip().splitlines()
        last = lines[-1] if lines else "without a word: it was killed, often for memory"
        raise RunAgentError(f"the worker ended with {done.code} ({last})")
    try:
        return messages.parse_results(done.stdout)
    except (ValueError, TypeError) as error:  # something else has printed
        raise RunAgentError("the worker gave no answer that can be read") from error


async def _wait(news: asyncio.Event, seconds: float) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(None if seconds == math.inf else seconds):
            await news.wait()


@dataclass(frozen=True, slots=True)
class Pace:
    """What tells the time, in seconds of no particular origin and of the epoch, and waits."""

    clock: Callable[[], float] = time.monotonic
    date: Callable[[], float] = time.time
    chance: Callable[[], float] = random.random
    wait: Callable[[asyncio.Event, float], Awaitable[None]] = _wait


class Teller:
    """Holds what the pod should say, and sees to it that it does. One per agent."""

    def __init__(
        self, account: Account, *, ask: Ask = ask_worker, pace: Pace | None = None
    ) -> None:
        self._account, self._ask, self._pace = account, ask, pace or Pace()
        self._complaints = Complaints(account, self._pace.clock)
        self._changed = asyncio.Event()  # something else is to be told
        self._turn = asyncio.Lock()
        self._backoff = Backoff(self._pace.chance)
        self._wanted: Report | None = None
        self._told: Report | None = None  # none, too, while nobody knows what the pod says
        self._may_say: set[bool | None] = {None}  # what the condition on the pod may be
        self._told_at: float | None = None
        self._changed_at = 0.0  # when the condition became what it is
        self._events: deque[Event] = deque()
        self._dropped = 0
        self._is_urgent = False
        self._news = math.inf  # the spacing of what has not been tried yet
        self._first, self._last = math.inf, -math.inf  # worker: earliest start, latest end
        self._in_flight: asyncio.Timeout | None = None  # what ends the worker that runs

    def report(self, report: Report, *, since: float | None = None, at_once: bool = False) -> None:
        """Have the pod say this from now on; returns at once.

        `since` is when the first condition became what it is, where that is known to be before
        our time, in epoch seconds. What is wanted `at_once` waits for no pause, and for no worker
        that tells something else.
        """
        before, self._wanted = self._wanted, report
        if report == before:
            return
        if before is None:
            self._changed_at = since or self._pace.date()
        elif before.condition.status != report.condition.status:
            self._changed_at = self._pace.date()
        is_detail = before is not None and _without_message(before) == _without_message(report)
        self._tell_soon(MESSAGE_SPACING_SECONDS if is_detail else SPACING_SECONDS)
        if at_once:
            self._is_urgent = True
            self._end_worker()

    def event(self, event: Event) -> None:
        """Have this told as an Event; returns at once."""
        if len(self._events) == EVENTS_KEPT:
            self._drop(self._events.popleft())
        self._events.append(event)
        self._tell_soon(SPACING_SECONDS)

    async def run(self) -> None:
        """Tell whatever is to be told, for ever."""
        while True:
            self._changed.clear()
            if (pause := self._pause()) > 0:
                await self._pace.wait(self._changed, pause)
                continue
            async with self._turn:
                if self._pause() <= 0:  # somebody's last words may have been told meanwhile
                    await self._tell(WORKER_SECONDS, is_urgent=self._is_urgent)

    async def last_words(self, seconds: float) -> None:
        """Try once to tell what is left, within `seconds`; never raises."""
        self._end_worker()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds), self._turn:
                if self._is_behind():
                    await self._tell(LAST_WORDS_SHARE * seconds, is_urgent=True)

    def status(self) -> dict[str, object]:
        """Return what `run-agent status` shows: the pod, when it was told, the problem."""
        at = self._told_at
        return {
            "pod": self._account.label,
            "told_at": None if at is None else time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(at)),
            "problem": self._complaints.problem,
            "waiting": len(self._events),
        }

    def _tell_soon(self, spacing: float) -> None:
        is_worth_it = self._events or (self._wanted is not None and self._wanted.condition.status)
        patience = 0.0 if is_worth_it else FIRST_REPORT_SECONDS
        self._first = min(self._first, self._pace.clock() + patience)
        self._news = min(self._news, spacing)
        self._changed.set()

    def _end_worker(self) -> None:
        """Have the one that runs, if any, make room; it may be told again what it has told."""
        if self._in_flight is not None and not self._in_flight.expired():
            self._in_flight.reschedule(0.0)

    def _is_behind(self) -> bool:
        return self._wanted != self._told or bool(self._events)

    def _pause(self) -> float:
        """Return how long to wait before telling; something new ends that, too."""
        if self._is_behind():
            due = -math.inf if self._is_urgent else max(self._first, self._due(self._news))
        else:
            due = math.inf if self._told is None else self._last + self._backoff.rest()
        return max(0.0, due - self._pace.clock())

    def _due(self, news: float) -> float:
        wanted = self._wanted
        is_pressing = wanted is not None and self._may_say != {wanted.condition.status}
        return self._last + self._backoff.pause(news=news, is_pressing=is_pressing)

    async def _tell(self, deadline: float, *, is_urgent: bool) -> None:
        report = self._wanted
        request = Request(
            self._account,
            objects.patch(report, self._changed_at) if report else {},
            tuple(objects.event(self._account, event) for event in self._events),
            max(1.0, deadline - MARGIN_SECONDS),
            is_urgent,
        )
        was_early = self._pace.clock() < self._due(math.inf)
        self._is_urgent, self._news = False, math.inf
        self._told = None
        if report is not None:
            self._may_say.add(report.condition.status)
        try:
            async with asyncio.timeout(None) as self._in_flight:
                results = await self._ask(request, deadline)
        except TimeoutError:
            return  # ended for something urgent, which is told next, with all of this
        except RunAgentError as error:
            results = [Result(REPORT, done=False, status=0, reason=str(error))]
        finally:
            self._in_flight = None
            self._last = self._pace.clock()
        self._backoff.learn(results, was_early=was_early)
        self._learn(report, results)

    def _learn(self, report: Report | None, results: Sequence[Result]) -> None:
        """Take what has been told off the list, and have the log say what has not."""
        over = set()
        for result in results:
            if result.what != REPORT and (result.done or result.is_hopeless):
                over.add(result.what)
            elif result.what == REPORT and result.done and report is not None:
                self._told, self._told_at = report, self._pace.date()
                self._may_say = {report.condition.status}
        self._events = deque(
            event for event in self._events if objects.event_name(self._account, event) not in over
        )
        problems = [result for result in results if result.reason or not result.done]
        if self._complaints.hear(problems, self._dropped):
            self._dropped = 0

    def _drop(self, event: Event) -> None:
        if not self._dropped:
            log.warning(
                "cannot keep more than %d Events until pod %s can be told of them; the oldest "
                "are dropped, the first of them is %s: %s",
                EVENTS_KEPT, self._account.label, event.reason, event.message,
            )  # fmt: skip
        self._dropped += 1


def _without_message(report: Report) -> Report:
    return replace(report, condition=replace(report.condition, message=""))
