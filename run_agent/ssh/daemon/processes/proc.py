"""Looking at processes in /proc, and signalling only what is provably ours.

Every process is looked at through a pidfd: a number given to somebody else meanwhile is not hit.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
from collections.abc import Iterator
from typing import NamedTuple

PR_SET_CHILD_SUBREAPER = 36
"""prctl(2): orphans below us become our children, as they do of PID 1."""


class Stat(NamedTuple):
    """What proc(5) says of a process; zeros for one that is gone."""

    state: str
    parent: int
    group: int
    session: int
    foreground: int
    """The foreground group of its terminal."""
    started: int
    """When, in clock ticks since the machine's own start."""


GONE = Stat("", 0, 0, 0, 0, 0)

File = tuple[int, int]
"""Device and inode: the two ends of a pipe have the same, as have all that have a terminal open."""

DELETED = " (deleted)"
"""What proc(5) adds to the path of a program whose file has gone."""


def adopt_orphans() -> None:
    """Become the subreaper of everything started below; raises `OSError` where that fails."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")


def stat(pid: int) -> Stat:
    """Read a process's state and kin."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:  # noqa: PTH123 - read hundreds of times
            # the command in parentheses may hold anything, so read on from the last one
            fields = file.read().rpartition(b")")[2].split()
    except OSError:
        return GONE
    parent, group, session, _, foreground = map(int, fields[1:6])
    return Stat(fields[0].decode(), parent, group, session, foreground, int(fields[19]))


def variable(pid: int, name: str) -> str | None:
    """Read a variable of the environment that a process was started with."""
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:  # noqa: PTH123 - as above
            entries = file.read().split(b"\0")
    except OSError:
        return None  # gone, or another account's
    start = f"{name}=".encode()
    found = next((entry for entry in entries if entry.startswith(start)), None)
    return None if found is None else os.fsdecode(found[len(start) :])


def program(pid: int) -> str:
    """Return the name of the program's file; none for one that has ended, or another account's."""
    try:
        path = os.readlink(f"/proc/{pid}/exe")  # noqa: PTH115 - as above
    except OSError:
        return ""
    return os.path.basename(path).removesuffix(DELETED)  # noqa: PTH119 - as above


def open_files(pid: int) -> set[File]:
    """List what a process has open."""
    found = set()
    folder = f"/proc/{pid}/fd"
    with contextlib.suppress(OSError):  # gone, or another account's
        for name in os.listdir(folder):  # noqa: PTH208 - as above
            with contextlib.suppress(OSError):  # closed meanwhile
                found.add(file_of(f"{folder}/{name}"))
    return found


def file_of(path: str | int) -> File:
    """Return which file a path or a descriptor leads to. Raises `OSError`."""
    stat = os.stat(path)  # noqa: PTH116 - as above, and it may be a descriptor
    return stat.st_dev, stat.st_ino


def children(pid: int) -> list[int]:
    """List the processes whose parent is `pid` now. One that is just being born may be missing."""
    found: list[int] = []
    try:
        for thread in os.listdir(f"/proc/{pid}/task"):  # noqa: PTH208 - as above
            with open(f"/proc/{pid}/task/{thread}/children", "rb") as file:  # noqa: PTH123
                found += map(int, file.read().split())
    except OSError:
        if HAS_CHILDREN_FILES:
            return found  # it, or one of its threads, has just gone
        return _all_children().get(pid, [])
    return found


def _all_children() -> dict[int, list[int]]:
    """Look at every process there is: dear, and so done once for all descendants."""
    found: dict[int, list[int]] = {}
    for pid in _processes():
        found.setdefault(stat(pid).parent, []).append(pid)
    return found


def _processes() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdecimal()]  # noqa: PTH208


HAS_CHILDREN_FILES = os.path.exists(f"/proc/self/task/{os.getpid()}/children")  # noqa: PTH110
"""The kernel has them since 3.5, if built with CONFIG_PROC_CHILDREN; a sandbox may not."""


@contextlib.contextmanager
def held(pid: int, parent: int) -> Iterator[int | None]:
    """Give a pidfd of `pid` if it is a child of `parent`, or orphaned to us; else None."""
    try:
        descriptor = os.pidfd_open(pid)
    except OSError:
        yield None
        return
    try:
        yield descriptor if stat(pid).parent in {parent, os.getpid()} else None
    finally:
        os.close(descriptor)


def descendants(pid: int) -> Iterator[tuple[int, int]]:
    """Give (pid, its parent) of everything below `pid`, parents first."""
    everybody = None if HAS_CHILDREN_FILES else _all_children()
    parents = [pid]
    for parent in parents:  # it grows meanwhile
        for child in children(parent) if everybody is None else everybody.get(parent, ()):
            yield child, parent
            parents.append(child)


def send(pidfd: int, number: int) -> None:
    """Signal a process; one that has ended, or changed its account, is left alone."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        signal.pidfd_send_signal(pidfd, number)


def is_zombie(pid: int) -> bool:
    """Whether it has ended (all is gone, or its own parent has yet to notice)."""
    return stat(pid).state in {"Z", "X", ""}


def has_ended(pidfd: int) -> bool:
    """Whether a process has ended with all its threads; it may be a zombie still."""
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(0))


class Ended(NamedTuple):
    """How a process ended: its exit code, -n for signal n, and whether that left a core."""

    code: int
    dumped_core: bool = False


def how_ended(pidfd: int, *, reap: bool = True) -> Ended | None:
    """Tell how a child of ours ended, None while it runs; without `reap` it stays a zombie."""
    keep = 0 if reap else os.WNOWAIT
    try:
        ended = os.waitid(os.P_PIDFD, pidfd, os.WEXITED | os.WNOHANG | keep)
    except ChildProcessError:
        return Ended(0)  # reaped already
    if ended is None:
        return None
    if ended.si_code == os.CLD_EXITED:
        return Ended(ended.si_status)
    return Ended(-ended.si_status, ended.si_code == os.CLD_DUMPED)
