"""Tells the pod: at once, again after a failure, never in anybody's way.

Owns when it is told, and what the log says of that; what the pod should say comes from outside.
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
from dataclasses import dataclass
from pathlib import Path

from run_agent import process
from run_agent.cluster import messages, objects
from run_agent.cluster.account import Account
from run_agent.cluster.complaints import Complaints
from run_agent.cluster.messages import REPORT, Request, Result
from run_agent.cluster.report import Event, Report
from run_agent.errors import RunAgentError

FIRST_REPORT_SECONDS = 10.0
"""How long the first report of a life waits for the release to be ready: until then a boot needs
the processor more than we do."""

SPACING_SECONDS = 5.0
"""Between the ends of two workers, so that what goes to and fro is told once."""

LONGEST_BACKOFF_SECONDS = 300.0
"""Where the doubling of the pause after a failure ends: 12 tries an hour."""

DENIED_SECONDS = 400.0
"""Until what is forbidden, or a pod that is not there, is tried again: waiting mends neither. Two
requests each time, at most 18 an hour."""

JITTER = 0.2
"""A pause is longer by up to this part of it: the replicas of an app fail together."""

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

    Raises `RunAgentError` where it cannot be started, is late or dies.
    """
    text = messages.request_text(request)
    done = await process.run(ARGV, deadline=deadline, env={}, cwd=Path("/"), stdin=text)
    if done.code:
        lines = done.stderr.decode(errors="replace").strip().splitlines()
        last = lines[-1] if lines else "without a word: it was killed, often for memory"
        raise RunAgentError(f"the worker ended with {done.code} ({last})")
    return messages.parse_results(done.stdout)


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
        self._news = asyncio.Event()  # something else is to be told
        self._turn = asyncio.Lock()
        self._wanted: Report | None = None
        self._told: Report | None = None  # none, too, while nobody knows what the pod says
        self._told_at: float | None = None
        self._changed_at = 0.0  # when the condition became what it is
        self._events: deque[Event] = deque()
        self._dropped = 0
        self._is_urgent = self._is_fresh = False  # what is to be told has not been tried yet
        self._failures = 0
        self._denied = False
        self._earliest = math.inf  # of the next worker; set by what is first to be told
        self._after_worker: float | None = None

    def report(self, report: Report, *, at_once: bool = False) -> None:
        """Have the pod say this from now on; returns at once."""
        before, self._wanted = self._wanted, report
        if report == before:
            return
        if before is None or before.condition.status != report.condition.status:
            self._changed_at = self._pace.date()
        self._tell_soon(at_once=at_once)

    def event(self, event: Event) -> None:
        """Have this told as an Event; returns at once."""
        if len(self._events) == EVENTS_KEPT:
            self._drop(self._events.popleft())
        self._events.append(event)
        self._tell_soon(at_once=False)

    async def run(self) -> None:
        """Tell whatever is to be told, for ever."""
        while True:
            self._news.clear()
            if (pause := self._pause()) > 0:
                await self._pace.wait(self._news, pause)
                continue
            async with self._turn:
                if self._pause() <= 0:  # somebody's last words may have been told meanwhile
                    await self._tell(WORKER_SECONDS, is_urgent=self._is_urgent)

    async def last_words(self, seconds: float) -> None:
        """Try once to tell what is left, within `seconds`; never raises."""
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

    def _tell_soon(self, *, at_once: bool) -> None:
        if self._earliest == math.inf:
            self._earliest = self._pace.clock() + FIRST_REPORT_SECONDS
        self._is_fresh = True
        self._is_urgent |= at_once
        self._news.set()

    def _is_behind(self) -> bool:
        return self._wanted != self._told or bool(self._events)

    def _pause(self) -> float:
        """Return how long to wait before telling; something new ends that, too."""
        if not self._is_behind():
            return math.inf
        last, due = self._after_worker, self._earliest
        if self._is_urgent or (last is None and self._is_worth_it()):
            return 0.0
        if last is not None and self._is_fresh and self._denied:
            due = last + SPACING_SECONDS
        return max(0.0, due - self._pace.clock())

    def _is_worth_it(self) -> bool:
        return bool(self._events) or (self._wanted is not None and self._wanted.condition.status)

    async def _tell(self, deadline: float, *, is_urgent: bool) -> None:
        report = self._wanted
        request = Request(
            self._account,
            objects.patch(report, self._changed_at) if report else {},
            tuple(objects.event(self._account, event) for event in self._events),
            max(1.0, deadline - MARGIN_SECONDS),
            is_urgent,
        )
        self._is_urgent = self._is_fresh = False
        self._told = None
        try:
            results = await self._ask(request, deadline)
        except RunAgentError as error:
            results = [Result(REPORT, done=False, status=0, reason=str(error))]
        finally:
            self._after_worker = self._pace.clock()
            self._earliest = self._after_worker + SPACING_SECONDS
        self._learn(report, results)

    def _learn(self, report: Report | None, results: Sequence[Result]) -> None:
        """Take what has been told off the list, and plan the next try for what has not."""
        over = set()
        for result in results:
            if result.what != REPORT and (result.done or result.is_hopeless):
                over.add(result.what)
            elif result.what == REPORT and result.done:
                self._told = report
                self._told_at = self._pace.date() if report else self._told_at
        self._events = deque(
            event for event in self._events if objects.event_name(self._account, event) not in over
        )
        failures = [result for result in results if not result.done]
        self._denied = bool(failures) and all(failure.is_denial for failure in failures)
        self._failures = self._failures + 1 if failures and not self._denied else 0
        if failures:
            self._earliest = self._pace.clock() + self._backoff(failures)
        problems = [result for result in results if result.reason or not result.done]
        if self._complaints.hear(problems, self._dropped):
            self._dropped = 0

    def _backoff(self, failures: Sequence[Result]) -> float:
        pause = DENIED_SECONDS
        if not self._denied:
            pause = min(
                SPACING_SECONDS * 2.0 ** min(self._failures - 1, 30), LONGEST_BACKOFF_SECONDS
            )
        pause *= 1 + JITTER * self._pace.chance()
        return max(pause, *(failure.retry_after for failure in failures))

    def _drop(self, event: Event) -> None:
        if not self._dropped:
            log.warning(
                "cannot keep more than %d Events until pod %s can be told of them; the oldest "
                "are dropped, the first of them is %s: %s",
                EVENTS_KEPT, self._account.label, event.reason, event.message,
            )  # fmt: skip
        self._dropped += 1
