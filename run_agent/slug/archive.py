"""A tar archive read once, from front to back: its members and their content.

Owns the position in the stream and the limits on what a header may cost. What a header says is
parsed by `tarfile` (ustar, GNU, PAX, sparse maps), but nothing is extracted by it, for a `TarFile`
keeps every member in memory and ends quietly at a damaged header. Must not judge members: that is
`extract`.
"""

import io
import tarfile
from collections.abc import Iterator

from run_agent.slug.readahead import Chunk
from run_agent.slug.reason import BadSlugError

HEADER_LIMIT_BYTES = 8 << 20
"""Most that precedes the content of one member: names, PAX records, the map of a sparse file."""

GLOBAL_RECORDS_LIMIT = 16
"""PAX records for all that follows, which stay in memory; `git archive` writes one."""

PADDING_LIMIT_BYTES = 64 << 20
"""Most zeros after the end: tar fills up its last record, of 10 KiB unless somebody asks for
more, and zeros without end are a bomb."""

_CUT = "it is cut: its tar archive ends early; pack and upload it again"
_DAMAGED = "its tar archive is damaged at byte {}; pack and upload it again"


class Archive:
    """The members of a tar stream; the content of each is read before the next is asked for."""

    def __init__(self, chunks: Iterator[Chunk]) -> None:
        self._stream = _Stream(chunks)
        self._headers = _Headers(fileobj=self._stream)
        self._content_end = 0

    def __iter__(self) -> Iterator[tarfile.TarInfo]:
        """Yield the members; raises `BadSlugError` where the archive is not whole and sound."""
        while member := self._next():
            yield member
            self._stream.skip_to(self._content_end)
        self._stream.drain()

    def content(self, size: int) -> Iterator[Chunk]:
        """Yield the next `size` bytes of the current member's content."""
        if self._stream.tell() + size > self._content_end:
            raise BadSlugError(_DAMAGED.format(self._stream.tell()))
        return self._stream.take(size)

    def _next(self) -> tarfile.TarInfo | None:
        """Return the next member, none at the block of zeros that marks the end."""
        start = self._stream.tell()
        if not self._stream.peek().strip(b"\0"):
            return None
        try:
            member = tarfile.TarInfo.fromtarfile(self._headers)
        # What it raises where a field is not the number, the text or the list it should be.
        except (tarfile.HeaderError, ArithmeticError, LookupError, RecursionError, ValueError):
            raise BadSlugError(_DAMAGED.format(start)) from None
        if len(self._headers.pax_headers) > GLOBAL_RECORDS_LIMIT:
            raise BadSlugError(f"it has over {GLOBAL_RECORDS_LIMIT} global PAX records")
        self._content_end = self._headers.offset
        return member


class _Headers(tarfile.TarFile):
    """What `TarInfo.fromtarfile` reads headers from; it must not read any by itself."""

    def next(self) -> None:
        """Do nothing; `TarFile` would read the first header while it is made."""


class _Stream(io.RawIOBase):
    """Chunks as the file that `tarfile` wants, forward only; content is taken without copies."""

    def __init__(self, chunks: Iterator[Chunk]) -> None:
        self._chunks = chunks
        self._chunk = memoryview(b"")
        self._position = 0
        self._header_read = 0

    def tell(self) -> int:
        """Return how much was read."""
        return self._position

    def read(self, size: int = -1) -> bytes:
        """Return the next bytes of a header, fewer at the end."""
        self._header_read += size
        if not 0 <= self._header_read <= HEADER_LIMIT_BYTES:
            raise BadSlugError(f"the header of a member is over {HEADER_LIMIT_BYTES >> 20} MiB")
        if size <= len(self._chunk):
            return bytes(self._cut(size))
        return b"".join(self._pieces(size))

    def peek(self) -> bytes:
        """Return the first block of the next header, without reading it."""
        self._header_read = 0
        while len(self._chunk) < tarfile.BLOCKSIZE:
            more = next(self._chunks, b"")
            if not more:
                raise BadSlugError(_CUT)
            self._chunk = memoryview(b"".join((self._chunk, more)))
        return bytes(self._chunk[: tarfile.BLOCKSIZE])

    def take(self, size: int) -> Iterator[Chunk]:
        """Yield the next `size` bytes; raises `BadSlugError` where the stream ends before."""
        for piece in self._pieces(size):
            size -= len(piece)
            yield piece
        if size:
            raise BadSlugError(_CUT)

    def skip_to(self, position: int) -> None:
        """Read on until `position`."""
        if position < self._position:
            raise BadSlugError(_DAMAGED.format(self._position))
        for _ in self.take(position - self._position):
            pass

    def drain(self) -> None:
        """Read to the end, where there must be nothing but zeros."""
        end = self._position
        while self._chunk or self._refilled():
            piece = self._cut(len(self._chunk))
            if piece.tobytes().strip(b"\0"):
                raise BadSlugError("something follows the end of its tar archive; pack it again")
            if self._position - end > PADDING_LIMIT_BYTES:
                raise BadSlugError(f"over {PADDING_LIMIT_BYTES >> 20} MiB of zeros end it")

    def _pieces(self, size: int) -> Iterator[memoryview]:
        while size and (self._chunk or self._refilled()):
            piece = self._cut(size)
            size -= len(piece)
            yield piece

    def _cut(self, size: int) -> memoryview:
        piece = self._chunk[:size]
        self._chunk = self._chunk[size:]
        self._position += len(piece)
        return piece

    def _refilled(self) -> bool:
        self._chunk = memoryview(next(self._chunks, b""))
        return bool(self._chunk)
