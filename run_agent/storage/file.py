"""Slugs from a file on this machine: `file:///PATH`, as the directory controller has them.

Owns the open file. Must not read what is not a plain file: a pipe or a device may never end.
"""

import os
import stat
from collections.abc import Iterator, Mapping
from urllib.parse import unquote, urlsplit

from run_agent import storage
from run_agent.errors import DeniedError, UnavailableError

_ADVICE = "check the slug's URL, and who may read that file"


class FileDownload:
    """A file that is read once. Its size, time and inode stand in for an ETag."""

    def __init__(self, url: str) -> None:
        self.source = storage.source(url)
        self._file = self._open(_path(url))
        status = os.fstat(self._file)
        if not stat.S_ISREG(status.st_mode):
            self.close()
            raise DeniedError(f"cannot read {self.source}: it is no plain file; {_ADVICE}")
        self.size = status.st_size
        self.etag = f'"{status.st_size}-{status.st_mtime_ns}-{status.st_ino}"'
        self.goog_hash: Mapping[str, str] = {}

    def chunks(self) -> Iterator[bytes]:
        """Yield the content; where that has not the size which it began with, it changed."""
        read = 0
        while chunk := self._read():
            read += len(chunk)
            yield chunk
        if read != self.size:
            raise storage.ChangedError("its size changed while it was read")

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)

    def _open(self, path: str) -> int:
        try:
            # Without O_NONBLOCK, opening a pipe waits for its writer.
            return os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise DeniedError(f"cannot read {self.source} ({reason}); {_ADVICE}") from error

    def _read(self) -> bytes:
        try:
            return os.read(self._file, storage.CHUNK_BYTES)
        except OSError as error:
            raise UnavailableError(
                f"cannot read {self.source} ({error.strerror}); check the disk it is on"
            ) from error


def _path(url: str) -> str:
    parts = urlsplit(url)
    if parts.netloc not in {"", "localhost"}:
        raise DeniedError(
            f"cannot read {storage.source(url)}: it names the machine {parts.hostname!r}; a file "
            "of this one is file:///PATH"
        )
    return unquote(parts.path, errors="surrogateescape")
