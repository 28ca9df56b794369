"""Files that are replaced whole or not at all. Owns no path: callers say where.

Another process sees either the old content or the new one, never a part; a crash leaves at most
a temporary file, whose name starts with a dot and ends with `.new`.
"""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from run_agent.errors import RunAgentError


def atomic_write(path: Path, content: bytes, *, mode: int = 0o600, fsync: bool = False) -> None:
    """Put `content` at `path` with `mode`, whatever the umask; raises `OSError`.

    `fsync` makes it outlive a power cut, at the price of a wait for the disk.
    """
    with _written(path, content, mode, fsync=fsync) as new:
        new.replace(path)


def write_once(path: Path, content: bytes, *, mode: int = 0o600) -> bytes:
    """Put `content` at `path` unless something is there, and return what is there in the end.

    Of several processes that do so at once, all return the content of the same one. It is on
    the disk when this returns. Raises `OSError`.
    """
    with contextlib.suppress(FileNotFoundError):
        return path.read_bytes()
    with _written(path, content, mode, fsync=True) as new, contextlib.suppress(FileExistsError):
        path.hardlink_to(new)
    return path.read_bytes()


def replace_link(path: Path, target: Path) -> None:
    """Make `path` a symbolic link to `target`, in place of the link or file that is there."""
    new = _new_name(path)
    new.symlink_to(target)
    with _removed(new):
        new.replace(path)


@contextlib.contextmanager
def writing_run_folder(run: Path) -> Iterator[None]:
    """Say in the user's words what keeps us from writing there; raises `RunAgentError` (74)."""
    try:
        yield
    except OSError as error:
        raise RunAgentError(
            f"cannot write {error.filename} ({error.strerror}): the run folder {run} must "
            "be writable and have room; mount a tmpfs there",
            exit_code=os.EX_IOERR,
        ) from error


def sync_folder(folder: Path) -> None:
    """Wait until the names in `folder` are on the disk (fsync(2)); raises `OSError`."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _written(path: Path, content: bytes, mode: int, *, fsync: bool) -> Iterator[Path]:
    """Yield a temporary file beside `path` that holds all of `content`; remove it in the end."""
    new = _new_name(path)
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with _removed(new):
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(content)
            os.fchmod(descriptor, mode)
            if fsync:
                stream.flush()
                os.fsync(descriptor)
        yield new
    if fsync:
        sync_folder(path.parent)


@contextlib.contextmanager
def _removed(new: Path) -> Iterator[None]:
    try:
        yield
    finally:
        new.unlink(missing_ok=True)


def _new_name(path: Path) -> Path:
    return path.with_name(f".{path.name}.{os.urandom(6).hex()}.new")
