"""Who belongs together: a session's leader, what it has orphaned, and what ends with them."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator
from typing import Protocol

from run_agent.ssh.daemon.processes import proc


class Owner(Protocol):
    """Who keeps them all: `children.Children`."""

    def members(self, family: Family) -> Iterator[tuple[int, int]]:
        """Give (pid, its parent) of everything that belongs to it alone and has not ended."""

    def dismiss(self, family: Family) -> None:
        """End everything of it, and forget it then."""

    def drop(self, orphan: Orphan) -> None:
        """Forget one that has been reaped."""


class Family:
    """Processes that are ended together."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.dismissed = False
        self.changed = asyncio.Event()
        """Something of it has ended."""


class Child(Family):
    """A session's leader, and with it everything of its session."""

    def __init__(
        self, owner: Owner, mark: str, pid: int, pidfd: int, streams: frozenset[proc.File]
    ) -> None:
        super().__init__(f"session {mark.rpartition('.')[2]}")
        self.pid, self.pidfd, self.mark, self.streams = pid, pidfd, mark, streams
        self.dumped_core = False
        loop = asyncio.get_running_loop()
        self.ended: asyncio.Future[int] = loop.create_future()
        """The exit code as waitstatus_to_exitcode() has it: -n for signal n."""
        self._owner = owner
        loop.add_reader(pidfd, self._collect)

    def signal(self, number: int) -> None:
        """Signal the leader's process group, or the terminal's foreground group."""
        group = proc.stat(self.pid).foreground
        if group <= 0:  # it has no terminal
            group = self.pid
        for pid, parent in list(self._owner.members(self)):
            # one that has just been forked is still in our group, and on its way to its own
            if pid == group == self.pid or proc.stat(pid).group == group:
                tell(pid, parent, number)

    def dismiss(self) -> None:
        """End everything of this session: HUP, then TERM, then KILL; nothing is left behind."""
        if not self.dismissed:
            self._owner.dismiss(self)

    def forget(self) -> None:
        """Reap it, so that its number is free."""
        self._collect()
        proc.how_ended(self.pidfd)
        asyncio.get_running_loop().remove_reader(self.pidfd)
        os.close(self.pidfd)

    def _collect(self) -> None:
        ended = proc.how_ended(self.pidfd, reap=False)
        if ended is not None and not self.ended.done():
            asyncio.get_running_loop().remove_reader(self.pidfd)
            self.dumped_core = ended.dumped_core
            self.ended.set_result(ended.code)
            self.changed.set()


class Orphan:
    """A process whose parent in a session has ended, which made it a child of ours."""

    def __init__(self, owner: Owner, pid: int, families: set[Family]) -> None:
        self.pid, self.families = pid, families
        self.pidfd = os.pidfd_open(pid)
        self._owner = owner
        asyncio.get_running_loop().add_reader(self.pidfd, self.reap)

    def belongs_to(self, family: Family) -> bool:
        """Whether it may go with this session: no other that it may belong to goes on."""
        others = self.families - {family}
        return family in self.families and all(other.dismissed for other in others)

    def reap(self) -> None:
        """Reap it if it has ended."""
        if proc.how_ended(self.pidfd) is not None:
            asyncio.get_running_loop().remove_reader(self.pidfd)
            os.close(self.pidfd)
            self._owner.drop(self)


def tell(pid: int, parent: int, number: int) -> None:
    """Signal `pid` if it is a child of `parent`, or orphaned to us."""
    with proc.held(pid, parent) as pidfd:
        if pidfd is not None:
            proc.send(pidfd, number)
            if number in {signal.SIGHUP, signal.SIGTERM}:
                proc.send(pidfd, signal.SIGCONT)  # a stopped one would not hear of it
