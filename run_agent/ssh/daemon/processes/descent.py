"""Telling whose an orphan is: the kernel does not keep who its parent was.

A process has its session's id, unless it made a session of its own (setsid); its mark in the
environment, unless it was started without (env -i); it was seen below a session's leader, unless
it had no time to be; and it holds the session's streams, unless they were redirected. What has
done all of that at once may be any session's that is older than itself.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping

from run_agent.ssh.daemon.processes import proc
from run_agent.ssh.daemon.processes.kin import Child, Family


class Descent:
    """Remembers what was seen below whom. `mark` is the variable that names a session."""

    def __init__(self, mark: str) -> None:
        self._mark = mark
        self._seen: dict[int, tuple[int, set[Family]]] = {}

    def look(self, roots: Mapping[int, set[Family]]) -> None:
        """Note all that is below us now; `roots` tells whose our own children are."""
        whose = dict(roots)
        self._seen = {}
        for pid, parent in proc.descendants(os.getpid()):
            families = whose.get(pid) or whose.get(parent)
            if families:
                whose[pid] = families
                self._seen[pid] = proc.stat(pid).started, families

    def families(self, pid: int, sessions: Collection[Child]) -> set[Family]:
        """Return the session whose it is, or all whose it may be; they are among `sessions`."""
        stat = proc.stat(pid)
        certain = [child for child in sessions if child.pid == stat.session]
        if not certain:
            mark = proc.variable(pid, self._mark)
            certain = [child for child in sessions if child.mark == mark]
        if certain:
            return set(certain)
        started, seen = self._seen.get(pid, (0, set[Family]()))
        known = seen.intersection(sessions) if started == stat.started else set()
        return known or self._holders(pid, sessions) or _older(stat, sessions)

    def _holders(self, pid: int, sessions: Collection[Child]) -> set[Family]:
        held = proc.open_files(pid)
        return {child for child in sessions if child.streams & held}


def _older(stat: proc.Stat, sessions: Collection[Child]) -> set[Family]:
    return {child for child in sessions if proc.stat(child.pid).started <= stat.started}
