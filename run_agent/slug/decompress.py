"""Packed chunks in, unpacked chunks out: gzip, zstd, or a tar as it is, told by the first bytes.

Owns the formats' ends: a stream that is cut, goes on with something else, or has a wrong checksum
is an error. No chunk that comes out is large, whatever went in: a bomb costs no memory.
"""

from collections.abc import Generator, Iterator
from typing import TYPE_CHECKING

from isal import igzip_lib

from run_agent.slug.readahead import Chunk
from run_agent.slug.reason import BadSlugError

if TYPE_CHECKING:
    from zstandard import ZstdDecompressionObj

OUT_BYTES = 1 << 18
"""Most bytes of a chunk that comes out; larger ones are slower, for they leave the CPU's cache."""

HEAD_BYTES = 1 << 17
"""What is gathered before a format's header is read. It must hold the header whole: igzip fails
on one that arrives in pieces (seen with 1.9.1, where it has a name, a comment or a checksum)."""

ZSTD_IN_BYTES = 1 << 9
"""Fed to zstd at once: each 4 bytes may become 128 KiB, so these become 16 MiB at the worst."""

ZSTD_WINDOW_BYTES = 128 << 20
"""Most memory a stream may ask for; `zstd -19` uses 8 MiB, only `--long=28` and above more."""

_GZIP = b"\x1f\x8b"
_ZSTD = b"\x28\xb5\x2f\xfd"
_USTAR = 257, b"ustar"
_CUT = "it is cut: its compressed data ends early; upload it again"


def decompressed(packed: Iterator[Chunk]) -> Generator[Chunk]:
    """Yield what the chunks of `packed` unpack to.

    A tar that is not compressed is what object stores make of one that was stored with
    `Content-Encoding: gzip`. Raises `BadSlugError`.
    """
    source = _Source(packed)
    head = source.head()
    if not head:
        raise BadSlugError("it is empty; upload it again")
    if head.startswith(_GZIP):
        yield from _gunzipped(source)
    elif _is_zstd(head):
        yield from _unzstded(source)
    elif head.startswith(_USTAR[1], _USTAR[0]):
        while chunk := source.chunk():
            yield chunk
    else:
        raise BadSlugError(
            f"it is neither gzip nor zstd (it begins with {_shown(head)}); pack it as .tar.gz "
            "or .tar.zst"
        )


class _Source:
    """The packed chunks, of which some may be looked at before, or put back after, their use."""

    def __init__(self, chunks: Iterator[Chunk]) -> None:
        self._chunks = chunks
        self._kept = b""

    def chunk(self) -> Chunk:
        """Return the next bytes, none at the end."""
        if self._kept:
            chunk, self._kept = self._kept, b""
            return chunk
        return next(self._chunks, b"")

    def head(self) -> bytes:
        """Return the next bytes without using them up: many, where there are as many."""
        parts, size = [], 0
        while size < HEAD_BYTES and (chunk := self.chunk()):
            parts.append(chunk)
            size += len(chunk)
        self._kept = b"".join(parts)
        return self._kept

    def put_back(self, rest: bytes) -> None:
        """Have `rest` come again."""
        self._kept = rest + self._kept


def _gunzipped(source: _Source) -> Iterator[Chunk]:
    """Unpack one gzip member after the other (RFC 1952); zeros may follow, as on a tape."""
    while source.head().startswith(_GZIP):
        member = igzip_lib.IgzipDecompressor(flag=igzip_lib.DECOMP_GZIP)
        while not member.eof:
            packed = source.chunk() if member.needs_input else b""
            if member.needs_input and not packed:
                raise BadSlugError(_CUT)
            try:
                unpacked = member.decompress(packed, OUT_BYTES)
            except igzip_lib.IsalError as error:  # type: ignore[misc] # its stub says instance
                raise BadSlugError(f"its gzip data is corrupt ({error}); upload it again") from None
            if unpacked:
                yield unpacked
        source.put_back(member.unused_data)
    while chunk := source.chunk():
        if bytes(chunk).strip(b"\0"):
            raise BadSlugError("something follows its gzip data; upload it again")


def _unzstded(source: _Source) -> Iterator[Chunk]:
    """Unpack one zstd frame after the other (RFC 8878), those that are to be skipped included."""
    import zstandard  # noqa: PLC0415 - most slugs are gzip

    while _is_zstd(head := source.head()):
        frame = zstandard.ZstdDecompressor(max_window_size=ZSTD_WINDOW_BYTES).decompressobj()
        while not frame.eof:
            packed = memoryview(source.chunk())
            if not packed:
                raise BadSlugError(_CUT)
            for start in range(0, len(packed), ZSTD_IN_BYTES):
                end = start + ZSTD_IN_BYTES
                yield from _pieces(_unzstd(frame, packed[start:end]))
                if frame.eof:
                    source.put_back(frame.unused_data + packed[end:])
                    break
    if head:
        raise BadSlugError("something follows its zstd data; upload it again")


def _unzstd(frame: "ZstdDecompressionObj", packed: memoryview) -> memoryview:
    import zstandard  # noqa: PLC0415 - see above

    try:
        return memoryview(frame.decompress(packed))
    except zstandard.ZstdError as error:
        raise BadSlugError(f"its zstd data is corrupt ({error}); upload it again") from None


def _pieces(unpacked: memoryview) -> Iterator[Chunk]:
    for start in range(0, len(unpacked), OUT_BYTES):
        yield unpacked[start : start + OUT_BYTES]


def _is_zstd(head: bytes) -> bool:
    skippable = head[1:4] == b"\x2a\x4d\x18" and b"\x50" <= head[:1] <= b"\x5f"
    return skippable or head.startswith(_ZSTD)


def _shown(head: bytes) -> str:
    return ascii(head[:16].decode("latin-1"))
