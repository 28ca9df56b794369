"""The processes of the sessions: started here, reaped here, and ended to the last one.

The daemon is a subreaper, so whatever a session orphans becomes a child of ours, in its session or
out of it (setsid, a double fork), and is found among our own children. Whose it is `descent` tells.
What hides from all that goes with the last session that lived when it was taken in: so it may
outlive its own while others go on, but never all of them.

One program is left alone: epmd. The first Erlang on the machine starts it, be that in a session,
and the release registers with it and would not do so again with another.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import signal
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Protocol

from run_agent.ssh.daemon.processes import proc
from run_agent.ssh.daemon.processes.descent import Descent
from run_agent.ssh.daemon.processes.kin import Child, Family, Orphan, tell

SESSION_MARK = "RUN_AGENT_SESSION"
"""Every process of a session carries it in its environment: the daemon's token, a dot, and the
session's number. PID 1 looks for the token where the daemon itself was killed."""

HANGUP_SECONDS = 2.0
"""From HUP, which ends a shell and its jobs, to TERM for those that ignore it (nohup)."""

TERM_SECONDS = 3.0
"""From TERM to KILL: what holds a connection or a file may close it in order."""

KILL_SECONDS = 5.0
"""How long a killed process may take; more means that it hangs in the kernel."""

LOOK_AGAIN_SECONDS = 0.1
"""How often an ending looks for what ended, or was started, without our being told."""

SWEEP_SECONDS = 1.0
"""How often orphans are taken in while sessions live: each may end, and be a zombie of ours. What
lives below a leader for so long is known to be its own, whatever it does to hide afterwards."""

SPARED = "epmd"
"""The program that no session's end ends."""

STEPS = (
    (signal.SIGHUP, HANGUP_SECONDS),
    (signal.SIGTERM, TERM_SECONDS),
    (signal.SIGKILL, KILL_SECONDS),
)

log = logging.getLogger("ssh")


class Spawn(Protocol):
    """Starts a process in a session of its own: `entrypoint.init.children.spawn`."""

    def __call__(
        self,
        argv: list[str],
        *,
        env: Mapping[str, str],
        cwd: str | None = None,
        redirect: Mapping[int, int] | None = None,
        terminal: bool = False,
        session: bool = False,
    ) -> int:
        """Return its pid. With `session` and `terminal`, descriptor 0 becomes its terminal."""
        ...


