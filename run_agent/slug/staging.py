"""Making and removing trees in `deploys`, so that a name there always stands for a whole tree.

Owns the lock and the temporary names (`.fetching-…`, `.removed-…`): a tree gets its name when it
is complete, and loses it before anything in it is removed. Must not know about records.
"""

import contextlib
import fcntl
import logging
import os
import stat
from collections.abc import Iterator
from pathlib import Path

log = logging.getLogger(__name__)

LOCK = ".lock"
FETCHING = ".fetching-"
REMOVED = ".removed-"

TREE_MODE = 0o755
"""Of the tree's own folder, whatever the slug says of `.`: often it was made by mktemp, 0700."""


@contextlib.contextmanager
def locked(deploys: Path, *, wait: bool = True) -> Iterator[bool]:
    """Keep other processes from making or removing trees; yield whether that was possible.

    The kernel lets go of the lock of a process that dies. Raises `OSError`.
    """
    deploys.mkdir(parents=True, exist_ok=True)
    lock = os.open(deploys / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        yield _flock(lock, wait=wait)
    finally:
        os.close(lock)


@contextlib.contextmanager
def folder(deploys: Path) -> Iterator[Path]:
    """Yield an empty folder to unpack into; what is left of it in the end is removed."""
    path = deploys / f"{FETCHING}{os.urandom(6).hex()}"
    path.mkdir(mode=0o700)
    try:
        yield path
    finally:
        try:
            remove(path)
        except OSError as error:
            # Not raised: why the fetch failed matters more, and the next one sweeps.
            log.warning("cannot remove %s (%s)", path, error.strerror)


def adopt(staged: Path, tree: Path) -> None:
    """Give a complete tree its name; one that is there, and cannot be trusted, makes way."""
    staged.chmod(TREE_MODE)
    doomed = _put_aside(tree)
    staged.rename(tree)
    remove(doomed)


def discard(tree: Path) -> None:
    """Remove a tree, if it is there, such that no part of it is ever seen under its name."""
    remove(_put_aside(tree))


def sweep(deploys: Path) -> None:
    """Remove what earlier processes left half done; call it with the lock."""
    for prefix in (FETCHING, REMOVED):
        for path in deploys.glob(f"{prefix}*"):
            remove(path)
    for path in deploys.glob(".*.new"):
        path.unlink(missing_ok=True)


def remove(path: Path) -> None:
    """Remove a folder, if it is there, and all below it; no link is followed."""
    with contextlib.suppress(FileNotFoundError):
        _make_writable(path)
        for _, folders, names, parent in os.fwalk(path, topdown=False):
            for name in names:
                os.unlink(name, dir_fd=parent)
            for name in folders:
                if _is_folder(name, parent):
                    os.rmdir(name, dir_fd=parent)
                else:
                    os.unlink(name, dir_fd=parent)
        path.rmdir()


def sync(path: Path) -> None:
    """Wait until all that was written to the file system of `path` is on its disk (syncfs(2))."""
    import ctypes  # noqa: PLC0415 - the agent holds this module, and never does this

    libc = ctypes.CDLL(None, use_errno=True)
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if libc.syncfs(descriptor):
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), str(path))
    finally:
        os.close(descriptor)


def _make_writable(path: Path) -> None:
    """Let the owner, who need not be root, remove what is in read-only folders."""
    path.chmod(0o700)
    for _, folders, _, parent in os.fwalk(path):
        for name in folders:
            if _is_folder(name, parent):
                os.chmod(name, 0o700, dir_fd=parent)


def _is_folder(name: str, parent: int) -> bool:
    return stat.S_ISDIR(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode)


def _put_aside(tree: Path) -> Path:
    doomed = tree.with_name(f"{REMOVED}{os.urandom(6).hex()}")
    with contextlib.suppress(FileNotFoundError):
        tree.rename(doomed)
    return doomed


def _flock(lock: int, *, wait: bool) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    return True
