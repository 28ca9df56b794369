"""What every change works on: the replica, its node, and the lock with its owner."""

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from entrypoint import boot
from entrypoint import launch as launches
from entrypoint.control import Answer, Tell
from entrypoint.deploys import changes_on_disk
from entrypoint.orders import INIT, Orders
from entrypoint.replica import LastChange, Replica
from run_agent import controller
from run_agent.errors import RunAgentError
from run_agent.model import Launch, Layout
from run_agent.node import Node
from run_agent.settings import NO_CONTROLLER, Settings
from upgrade.additions import Additions
from upgrade.outcome import LOCKED, Outcome, RefusedError, Verdict

RESTART_SECONDS = 45.0
"""How long PID 1 may take to start the release again: it gives it 10 s to stop."""

PASSING = frozenset({os.EX_UNAVAILABLE, os.EX_TEMPFAIL})
"""Exit codes of errors that may be gone a minute later."""

Say = Callable[[str], None]
"""How a change tells its next step to whoever watches."""

log = logging.getLogger("changes")


@dataclass(slots=True)
class Site:
    """The replica that is changed. `send` tells PID 1, `publish` whoever asks how we are.

    `keep` remembers the deploy that serves as good.
    """

    orders: Orders
    options: Settings
    environ: Mapping[str, str]
    replica: Replica
    send: Callable[..., None]
    publish: Callable[[], None]
    keep: Callable[[], Coroutine[Any, Any, None]]
    _release_changed: asyncio.Event = field(default_factory=asyncio.Event)
    _controller: controller.Controller | None = None

    @property
    def layout(self) -> Layout:
        """The paths of the replica."""
        return self.options.layout

    def node(self) -> Node:
        """Return the running node, as its saved environment names it."""
        facts = self.replica.facts
        return boot.node_of(self.options, facts.release or facts.app)

    @property
    def has_controller(self) -> bool:
        """Whether somebody tells which deploy is current."""
        return self.orders.verb == INIT and self.options.controller_url != NO_CONTROLLER

    def controller(self) -> controller.Controller:
        """Return the controller; raises `RefusedError` where there is none."""
        if not self.has_controller:
            raise RefusedError(
                "cannot ask for the current deploy: this replica follows no controller; "
                "name a slug, as in `run-agent upgrade --slug URL`"
            )
        self._controller = self._controller or controller.connect(self.options, self.orders.app)
        return self._controller

    def root(self) -> Path:
        """Return the tree that the node began in, as far as can be told without the node."""
        started = self.replica.facts.started
        return (self.layout.deploys / started if started else self.layout.app).resolve()

    def additions(self, root: Path) -> Additions:
        """Return what changes have added to a node's tree; an image's is not on the volume."""
        if root.parent == self.layout.deploys.resolve():
            return changes_on_disk(self.layout, root.name)
        return Additions(root, self.layout.run / "added.json")

    # -- one at a time --------------------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def alone(
        self, verb: str, what: str, tell: Tell, *, by: str | None = None
    ) -> AsyncIterator[Say]:
        """Be the only change while the context lasts; yields what tells a step. `by` asks for it.

        PID 1 knows of it: a stop waits for its end, and a release that dies of it is started
        again. Raises `RunAgentError` (14) while another change is under way, and `RefusedError`
        where nothing can be changed.
        """
        self._refuse_now(verb)
        async with self._busy(what, tell, by) as say:
            yield say

    @contextlib.asynccontextmanager
    async def taking_over(self, what: str) -> AsyncIterator[Say]:
        """Go on with the change of an agent that was killed; nobody else has come in between."""
        async with self._busy(what, lambda _: None, "the agent, after another was killed") as say:
            yield say

    @contextlib.asynccontextmanager
    async def _busy(self, what: str, tell: Tell, by: str | None) -> AsyncIterator[Say]:
        self.replica.change = {"what": what, "since": now(), "by": by, "step": None}
        self.send(busy=what)
        self.publish()

        def say(step: str) -> None:
            log.info("%s: %s", what, step)
            if self.replica.change is not None:
                self.replica.change["step"] = step
            tell({"step": step})

        try:
            yield say
        finally:
            self.replica.change = None
            self.send(busy=None)
            self.publish()

    def _refuse_now(self, verb: str) -> None:
        if (under_way := self.replica.change) is not None:
            since = f" since {under_way['since']}" if under_way["since"] else ""
            by = f", asked for by {under_way['by']}" if under_way["by"] else ""
            raise RunAgentError(
                f"cannot {verb} now: the {under_way['what']} is under way{since}{by}; wait for "
                "its end, see `run-agent status`",
                exit_code=LOCKED,
            )
        if self.replica.stopping:
            raise RefusedError(f"cannot {verb}: the replica is stopping")
        if self.replica.release.get("state") != "running" or self.replica.facts.release is None:
            raise RefusedError(f"cannot {verb}: no release runs here; see `run-agent status`")

    async def outcome(self, change: Coroutine[Any, Any, Outcome]) -> Outcome:
        """Wait for a change; what fails before anything was touched is an outcome, too."""
        try:
            return await change
        except RefusedError as error:
            cause = error.__cause__
            passing = isinstance(cause, RunAgentError) and cause.exit_code in PASSING
            version = self.replica.facts.version
            return Outcome(Verdict.REFUSED, str(error), version, try_again=passing)
        except RunAgentError as error:
            serves = self.replica.facts.version
            return Outcome(
                Verdict.UNCHANGED, str(error), serves, try_again=error.exit_code in PASSING
            )

    def end(self, verb: str, outcome: Outcome) -> Answer:
        """Say how a change ended: in the log, to PID 1, in `status`, and to who asked for it."""
        level = logging.INFO if outcome.exit_code == 0 else logging.ERROR
        log.log(level, "%s: %s: %s", verb, outcome.verdict, outcome.message)
        for note in outcome.notes:
            log.warning("%s: %s", verb, note)
        if outcome.verdict is Verdict.DONE:
            self.replica.learn(hot_upgraded_at=now())
        self.say_last(verb, str(outcome.verdict), outcome.message)
        facts = self.replica.facts
        known = {"deploy": facts.deploy, "digest": facts.digest}
        return Answer(outcome.to_json() | known, outcome.exit_code)

    def say_last(self, verb: str, verdict: str, message: str) -> None:
        """Have `status`, and our pod, tell how the last change ended."""
        self.replica.learn(last_change=LastChange(verb, now(), verdict, message))
        self.send(memo=self.replica.memo())
        self.publish()

    # -- the release as PID 1 has it ------------------------------------------------------------

    def relaunch(self, launch: Launch) -> None:
        """Have PID 1 use this launch for later starts in place."""
        self.send(relaunch=launches.to_json(launch))

    def release_changed(self) -> None:
        """Take notice of another start, or the end, of the release."""
        self._release_changed.set()

    async def restart(self) -> None:
        """Have PID 1 start the release again in place; raises `RunAgentError` if late."""
        before = self.replica.release.get("pid")
        self.send(restart=True)
        await self.until_running(other_than=before)

    async def until_running(self, *, other_than: int | None = None) -> None:
        """Wait until the release runs, as another process than that; raises `RunAgentError`."""
        try:
            async with asyncio.timeout(RESTART_SECONDS):
                while not self._runs(other_than):
                    self._release_changed.clear()
                    await self._release_changed.wait()
        except TimeoutError:
            raise RunAgentError(
                f"cannot wait longer than {RESTART_SECONDS:g} s for the release to be started "
                "again; see the log"
            ) from None

    def _runs(self, other_than: int | None) -> bool:
        state = self.replica.release
        return state.get("state") == "running" and state.get("pid") != other_than


def now() -> str:
    """Return the time of day as our messages have it."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
