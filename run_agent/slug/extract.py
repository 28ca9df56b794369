"""Put the members of an archive into a folder, and nothing outside of it.

Owns what a slug may contain and every file that is written from one. A symbolic link may point
anywhere, for the app to follow; it is never written through where it leaves the folder. Owners,
extended attributes and the times of folders are not restored.
"""

import errno
import os
import stat
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from run_agent.slug.archive import Archive
from run_agent.slug.folders import Folders
from run_agent.slug.reason import BadSlugError, refusal, shown

T = TypeVar("T")

LATEST_SECONDS = 1 << 33
"""Modification times from here on (the year 2242) are nonsense and not restored."""

_SET_ID = stat.S_ISUID | stat.S_ISGID
_SPECIAL = {
    tarfile.CHRTYPE: "is a device",
    tarfile.BLKTYPE: "is a device",
    tarfile.FIFOTYPE: "is a named pipe",
}
_NAME_TROUBLE = {errno.ENAMETOOLONG, errno.EILSEQ, errno.ELOOP}
_MODE_BITS = 0o777
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(frozen=True, slots=True)
class Limits:
    """What a slug may amount to; the holes of sparse files count, since a reader sees them."""

    members: int
    unpacked_bytes: int


@dataclass(slots=True)
class Count:
    """What was unpacked so far."""

    members: int = 0
    unpacked_bytes: int = 0


def unpack(archive: Archive, folder: Path, limits: Limits, tell: Callable[[Count], None]) -> Count:
    """Unpack all of `archive` into the empty `folder`; `tell` hears of each step.

    Raises `BadSlugError` at the first member that cannot be accepted, and `OSError` for what the
    disk refuses.
    """
    with Folders(folder) as folders:
        extraction = _Extraction(archive, folders, limits, tell)
        for member in archive:
            extraction.add(member)
        folders.set_modes()
    if not extraction.count.members:
        raise BadSlugError("there is nothing in its archive; pack and upload it again")
    return extraction.count


class _Extraction:
    def __init__(
        self, archive: Archive, folders: Folders, limits: Limits, tell: Callable[[Count], None]
    ) -> None:
        self.count = Count()
        self._archive = archive
        self._folders = folders
        self._root = folders.descriptor
        self._limits = limits
        self._tell = tell

    def add(self, member: tarfile.TarInfo) -> None:
        """Unpack one member, if it may be."""
        self._count(member)
        _refuse_forbidden(member)
        try:
            if member.isdir():
                self._folders.add(member.name, member.mode)
            else:
                self._add_file(member, self._folders.place(member.name, member.name))
        except OSError as error:
            if error.errno in _NAME_TROUBLE:
                raise refusal(member.name, f"cannot be created ({error.strerror})") from None
            raise
        self._tell(self.count)

    def _count(self, member: tarfile.TarInfo) -> None:
        """Count the member before anything of it is written, so that a bomb stops at the limit."""
        self.count.members += 1
        if self.count.members > self._limits.members:
            raise BadSlugError(
                f"it has over {self._limits.members} members; if that is right, raise "
                "SLUG_MAX_MEMBERS"
            )
        if member.isreg():
            self.count.unpacked_bytes += max(member.size, 0)
        if self.count.unpacked_bytes > self._limits.unpacked_bytes:
            raise BadSlugError(
                f"it unpacks to over {self._limits.unpacked_bytes} bytes (at member "
                f"{shown(member.name)}); if that is right, raise SLUG_MAX_BYTES"
            )

    def _add_file(self, member: tarfile.TarInfo, path: str) -> None:
        if member.issym():
            self._make(path, member, lambda: os.symlink(member.linkname, path, dir_fd=self._root))
        elif member.islnk():
            self._link(member, path)
        else:
            self._write(member, path)

    def _make(self, path: str, member: tarfile.TarInfo, make: Callable[[], T]) -> T:
        """Make what is to be at `path`; of members with the same name, the last one counts."""
        try:
            return make()
        except FileExistsError:
            self._folders.clear(path, member.name)
            return make()

    def _link(self, member: tarfile.TarInfo, path: str) -> None:
        target = self._folders.place(member.linkname, member.name)
        try:
            status = self._folders.status(target)
        except FileNotFoundError:
            raise refusal(
                member.name, f"is a hard link to nothing: {shown(member.linkname)}"
            ) from None
        if stat.S_ISDIR(status.st_mode):
            raise refusal(member.name, f"is a hard link to the folder {shown(member.linkname)}")
        if stat.S_ISLNK(status.st_mode) and self._folders.leaves(target):
            raise refusal(
                member.name, f"is a hard link to {shown(member.linkname)}, which leads outside"
            )
        if target != path:  # tar packs a file that it was given twice as a link to itself
            self._make(path, member, lambda: self._hard_link(target, path))

    def _hard_link(self, target: str, path: str) -> None:
        root = self._root
        os.link(target, path, src_dir_fd=root, dst_dir_fd=root, follow_symlinks=False)

    def _write(self, member: tarfile.TarInfo, path: str) -> None:
        """Write a file. What is there already is never opened: it may have other names."""
        file = self._make(path, member, lambda: os.open(path, _NEW, 0o600, dir_fd=self._root))
        try:
            if member.issparse():
                self._pour_sparsely(member, file)
            else:
                self._pour(member.size, file)
            os.fchmod(file, member.mode & _MODE_BITS)
            if 0 <= member.mtime < LATEST_SECONDS:
                time = round(member.mtime * 1_000_000) * 1000  # what a float can tell
                os.utime(file, ns=(time, time))
        finally:
            os.close(file)

    def _pour(self, size: int, file: int) -> None:
        for chunk in self._archive.content(size):
            rest = memoryview(chunk)
            while rest:
                rest = rest[os.write(file, rest) :]
            self._tell(self.count)

    def _pour_sparsely(self, member: tarfile.TarInfo, file: int) -> None:
        """Write the parts that the archive has; the rest stays holes."""
        os.ftruncate(file, member.size)
        end = 0
        for offset, size in _segments(member):
            if not end <= offset <= offset + size <= member.size:
                raise refusal(member.name, "has an impossible sparse map")
            end = offset + size
            os.lseek(file, offset, os.SEEK_SET)
            self._pour(size, file)


def _segments(member: tarfile.TarInfo) -> list[tuple[int, int]]:
    """Return offset and size of what a sparse file has besides holes.

    `tarfile` documents nothing of it. Maps are filled up with, and end with, segments of size 0.
    """
    segments: Any = member.sparse
    return [(offset, size) for offset, size in segments if size]


def _refuse_forbidden(member: tarfile.TarInfo) -> None:
    """Raise `BadSlugError` for what no slug may have, wherever it would land."""
    why = None
    if member.type in _SPECIAL:
        why = _SPECIAL[member.type]
    elif not (member.isreg() or member.isdir() or member.issym() or member.islnk()):
        why = f"is of the unknown kind {member.type!r}"
    # On a folder the bits give nobody rights; build machines set them for shared groups.
    elif member.mode & _SET_ID and not member.isdir():
        why = "has the set-uid or set-gid bit; clear it before packing"
    elif "\0" in member.name or "\0" in member.linkname:
        why = "has a NUL in its name or in the name it links to"
    elif member.issym() and not member.linkname:
        why = "is a link to nothing"
    elif member.isreg() and (member.size < 0 or member.name.endswith("/")):
        why = "is a file with an impossible size or name"
    if why:
        raise refusal(member.name, why)
