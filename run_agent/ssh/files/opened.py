"""Files and folders that a client has open, how a folder is listed, and where `~` is."""

from __future__ import annotations

import errno
import functools
import grp
import itertools
import os
import pwd
import stat
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from run_agent.ssh.files.ledger import Line

NAMES_AT_ONCE = 100
"""Names in one answer, as OpenSSH does."""

LONGEST_READ = 255 << 10
"""What is read at once at most; OpenSSH's sftp-server does the same."""

BUFFER = memoryview(bytearray(LONGEST_READ))
"""One for all reads: what a new one for each would cost is more than most files have to be read."""

HALF_A_YEAR = 365 * 86400 / 2
"""ls(1) shows the year instead of the time of what is older, or in the future."""


class File:
    """An open file, and what was done with it."""

    def __init__(self, descriptor: int, line: Line) -> None:
        self.descriptor, self.line = descriptor, line
        self._read = self._written = 0
        self.error: str | None = None

    def read(self, length: int, offset: int) -> bytes:
        """Return up to `length` bytes (`LONGEST_READ`); none at the end. Raises `OSError`."""
        try:
            got = os.preadv(self.descriptor, [BUFFER[:length]], offset)
        except OSError as error:
            self.error = error.strerror
            raise
        self._read += got
        return bytes(BUFFER[:got])

    def write(self, wanted: memoryview, offset: int) -> None:
        """Write all of it. Raises `OSError`; what was written before that stays."""
        try:
            while wanted:
                written = os.pwrite(self.descriptor, wanted, offset)
                self._written += written
                wanted, offset = wanted[written:], offset + written
        except OSError as error:
            self.error = error.strerror
            raise

    def close(self) -> None:
        """Close it and its line in the audit. Raises `OSError`; it is closed then, too."""
        try:
            os.close(self.descriptor)
        except OSError as error:  # a file system over the network may tell only now
            self.error = error.strerror
            raise
        finally:
            self.line.close(read=self._read, written=self._written, error=self.error)


class Folder:
    """An open folder: what has not been listed of it."""

    def __init__(self, path: bytes) -> None:
        self._path = path
        self._entries = os.scandir(path)
        self._names = itertools.chain((b".", b".."), (entry.name for entry in self._entries))

    def next_entries(self) -> list[tuple[bytes, os.stat_result]]:
        """Return the next names, each with what lstat(2) says; none at the end."""
        return list(itertools.islice(self._found(), NAMES_AT_ONCE))

    def _found(self) -> Iterator[tuple[bytes, os.stat_result]]:
        for name in self._names:
            with suppress(OSError):  # removed since the folder was opened
                yield name, os.lstat(os.path.join(self._path, name))

    def close(self) -> None:
        """Give its descriptor back."""
        self._entries.close()


def long_name(name: bytes, found: os.stat_result) -> bytes:
    """Write a line as `ls -l` does: clients show it, and some read the owner from it."""
    age = time.time() - found.st_mtime
    clock = "%H:%M" if 0 <= age < HALF_A_YEAR else " %Y"
    when = time.strftime(f"%b %e {clock}", time.localtime(found.st_mtime))
    line = (
        f"{stat.filemode(found.st_mode)} {found.st_nlink:4} {_user(found.st_uid):8} "
        f"{_group(found.st_gid):8} {found.st_size:8} {when} "
    )
    return os.fsencode(line) + name


@functools.lru_cache(maxsize=256)
def _user(number: int) -> str:
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return str(number)


@functools.lru_cache(maxsize=256)
def _group(number: int) -> str:
    try:
        return grp.getgrgid(number).gr_name
    except KeyError:
        return str(number)


def expand_home(path: bytes, home: bytes) -> bytes:
    """Replace `~` or `~user` at the start. Raises `OSError` where there is no such user."""
    if not path.startswith(b"~"):
        return path
    name, slash, rest = path[1:].partition(b"/")
    if name:
        try:
            home = os.fsencode(pwd.getpwnam(os.fsdecode(name)).pw_dir)
        except KeyError:
            raise OSError(errno.ENOENT, f"No such user: {os.fsdecode(name)}") from None
    return home + slash + rest
