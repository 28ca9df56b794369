"""One change of version from its first file to the verdict, and the way back.

Owns the order of the steps, and what is believed: after anything that may have failed the node is
asked which version serves. Does not know where slugs come from, nor what the replica remembers.
"""

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from run_agent.errors import RunAgentError
from run_agent.node import NO_ANSWER, Node
from run_agent.release import Kind
from upgrade import handler, on_node, releases, script
from upgrade.additions import Additions
from upgrade.journal import Entry, Journal, Phase
from upgrade.model import Change, Serving
from upgrade.outcome import Outcome, Verdict

INSTALL_SECONDS = 60.0
"""How long the install itself may take: tens of milliseconds, and what the app's own code_change
and configuration do."""

SETTLE_SECONDS = 60.0
"""How long a node that reboots itself, or that PID 1 starts again, may take to answer."""

POLL_SECONDS = 0.2
"""Between two looks at a node, or at the app's readiness, which tell nobody when they change."""

CLEAN_UP_SECONDS = 15.0
"""How long the new version may take to be removed: a node that hangs must not hold up the end."""


log = logging.getLogger("changes")


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be done: the change, where its new files are, and how long it may take.

    `tree` holds the slug that it leads to; none where the files are in the node's tree already.
    """

    change: Change
    down: bool
    tree: Path | None
    digest: str | None
    verify_seconds: float
    settle_seconds: float


@dataclass(frozen=True, slots=True)
class Host:
    """What the replica does for us.

    `ready` tells what the app waits for, none once it is ready; `restart` starts the release
    again in place and returns when it was; `tell` shows a step to whoever watches.
    """

    ready: Callable[[], Awaitable[str | None]]
    restart: Callable[[], Awaitable[None]]
    tell: Callable[[str], None]


class Installation:
    """One change under way. `entry` is its line in the journal, further along for a successor."""

    def __init__(
        self, plan: Plan, additions: Additions, journal: Journal, entry: Entry, host: Host
    ) -> None:
        self._plan, self._change, self._host = plan, plan.change, host
        self._additions, self._journal, self.entry = additions, journal, entry

    async def carry_out(self) -> Outcome:
        """Do all of it. Raises nothing of `RunAgentError`: every failure is an outcome."""
        try:
            self._journal.begin(self.entry)
            await self._place()
            self.entry = self._journal.reached(self.entry, Phase.INSTALLING)
        except RunAgentError as error:
            return await self._go_back(error)
        try:
            self._host.tell("installing: processes are suspended, changed and resumed")
            await self._install(self._change, down=self._plan.down)
            self._reached(Phase.VERIFYING)
        except RunAgentError as error:
            return await self._go_back(error)
        return await self._verify_and_keep()

    async def go_on(self) -> Outcome:
        """End what an agent before us had begun, one way or the other."""
        cut = RunAgentError("cannot tell how far it came: the agent that did it was killed")
        if self.entry.phase is Phase.PLACING:
            return await self._go_back(cut)
        if self.entry.phase is Phase.PERMANENT:
            return self._done()
        try:
            if self._change.kind is not Kind.MIX:
                await script.take_over(self._change, tell=self._host.tell, down=self._plan.down)
            serving = await self._settled()
        except RunAgentError as error:
            return await self._go_back(error)
        if serving.version == self._change.to_version:
            return await self._verify_and_keep()
        return await self._go_back(cut)

    # -- forward --------------------------------------------------------------------------------

    async def _place(self) -> None:
        """Put the new version's files beside the running ones; nothing that runs is touched."""
        tree, change = self._plan.tree, self._change
        if tree is None:
            return
        self._host.tell(f"placing the files of {change.to_version}")
        await self._remove_version()
        await asyncio.to_thread(
            self._additions.place, tree, change.to_version, digest=self._plan.digest
        )
        rel_file = change.root / "releases" / change.to_version / f"{change.name}.rel"
        await releases.set_unpacked(change.node, change.run, rel_file)

    async def _install(self, change: Change, *, down: bool) -> None:
        if change.kind is Kind.MIX:
            await handler.install(change, deadline=INSTALL_SECONDS)
        else:
            await script.install(change, deadline=INSTALL_SECONDS, tell=self._host.tell, down=down)

    async def _verify_and_keep(self) -> Outcome:
        change = self._change
        try:
            self._host.tell(f"verifying {change.to_version}")
            await self._verify()
            await self._with_room(
                lambda: releases.make_permanent(change.node, change.run, change.to_version)
            )
            self._reached(Phase.PERMANENT)
        except RunAgentError as error:
            return await self._go_back(error)
        return self._done()

    def _done(self) -> Outcome:
        old, new = self._change.from_version, self._change.to_version
        return Outcome(Verdict.DONE, f"{new} serves; it was {old}", new)

    async def _verify(self) -> None:
        """Wait until the new version is ready, and stays it; raises `RunAgentError` otherwise."""
        deadline = time.monotonic() + self._plan.verify_seconds
        ready_since: float | None = None
        while True:
            problem = await self._problem()
            now = time.monotonic()
            ready_since = None if problem else ready_since or now
            if ready_since is not None and now - ready_since >= self._plan.settle_seconds:
                return
            if problem and now >= deadline:
                raise RunAgentError(
                    f"cannot keep {self._change.to_version}: after "
                    f"{self._plan.verify_seconds:g} s (UPGRADE_VERIFY_SECONDS) it waits for "
                    f"{problem}"
                )
            await asyncio.sleep(POLL_SECONDS)

    async def _problem(self) -> str | None:
        """Tell what keeps the new version from being good; raises once it does not serve."""
        try:
            serving = await releases.serving(self._change.node)
        except RunAgentError as error:
            return f"the node to answer ({error})"
        if serving.version != self._change.to_version:
            raise RunAgentError(
                f"cannot keep {self._change.to_version}: the node crashed on it, and came back "
                f"with {serving.version}"
            )
        return await self._host.ready()

    # -- back -----------------------------------------------------------------------------------

    async def _go_back(self, error: RunAgentError) -> Outcome:
        """Have the old version serve again, whatever it takes; then say what is true."""
        change = self._change
        version = change.from_version
        self._host.tell(f"going back to {version}")
        try:
            serving = await self._answering()
            untouched = serving.version == version and await self._is_same_incarnation()
            if serving.version == change.to_version:
                await self._leave_new_version()
            if not untouched:
                await self._wait_for_old_version()
            notes = await self._environment_back() + await self._clean_up()
            if (await self._settled()).version == change.to_version:
                return await self._go_back(error)  # an install that was cut off has gone on
        except RunAgentError as worse:
            return self._lost(error, worse)
        if untouched:
            return Outcome(
                Verdict.UNCHANGED, f"{error}; {version} still serves", version, notes,
                try_again=error.exit_code in NO_ANSWER,
            )  # fmt: skip
        return Outcome(Verdict.RECOVERED, f"{error}; {version} serves again", version, notes)

    async def _answering(self) -> Serving:
        """Wait for the node; where it stays away, and may do so for our sake, start it again."""
        try:
            return await self._settled()
        except RunAgentError as error:
            if self.entry.phase is Phase.PLACING:
                raise
            await self._start_again(error)
            return await self._settled()

    def _lost(self, error: RunAgentError, worse: RunAgentError) -> Outcome:
        """Tell of a node that we cannot ask or bring back; before the install it is as it was."""
        if self.entry.phase is Phase.PLACING and worse.exit_code not in NO_ANSWER:
            version = self._change.from_version
            left = f"what was placed could not be removed ({worse}); a restart does it"
            return Outcome(Verdict.UNCHANGED, str(error), version, (left,))
        return Outcome(Verdict.DOWN, f"{error}; and going back failed: {worse}")

    async def _leave_new_version(self) -> None:
        """By the relup, or where that has no way or fails by a start of the old version."""
        change = self._change
        back = change.back()
        try:
            await self._with_room(lambda: self._install(back, down=not self._plan.down))
            await releases.make_permanent(change.node, change.run, change.from_version)
        except RunAgentError as error:
            with contextlib.suppress(RunAgentError):
                if (await self._settled()).version == change.from_version:
                    return  # the node has rebooted itself into it
            await self._start_again(error)

    async def _start_again(self, error: RunAgentError) -> None:
        version = self._change.from_version
        log.warning("%s", error)
        self._host.tell(f"starting the release again in {version}")
        await asyncio.to_thread(self._additions.start_from, version)
        await self._host.restart()

    async def _wait_for_old_version(self) -> None:
        """Wait until it serves and is ready; raises `RunAgentError` past the deadline."""
        change = self._change
        serving = await self._settled()
        if serving.version != change.from_version:
            raise RunAgentError(
                f"cannot get {change.from_version} to serve: it is {serving.version}; see "
                "`run-agent releases`, and restart the replica"
            )
        deadline = time.monotonic() + self._plan.verify_seconds
        while (problem := await self._host.ready()) is not None:
            if time.monotonic() >= deadline:
                raise RunAgentError(
                    f"cannot get {change.from_version} ready: it waits for {problem}"
                )
            await asyncio.sleep(POLL_SECONDS)

    async def _environment_back(self) -> tuple[str, ...]:
        """Put it back; for want of room on the disk that is a note, as the old version serves."""
        if self.entry.phase is Phase.PLACING:
            return ()
        try:
            await self._with_room(self._put_environment_back)
        except RunAgentError as error:
            if error.exit_code != os.EX_IOERR:
                raise
            return (f"the node may have the environment of {self._change.to_version}: {error}",)
        return ()

    async def _put_environment_back(self) -> None:
        """Undo what a node that has rebooted itself, in the same process, has kept."""
        change = self._change
        put, unset = change.back().environment()
        await on_node.call(change.node, change.run, "run_agent_environment", "put", put, unset)

    async def _settled(self) -> Serving:
        return await settled(self._change.node)

    async def _clean_up(self) -> tuple[str, ...]:
        """Take the new version's files away again; return what could not be."""
        if self._plan.tree is None:
            return ()
        deadline = time.monotonic() + CLEAN_UP_SECONDS
        while True:  # a full disk may have room again soon
            try:
                await self._remove_version()
            except RunAgentError as error:
                if time.monotonic() >= deadline:
                    return (f"what was placed could not be removed ({error}); a restart does it",)
            else:
                return ()
            await asyncio.sleep(POLL_SECONDS)

    async def _remove_version(self) -> None:
        change = self._change
        await releases.remove(change.node, change.run, change.to_version)
        await asyncio.to_thread(self._additions.undo, change.to_version)

    async def _with_room(self, step: Callable[[], Awaitable[None]]) -> None:
        """Do a step for which a full disk must have room again; raises what it does in the end."""
        deadline = time.monotonic() + CLEAN_UP_SECONDS
        while True:
            try:
                return await step()
            except RunAgentError as error:
                if error.exit_code != os.EX_IOERR or time.monotonic() >= deadline:
                    raise
            await asyncio.sleep(POLL_SECONDS)

    async def _is_same_incarnation(self) -> bool:
        return await incarnation(self._change) == self.entry.incarnation

    def _reached(self, phase: Phase) -> None:
        """Note the phase, if the disk has room: a successor asks the node in any case."""
        with contextlib.suppress(RunAgentError):
            self.entry = self._journal.reached(self.entry, phase)


async def settled(node: Node) -> Serving:
    """Wait for a node that may be rebooting; raises `RunAgentError` where it stays away."""
    deadline = time.monotonic() + SETTLE_SECONDS
    while True:
        try:
            return await releases.serving(node)
        except RunAgentError:
            if time.monotonic() >= deadline:
                raise
        await asyncio.sleep(POLL_SECONDS)


async def incarnation(change: Change) -> str:
    """Return what differs once the node has rebooted, in the same process or another."""
    return await change.node.evaluate(
        "erlang:phash2({os:getpid(), erlang:system_info(start_time), "
        "whereis(application_controller)})"
    )
