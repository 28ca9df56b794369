"""How SFTP version 3 writes numbers, strings and attributes (draft-ietf-secsh-filexfer-02, 5)."""

from __future__ import annotations

import errno
import os
import struct
from typing import NamedTuple

SIZE, OWNERS, MODE, TIMES = 1, 2, 4, 8
EXTENDED = 0x80000000

LONGEST_PACKET = 256 << 10
"""What OpenSSH takes at most, too."""

LARGEST = 0xFFFFFFFF


class Malformed(Exception):  # noqa: N818 - what it is, and it never leaves the transfer
    """The client broke the protocol."""


class Wanted(NamedTuple):
    """Attributes that a client asks for; None is left as it is."""

    size: int | None = None
    owners: tuple[int, int] | None = None
    mode: int | None = None
    times: tuple[int, int] | None = None
    """Access and modification, seconds since the epoch."""

    def apply(self, file: int | bytes, *, follow: bool = True) -> None:
        """Set them on a descriptor or a path. Raises `OSError`."""
        if self.size is not None:
            os.truncate(file, self.size)
        if self.owners is not None:
            os.chown(file, *self.owners, follow_symlinks=follow)
        if self.mode is not None:  # after the owners: chown(2) takes set-user-id away
            _change_mode(file, self.mode & 0o7777, follow=follow)
        if self.times is not None:
            os.utime(file, self.times, follow_symlinks=follow)

    def told(self) -> dict[str, object]:
        """Say for the audit what rights are to be set."""
        told: dict[str, object] = {}
        if self.owners is not None:
            told["owner"] = f"{self.owners[0]}:{self.owners[1]}"
        if self.mode is not None:
            told["mode"] = f"{self.mode & 0o7777:04o}"
        return told


def _change_mode(file: int | bytes, mode: int, *, follow: bool) -> None:
    try:
        os.chmod(file, mode, follow_symlinks=follow)
    except NotImplementedError:  # Linux: a symbolic link has no mode of its own
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP)) from None


class Packet:
    """A packet, read from its start."""

    def __init__(self, content: memoryview) -> None:
        self._content, self._at = content, 0

    def byte(self) -> int:
        """Take a number of 8 bits. Like all that follow: raises `Malformed` at the end."""
        return self._take(1)[0]

    def uint32(self) -> int:
        """Take a number of 32 bits."""
        return int.from_bytes(self._take(4), "big")

    def uint64(self) -> int:
        """Take a number of 64 bits."""
        return int.from_bytes(self._take(8), "big")

    def view(self) -> memoryview:
        """Take a string without copying it."""
        return self._take(self.uint32())

    def string(self) -> bytes:
        """Take a string."""
        return bytes(self.view())

    def attributes(self) -> Wanted:
        """Take attributes; extended ones are skipped."""
        flags = self.uint32()
        wanted = Wanted(
            self.uint64() if flags & SIZE else None,
            (self.uint32(), self.uint32()) if flags & OWNERS else None,
            self.uint32() if flags & MODE else None,
            (self.uint32(), self.uint32()) if flags & TIMES else None,
        )
        for _ in range(2 * self.uint32() if flags & EXTENDED else 0):
            self.view()
        return wanted

    def _take(self, length: int) -> memoryview:
        taken = self._content[self._at : self._at + length]
        if len(taken) < length:
            raise Malformed("The packet is shorter than it says")
        self._at += length
        return taken


def uint32(value: int) -> bytes:
    """Write a number."""
    return value.to_bytes(4, "big")


def uint64(value: int) -> bytes:
    """Write a long number."""
    return value.to_bytes(8, "big")


def string(value: bytes) -> bytes:
    """Write a string: its length, and itself."""
    return len(value).to_bytes(4, "big") + value


def attributes(found: os.stat_result) -> bytes:
    """Write what stat(2) has found; a time before 1970 or after 2106 becomes the nearest one."""
    return struct.pack(
        ">IQIIIII",
        SIZE | OWNERS | MODE | TIMES,
        found.st_size,
        found.st_uid,
        found.st_gid,
        found.st_mode,
        min(max(int(found.st_atime), 0), LARGEST),
        min(max(int(found.st_mtime), 0), LARGEST),
    )