class Children:
    """All sessions' processes. Needs a running event loop."""

    def __init__(self, spawn: Spawn, token: str) -> None:
        proc.adopt_orphans()
        self._spawn, self._token = spawn, token
        self._numbers = itertools.count(1)
        self._sessions: dict[int, Child] = {}
        """By the leader's pid, which is the session's id: it stays a zombie, and so keeps the
        number from being given to somebody else, until nothing of the session is left."""
        self._orphans: dict[int, Orphan] = {}
        self._nobody = Family("no session")
        self._descent = Descent(SESSION_MARK)
        self._endings: dict[Family, asyncio.Task[None]] = {}
        self._sweeping: asyncio.TimerHandle | None = None

    def start(
        self,
        argv: list[str],
        *,
        env: Mapping[str, str],
        cwd: str,
        redirect: Mapping[int, int],
        terminal: bool,
    ) -> Child:
        """Start the leader of a new session. Raises `OSError`."""
        mark = f"{self._token}.{next(self._numbers)}"
        pid = self._spawn(
            argv,
            env={**env, SESSION_MARK: mark},
            cwd=cwd,
            redirect=redirect,
            terminal=terminal,
            session=True,
        )
        streams = frozenset(map(proc.file_of, redirect.values()))
        child = self._sessions[pid] = Child(self, mark, pid, _open_child(pid), streams)
        if self._sweeping is None:
            self._sweep()
        return child

    async def settle(self) -> None:
        """Wait until nothing of any ended session is left; the daemon may go then."""
        while self._endings:
            await asyncio.wait(self._endings.values())

    def dismiss(self, family: Family) -> None:
        """End everything of it, and forget it then."""
        family.dismissed = True
        if not self._left(family):
            self._forget(family)
        elif family not in self._endings:
            ending = asyncio.create_task(self._end(family), name=f"ends {family.name}")
            self._endings[family] = ending
            ending.add_done_callback(lambda _: self._forget(family))

    def members(self, family: Family) -> Iterator[tuple[int, int]]:
        """Give (pid, its parent) of everything that belongs to it alone and has not ended."""
        roots: list[Child | Orphan] = [family] if isinstance(family, Child) else []
        roots += [one for one in self._orphans.values() if one.belongs_to(family)]
        for root in roots:
            if not proc.has_ended(root.pidfd):
                yield root.pid, os.getpid()
                for pid, parent in proc.descendants(root.pid):
                    if not proc.is_zombie(pid):
                        yield pid, parent

    async def _end(self, family: Family) -> None:
        for number, seconds in STEPS:
            if await self._ended_by(number, family, seconds):
                return
        pids = ", ".join(str(pid) for pid, _ in self._left(family))
        log.error("cannot end processes of %s: they hang in the kernel: %s", family.name, pids)

    async def _ended_by(self, number: signal.Signals, family: Family, seconds: float) -> bool:
        """Signal everything of it once, also what appears meanwhile; return whether all ended."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + seconds
        told: set[int] = set()
        while left := self._left(family):
            if loop.time() >= deadline:
                return False
            family.changed.clear()
            for pid, parent in left:
                if pid not in told:
                    told.add(pid)
                    tell(pid, parent, number)
            with suppress(TimeoutError):
                async with asyncio.timeout(LOOK_AGAIN_SECONDS):
                    await family.changed.wait()
        return True

    def _left(self, family: Family) -> list[tuple[int, int]]:
        """List what is left of it; at its very end, what took over from the last one meanwhile."""
        self._look()
        left = [one for one in self.members(family) if not _is_spared(one[0])]
        if left:
            return left
        return [(new.pid, os.getpid()) for new in self._look() if new.belongs_to(family)]

    def _forget(self, family: Family) -> None:
        """Reap the leader; what could not be ended belongs to nobody."""
        ending = self._endings.pop(family, None)
        if ending is not None and not ending.cancelled():
            ending.result()
        if isinstance(family, Child):
            del self._sessions[family.pid]
            family.forget()
        for orphan in self._orphans.values():
            orphan.families.discard(family)
            if not orphan.families and family is not self._nobody:
                orphan.families.add(self._nobody)
                self._nobody.dismissed = False
        self._end_strays()

    def _end_strays(self) -> None:
        """With no session left, nothing that a session started may go on."""
        if not self._sessions and self._orphans and not self._nobody.dismissed:
            self.dismiss(self._nobody)

    def _sweep(self) -> None:
        self._sweeping = None
        self._look()
        self._end_strays()
        roots: dict[int, set[Family]] = {pid: {child} for pid, child in self._sessions.items()}
        self._descent.look(roots | {pid: one.families for pid, one in self._orphans.items()})
        if self._sessions or self._orphans:
            loop = asyncio.get_running_loop()
            self._sweeping = loop.call_later(SWEEP_SECONDS, self._sweep)

    def _look(self) -> list[Orphan]:
        """Take in the new orphans, and reap those that have ended; return the new ones."""
        new = []
        for pid in proc.children(os.getpid()):
            if pid not in self._sessions and pid not in self._orphans and not _is_spared(pid):
                with suppress(OSError):  # no descriptor is free: at the next look
                    self._orphans[pid] = Orphan(self, pid, self._families(pid))
                    new.append(self._orphans[pid])
        for orphan in list(self._orphans.values()):
            orphan.reap()
        return new

    def _families(self, pid: int) -> set[Family]:
        return self._descent.families(pid, self._sessions.values()) or {self._nobody}

    def drop(self, orphan: Orphan) -> None:
        """Forget one that has been reaped."""
        del self._orphans[orphan.pid]
        for family in orphan.families:
            family.changed.set()


def _open_child(pid: int) -> int:
    """Open a pidfd of a child of ours; where that fails it is ended, and `OSError` raised."""
    try:
        return os.pidfd_open(pid)
    except OSError:
        os.kill(pid, signal.SIGKILL)  # not reaped yet, so the number is still its own
        os.waitpid(pid, 0)
        raise


def _is_spared(pid: int) -> bool:
    return proc.program(pid) == SPARED
