"""Which nodes are connected to ours: asked now and then, shown to whoever asks, and counted.

Asks the node that runs here, and no other; connects nothing, which is the app's own business.
What it finds is `Replica.nodes`. Each start of the release is judged anew.
"""

import asyncio
import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from entrypoint import boot
from entrypoint.replica import Replica
from run_agent import epmd, health
from run_agent.errors import RunAgentError
from run_agent.node import Node
from run_agent.settings import Settings

PEERS_SECONDS = 10.0
"""How often the node is asked: 3 ms each. Through a release tool, which starts a VM each time, it
is asked only by who waits for the answer."""

FIRST_PAUSE = 1.0
"""Seconds until a node that does not answer yet is asked again; doubled, up to PEERS_SECONDS."""

TOOL_PAUSE = 10.0
"""Seconds between two questions through a release tool while readiness waits for the answer."""

ASK_SECONDS = 2.0
"""How long the node may take to answer who waits: a person, or the readiness."""

TOOL_ASK_SECONDS = 10.0
"""The same through a release tool, whose VM needs 1.5 s to start on an idle machine."""

SHOWN = 50
"""So many names are kept and shown; `count` tells how many there are."""

LOGGED = 10
"""So many nodes that come or go at a time get a line of their own in the log."""

log = logging.getLogger("peers")


@dataclass(slots=True)
class Run:
    """What is known of one start of the release; `node` is none where nothing can be asked."""

    pid: int
    node: Node | None
    names: tuple[str, ...] = ()
    count: int = 0
    answered_at: str | None = None
    asked: float = -math.inf
    problem: str | None = None
    elsewhere: str | None = None
    gathered: bool = False

    @property
    def directly(self) -> bool:
        """Whether a question is cheap."""
        return self.node is not None and self.node.answers_directly

    def state(self) -> dict[str, Any] | None:
        """Return what is shown; none where there is nothing to ask."""
        if self.node is None:
            return None
        return {
            "count": self.count,
            "connected": list(self.names[:SHOWN]),
            "asked_at": self.answered_at,
            "problem": self.problem or self.elsewhere,
            "gathered": self.gathered,
        }


class Peers:
    """The nodes that are connected to the replica's own; `publish` tells whoever asks how we are.

    What the replica knows already of the release that runs was found by the agent before us.
    """

    def __init__(self, options: Settings, replica: Replica, publish: Callable[[], None]) -> None:
        self._options, self._replica, self._publish = options, replica, publish
        self._run: Run | None = None
        self._before = (replica.release.get("pid"), replica.nodes)
        self._changed = asyncio.Event()

    async def run(self) -> None:
        """Ask for ever while a release runs whose node answers directly."""
        pause = FIRST_PAUSE
        while True:
            self._changed.clear()
            run = self._current()
            if run is not None and run.directly:
                await self._ask(run, deadline=None)
            answered = run is not None and run.answered_at is not None
            try:
                async with asyncio.timeout(PEERS_SECONDS if answered else pause):
                    await self._changed.wait()
                pause = FIRST_PAUSE
            except TimeoutError:
                pause = min(pause * 2, PEERS_SECONDS)

    def release_changed(self) -> None:
        """Take notice of another start, or the end, of the release: its nodes are gone."""
        self._current()
        self._changed.set()

    async def refresh(self) -> None:
        """Ask once, so that what the replica knows is true now, or says why it is not."""
        run = self._current()
        if run is not None and run.node is not None:
            await self._ask(run, deadline=_patience(run))

    def gate(self, check: health.Check) -> health.Check:
        """Return the check, which from then on also waits for CLUSTER_MIN nodes.

        Once so many have been there it is as before: a partition must not take every replica out
        of service. Another start of the release has to gather them again.
        """
        if self._options.cluster_min == 1:
            return check

        async def gathered() -> str | None:
            return await check() or await self._missing()

        return gathered

    async def _missing(self) -> str | None:
        """Say what CLUSTER_MIN still waits for; none once it has held."""
        run = self._current()
        if run is None or run.node is None or run.gathered:
            return None
        if run.directly or time.monotonic() - run.asked >= TOOL_PAUSE:
            await self._ask(run, deadline=_patience(run))
        if run.gathered:
            return None
        wanted, there = self._options.cluster_min, 1 + run.count
        if run.problem is not None:
            return f"{wanted} connected nodes (CLUSTER_MIN), which nobody can count: {run.problem}"
        missing = wanted - there
        nodes = "node" if missing == 1 else "nodes"
        return f"{missing} more {nodes} to connect ({there} of {wanted}: CLUSTER_MIN)"

    def _current(self) -> Run | None:
        """Return the start of the release that runs now."""
        release = self._replica.release
        pid = release.get("pid") if release.get("state") == "running" else None
        if pid != (self._run and self._run.pid):
            self._run = self._begin(pid) if pid is not None else None
            self._replica.nodes = self._run.state() if self._run else None
        return self._run

    def _begin(self, pid: int) -> Run:
        run = Run(pid, self._node())
        of, known = self._before
        if of == pid and known is not None:
            run.names, run.count = tuple(known["connected"]), known["count"]
            run.answered_at, run.gathered = known["asked_at"], known["gathered"]
        return run

    def _node(self) -> Node | None:
        """Return the node that was started; none for a command, and where no way leads to it."""
        name = self._replica.facts.release
        if name is None:
            return None
        try:
            node = boot.node_of(self._options, name)
        except RunAgentError as error:
            log.warning("cannot find out which nodes are connected: %s", error)
            return None
        return node if node.can_be_asked else None

    async def _ask(self, run: Run, *, deadline: float | None) -> None:
        """Ask the node, and keep what it says unless it has ended meanwhile."""
        assert run.node is not None
        run.asked = time.monotonic()
        try:
            names = await run.node.connected(deadline=deadline)
        except RunAgentError as error:
            if run.answered_at is not None and run.problem is None:
                log.warning("cannot find out which nodes are connected: %s", error)
            run.problem = str(error)
        else:
            self._learn(run, names)
            await self._check_port(run, run.node)
        if run is self._current():
            self._replica.nodes = run.state()
            self._publish()

    def _learn(self, run: Run, names: tuple[str, ...]) -> None:
        _tell("connected", sorted({*names} - {*run.names}))
        _tell("gone", sorted({*run.names} - {*names}))
        run.names, run.count, run.problem = names, len(names), None
        run.answered_at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        run.gathered = run.gathered or 1 + run.count >= self._options.cluster_min

    async def _check_port(self, run: Run, node: Node) -> None:
        """See whether the node takes other nodes on DIST_PORT, whatever vm.args it has read."""
        wanted = self._options.dist_port
        if wanted is None:
            return
        port = await asyncio.to_thread(epmd.distribution_port, node.name, epmd.port_in(node.env))
        if port in {None, wanted}:
            run.elsewhere = None
            return
        elsewhere = (
            f"the node takes other nodes on port {port}, and not on DIST_PORT={wanted}: it was "
            "started with a vm.args that is not ours; leave GIGALIXIR_DEFAULT_VMARGS, VMARGS_PATH "
            "and RELEASE_VM_ARGS out of the configuration, or set the port there"
        )
        if run.elsewhere is None:
            log.warning("%s", elsewhere)
        run.elsewhere = elsewhere


def _patience(run: Run) -> float:
    return ASK_SECONDS if run.directly else TOOL_ASK_SECONDS


def _tell(what: str, names: list[str]) -> None:
    for name in names[:LOGGED]:
        log.info("node %s %s", name, what)
    if len(names) > LOGGED:
        log.info("%d more nodes %s", len(names) - LOGGED, what)
