"""The folders of a tree that is being unpacked, and where in it a member really lands.

Owns the rule that nothing is made outside: names are taken apart here, and a symbolic link among
the folders of a path is followed only as far as it stays inside. Nobody else may write to the
tree meanwhile. Must not write files: that is `extract`.
"""

import contextlib
import errno
import os
import stat
from pathlib import Path
from types import TracebackType
from typing import Self

from run_agent.slug.reason import refusal, shown

FOLDER_MODE = 0o755
"""Of folders that the archive implies but does not list."""

DEPTH_LIMIT = 200
"""Folders within folders; whoever makes more of them means to break what walks the tree."""

REMEMBERED = 20_000
"""Folders known to be there; those of a slug with even more are looked up on the disk again."""

_OWNER = 0o700
_KEPT_BITS = 0o1777


class Folders:
    """The folders below `root`. Paths are relative to `descriptor`, which is open on it."""

    def __init__(self, root: Path) -> None:
        self._root = str(root.resolve())
        self.descriptor = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._real: dict[str, str] = {}  # where a folder that a name mentions really is
        self._closed: dict[str, int] = {}  # modes that would keep us from writing into them

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        os.close(self.descriptor)

    def place(self, name: str, member: str) -> str:
        """Return the path that `name` stands for, the folders above it made.

        `member` is what names it: itself, or a hard link to it.
        """
        *above, last = _parts(name, member) or [""]
        if not last:
            raise refusal(member, "is the app folder itself, which must be a folder")
        return f"{self._enter(above, member)}/{last}"

    def add(self, name: str, mode: int) -> None:
        """Make the folder, or set its mode where it is there; the app folder's own is ours."""
        if not _parts(name, name):
            return
        path = self.place(name, name)
        try:
            os.mkdir(path, _OWNER, dir_fd=self.descriptor)
        except FileExistsError:
            if not stat.S_ISDIR(self.status(path).st_mode):
                self.clear(path, name)
                os.mkdir(path, _OWNER, dir_fd=self.descriptor)
        mode &= _KEPT_BITS
        os.chmod(path, mode | _OWNER, dir_fd=self.descriptor)
        if mode | _OWNER != mode:
            self._closed[path] = mode
        else:
            self._closed.pop(path, None)

    def clear(self, path: str, name: str) -> None:
        """Remove what is at `path`, in whose place `name` is to come."""
        try:
            os.unlink(path, dir_fd=self.descriptor)
        except IsADirectoryError:
            self._remove_folder(path, name)
        self._real.clear()  # what was there may have been a folder, or a link to one

    def leaves(self, path: str) -> bool:
        """Tell whether the symbolic link at `path` points outside."""
        return self._inside(os.path.realpath(f"{self._root}/{path}")) is None

    def status(self, path: str) -> os.stat_result:
        """Return what is at `path` itself, be it a link."""
        return os.stat(path, dir_fd=self.descriptor, follow_symlinks=False)

    def set_modes(self) -> None:
        """Give the folders that are closed to their owner the modes they are to have."""
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
        # A folder before those above it, which may be closed to us afterwards.
        for path in sorted(self._closed, reverse=True):
            folder = os.open(path, flags, dir_fd=self.descriptor)
            try:
                os.fchmod(folder, self._closed[path])
            finally:
                os.close(folder)

    def _enter(self, above: list[str], member: str) -> str:
        """Return where the folder that a name's first parts stand for really is."""
        wanted = "/".join(above)
        if wanted in self._real:
            return self._real[wanted]
        path = "."
        for part in above:
            path = self._step(f"{path}/{part}", member)
        if len(self._real) >= REMEMBERED:
            self._real.clear()
        self._real[wanted] = path
        return path

    def _step(self, path: str, member: str) -> str:
        if path.count("/") > DEPTH_LIMIT:
            raise refusal(member, f"lies more than {DEPTH_LIMIT} folders deep")
        try:
            mode = self.status(path).st_mode
        except FileNotFoundError:
            os.mkdir(path, _OWNER, dir_fd=self.descriptor)
            os.chmod(path, FOLDER_MODE, dir_fd=self.descriptor)
            return path
        if stat.S_ISDIR(mode):
            return path
        if stat.S_ISLNK(mode):
            return self._behind(path, member)
        raise refusal(member, f"lies below {shown(path)}, which is no folder")

    def _behind(self, link: str, member: str) -> str:
        """Return the folder that a symbolic link leads to."""
        path = self._inside(os.path.realpath(f"{self._root}/{link}"))
        if path is None:
            raise refusal(member, f"leads outside through the link {shown(link)}")
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            if stat.S_ISDIR(self.status(path).st_mode):
                return path
        raise refusal(member, f"lies below the link {shown(link)}, which leads to no folder")

    def _inside(self, path: str) -> str | None:
        """Return an absolute path as we write those that are inside, none for one outside."""
        if path == self._root or path.startswith(f"{self._root}/"):
            return f".{path[len(self._root) :]}"
        return None

    def _remove_folder(self, path: str, name: str) -> None:
        try:
            os.rmdir(path, dir_fd=self.descriptor)
        except OSError as error:
            if error.errno not in {errno.ENOTEMPTY, errno.EEXIST}:
                raise
            raise refusal(name, "would replace a folder that is not empty") from None
        self._closed.pop(path, None)


def _parts(name: str, member: str) -> list[str]:
    """Take a name apart; raises `BadSlugError` for one that is none, absolute, or has `..`."""
    if not name:
        raise refusal(member, "names nothing")
    if name.startswith("/"):
        raise refusal(member, f"names {shown(name)}, an absolute path; pack relative ones")
    found = [part for part in name.split("/") if part not in {"", "."}]
    if ".." in found:
        raise refusal(member, f"names {shown(name)}, with '..' in it; pack paths without")
    return found
