"""Making and removing trees in `deploys`, so that a name there always stands for a whole tree.

Owns the lock and the temporary names (`.fetching-…`, `.removed-…`): a tree gets its name when it
is complete, and loses it before anything in it is removed. Must not know about records.
"""

import contextlib
import fcntl
import logging
import os
import time
from collections.abc import Iterator
from pathlib import Path

log = logging.getLogger(__name__)

LOCK = ".lock"
FETCHING = ".fetching-"
REMOVED = ".removed-"

WRITTEN_SECONDS = 3600.0
"""After so long nobody writes a small file any more, however slow the disk is."""

_OWNER = 0o700

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
    """Yield an empty folder to unpack into; what is left of it in the end is removed.

    A signal that raises in the middle of that does not keep it from being done, if it comes once.
    """
    path = deploys / f"{FETCHING}{os.urandom(6).hex()}"
    path.mkdir(mode=_OWNER)
    try:
        yield path
    finally:
        try:
            remove(path)
        except OSError as error:
            # Not raised: why the fetch failed matters more, and the next one sweeps.
            log.warning("cannot remove %s (%s)", path, error.strerror)
        except BaseException:
            remove(path)
            raise


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
    """Remove what earlier processes left half done; call it with the lock.

    Records are written without it: a file that is to be one may be somebody's who lives.
    """
    for prefix in (FETCHING, REMOVED):
        for path in deploys.glob(f"{prefix}*"):
            remove(path)
    for path in deploys.glob(".*.new"):
        with contextlib.suppress(FileNotFoundError):
            if time.time() - path.stat().st_mtime > WRITTEN_SECONDS:
                path.unlink()


def remove(path: Path) -> None:
    """Remove a folder, if it is there, and all below it; no link is followed.

    Folders are moved up before they are emptied, so that none lies too deep to be reached.
    """
    with contextlib.suppress(FileNotFoundError):
        path.chmod(_OWNER)
        waiting = _emptied(path, path)
        while waiting:
            folder = waiting.pop()
            waiting += _emptied(folder, path)
            folder.rmdir()
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


def _emptied(folder: Path, top: Path) -> list[Path]:
    """Remove the files in `folder`, move the folders in it up to `top` and return them."""
    inner = []
    with os.scandir(folder) as entries:
        for entry in entries:
            path = Path(entry.path)
            if entry.is_dir(follow_symlinks=False):
                inner.append(path)
            else:
                path.unlink()
    unique = os.urandom(6).hex()
    moved = []
    for number, path in enumerate(inner):
        path.chmod(_OWNER)  # a read-only one keeps even its owner, unless that is root, from it
        moved.append(path.rename(top / f"{unique}-{number}"))
    return moved


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
