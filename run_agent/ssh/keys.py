"""The list of SSH keys: fetched by the agent again and again, kept on the volume for the daemon.

Owns when it is fetched and what a failure means: the last good list stays, so that an outage
neither locks out nor lets in. What a line permits is `authorized_keys`, who is asked is
`controller`, the file is `kept`.
"""

import asyncio
import logging
import math
import random
import re
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from run_agent.controller import SshKeys, directory, parse
from run_agent.errors import RunAgentError, SettingsError, UnavailableError
from run_agent.model import Layout
from run_agent.settings import Settings
from run_agent.ssh import authorized_keys, kept
from run_agent.ssh.authorized_keys import KeyList
from run_agent.ssh.kept import Kept

ASK_SECONDS = 10.0
"""How long the controller may take to answer; it is asked again in a minute anyway."""

FETCH_SECONDS = 12.0
"""Until a fetch counts as failed, whatever it hangs on. A refresh may wait for a fetch that runs
and then make its own: both fit into the 30 s that a verb waits."""

JITTER = 0.1
"""A period is longer or shorter by up to this part of it."""

REMIND_SECONDS = 3600.0
"""How often a failure that stays the same is logged again."""

REJECTED_LOGGED = 20
"""Most rejected lines of a list that the log names."""

log = logging.getLogger("ssh.keys")


class Teller(Protocol):
    """The part of a `Controller` that tells the keys."""

    def ssh_keys(self, patience: float) -> SshKeys:
        """Return the keys that may log in, within `patience` seconds."""


def source(options: Settings, controller: Teller | None) -> Callable[[], SshKeys]:
    """Return how to fetch the keys: from `SSH_KEYS_FILE` if set, else from the controller.

    Raises `SettingsError` where there is neither. A call of the result blocks, and raises
    `UnavailableError` or `DeniedError`.
    """
    if options.ssh_keys_file is not None:
        return partial(_keys_in, options.ssh_keys_file)
    if controller is None:
        raise SettingsError(["nobody tells the SSH keys: set SSH_KEYS_FILE, or SSH_PORT=none"])
    return partial(controller.ssh_keys, ASK_SECONDS)


@dataclass(frozen=True, slots=True)
class Pace:
    """What tells the time (epoch seconds) and lets it pass; the deadline of a fetch in seconds."""

    clock: Callable[[], float] = time.time
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    chance: Callable[[], float] = random.random
    deadline: float = FETCH_SECONDS


class Keeper:
    """Keeps the list fresh. `run` is one task for the life of the agent; the rest is asked of it.

    `on_change` is called when the daemon should load the list, `on_state` when `state` differs.
    """

    def __init__(
        self,
        layout: Layout,
        app: str,
        fetch: Callable[[], SshKeys],
        *,
        period: float,
        on_change: Callable[[Kept], None],
        on_state: Callable[[], None],
        pace: Pace | None = None,
    ) -> None:
        self._layout, self._app, self._fetch = layout, app, fetch
        self._period = period
        self._on_change, self._on_state = on_change, on_state
        self._pace = pace or Pace()
        self._kept = kept.load(layout, app)
        self._list = authorized_keys.read(self._kept.lines if self._kept else ())
        self._confirmed = False  # whether a fetch of ours has succeeded
        self._failure: _Failure | None = None
        self._turn = asyncio.Lock()
        self._fetches = 0
        self._asking: asyncio.Future[SshKeys] | None = None

    async def run(self) -> None:
        """Fetch at once and then every period, for ever.

        Replicas that boot together ask together only once: the first pause is any part of a
        period, each later one a tenth more or less than a whole one.
        """
        await self._once()
        await self._pace.sleep(self._period * self._pace.chance())
        while True:
            await self._once()
            await self._pace.sleep(self._period * (1 - JITTER + 2 * JITTER * self._pace.chance()))

    async def refresh(self) -> dict[str, Any]:
        """Fetch now, after a fetch that runs, and return `state` with every rejected line.

        Raises `RunAgentError` where it fails, which says what stays.
        """
        await self._once()
        if self._failure is not None:
            error = self._failure.error
            raise RunAgentError(f"{error}; {self._what_stays()}", exit_code=error.exit_code)
        return self.state() | {"rejected_lines": [str(line) for line in self._list.rejected]}

    def state(self) -> dict[str, Any]:
        """Return what `/readyz` and `status` say: numbers, times and the problem, no line."""
        at = self._kept.fetched_at if self._kept else None
        return {
            "keys": len(self._list.keys),
            "rejected": len(self._list.rejected),
            "fetched_at": at and time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(at)),
            "age_seconds": None if at is None else round(self._age(at)),
            "problem": str(self._failure.error) if self._failure else None,
        }

    async def _once(self) -> None:
        """Fetch; of those who wait while a fetch runs, the first one fetches for all."""
        before = self._fetches
        async with self._turn:
            if self._fetches != before:
                return  # one that began after we came has ended
            self._fetches += 1
            try:
                lines = await self._ask()
                await self._take(lines)
            except RunAgentError as error:
                self._failed(error)
            except RuntimeError as error:  # no thread: the container has too many processes
                self._failed(UnavailableError(f"cannot fetch the SSH keys ({error})"))
            self._on_state()

    async def _ask(self) -> tuple[str, ...]:
        """Fetch in a thread. While one that was given up still hangs, no other is started."""
        hangs = self._asking is not None and not self._asking.done()
        if not hangs:
            self._asking = asyncio.get_running_loop().run_in_executor(None, self._fetch)
            self._asking.add_done_callback(_mark_as_seen)
            await asyncio.wait({self._asking}, timeout=self._pace.deadline)
        assert self._asking is not None
        if hangs or not self._asking.done():
            raise UnavailableError(
                f"cannot fetch the SSH keys: no answer within {self._pace.deadline:g} s; check the "
                "network and the DNS, or the folder that they are read from"
            )
        lines = self._asking.result().lines
        if not authorized_keys.look_like_keys(lines):
            raise UnavailableError(
                f"cannot use what came as SSH keys: none of its {len(lines)} lines has the form "
                "of a key; correct it there"
            )
        return lines

    async def _take(self, lines: tuple[str, ...]) -> None:
        """Put the list in force, tell of it where it is another one, and keep it.

        In this order: whoever has filled the volume must not stay for that.
        """
        changed = self._kept is None or self._kept.lines != lines
        latest = self._kept = Kept(self._app, self._pace.clock(), lines)
        if changed:
            self._list = authorized_keys.read(lines)
            log.info("the list of SSH keys has changed: %s", _summary(self._list))
        if changed or not self._confirmed:
            self._tell_rejected()
            # Our predecessor may have ended before it could tell the daemon.
            self._on_change(latest)
        self._confirmed = True
        await asyncio.to_thread(kept.save, self._layout, latest)
        if self._failure is not None:
            outage = _duration(latest.fetched_at - self._failure.since)
            log.info("the SSH keys are fetched again, after %s: %s", outage, _summary(self._list))
            self._failure = None

    def _tell_rejected(self) -> None:
        for line in self._list.rejected[:REJECTED_LOGGED]:
            log.warning("rejected a line of the SSH keys: %s", line)
        if len(self._list.rejected) > REJECTED_LOGGED:
            log.warning("rejected %d more lines", len(self._list.rejected) - REJECTED_LOGGED)

    def _failed(self, error: RunAgentError) -> None:
        """Log a failure when it is a new one, and then every hour."""
        now, before = self._pace.clock(), self._failure
        since = before.since if before else now
        told = before.told if before and before.kind == _kind(error) else -math.inf
        if now - told >= REMIND_SECONDS:
            log.warning("%s; %s", error, self._what_stays())
            told = now
        self._failure = _Failure(error, since, told)

    def _what_stays(self) -> str:
        if self._kept is None:
            return "there is no list yet, so nobody gets in"
        age = _duration(self._age(self._kept.fetched_at))
        return f"the last good list ({_summary(self._list)}, {age} old) stays"

    def _age(self, fetched_at: float) -> float:
        return max(0.0, self._pace.clock() - fetched_at)


@dataclass(frozen=True, slots=True)
class _Failure:
    """What keeps us from the keys, since when, and when it was last logged (epoch seconds)."""

    error: RunAgentError
    since: float
    told: float

    @property
    def kind(self) -> str:
        return _kind(self.error)


def _kind(error: RunAgentError) -> str:
    """Return the message without its figures: tries and seconds make no other failure."""
    return re.sub(r"\d+", "", str(error))


def _summary(keys: KeyList) -> str:
    """Say how many keys a list has."""
    count = len(keys.keys)
    text = f"{count} key{'' if count == 1 else 's'}"
    lines = len(keys.rejected)
    return f"{text}, {lines} line{'' if lines == 1 else 's'} rejected" if lines else text


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    return f"{seconds:.0f} s" if seconds < 120 else f"{minutes} min"


def _mark_as_seen(asked: "asyncio.Future[SshKeys]") -> None:
    """Look at the outcome, which nobody does where the fetch was given up."""
    if not asked.cancelled():
        asked.exception()


def _keys_in(path: Path) -> SshKeys:
    """Read `SSH_KEYS_FILE` like a folder's `ssh_keys`; but one that is missing is a failure."""
    try:
        return SshKeys(parse.lines(directory.read(path).decode()))
    except FileNotFoundError:
        raise UnavailableError(
            f"cannot read {path} (no such file); put it there, or check SSH_KEYS_FILE"
        ) from None
    except UnicodeDecodeError:
        raise UnavailableError(f"cannot use {path}: it is not UTF-8; correct it there") from None
