"""Streams in pieces of every size: what goes in comes out, and what is broken is refused."""

import contextlib
import gzip
import random
import struct
import zlib

import pytest
import zstandard

from run_agent.slug import decompress
from run_agent.slug.reason import BadSlugError

SOURCE = random.Random(1)
PLAIN = SOURCE.randbytes(3000) + b"a" * 40_000 + SOURCE.randbytes(3000)
GZIP = gzip.compress(PLAIN)
ZSTD = zstandard.ZstdCompressor(write_checksum=True).compress(PLAIN)
TAR = bytes(257) + b"ustar\0" + PLAIN
STEPS = [1, 2, 3, 17, 1000, 1 << 18]


def decompressed(content, step=1 << 18):
    chunks = (content[i : i + step] for i in range(0, len(content), step))
    return b"".join(decompress.decompressed(chunks))


def gzip_with(flags):
    """Return a gzip stream with optional parts in its header (RFC 1952, 2.3)."""
    parts = {4: b"\x05\0extra", 8: b"a name\0", 16: b"a comment\0"}
    header = b"\x1f\x8b\x08" + bytes([flags]) + b"\0\0\0\0\0\x03"
    header += b"".join(part for flag, part in parts.items() if flags & flag)
    if flags & 2:
        header += struct.pack("<H", zlib.crc32(header) & 0xFFFF)
    return header + GZIP[10:]


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("content", [GZIP, ZSTD], ids=["gzip", "zstd"])
def test_pieces_of_any_size(content, step):
    assert decompressed(content, step) == PLAIN


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("flags", [2, 4, 6, 8, 10, 12, 16, 28, 30])
def test_gzip_headers_in_pieces(flags, step):
    """Fails on most of these with igzip alone."""
    assert decompressed(gzip_with(flags), step) == PLAIN
    assert decompressed(gzip_with(flags) * 2, step) == PLAIN * 2


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("content", [GZIP, ZSTD], ids=["gzip", "zstd"])
def test_one_stream_after_the_other(content, step):
    assert decompressed(content * 3, step) == PLAIN * 3


def test_empty_streams_between():
    empty = gzip.compress(b"")
    assert decompressed(empty * 500 + GZIP + empty) == PLAIN
    nothing = zstandard.ZstdCompressor().compress(b"")
    assert decompressed(nothing + ZSTD + nothing) == PLAIN


def test_zstd_frames_that_are_to_be_skipped():
    skipped = b"\x50\x2a\x4d\x18\x04\0\0\0abcd"
    assert decompressed(skipped + ZSTD + skipped) == PLAIN


def test_a_tar_goes_through_as_it_is():
    assert decompressed(TAR) == TAR


def test_zeros_may_fill_up_gzip():
    assert decompressed(GZIP + bytes(1000)) == PLAIN
    assert decompressed(GZIP + bytes(1 << 20), 999) == PLAIN


@pytest.mark.parametrize("content", [GZIP, ZSTD], ids=["gzip", "zstd"])
def test_cut_anywhere_is_refused(content):
    for end in (
        *range(1, 40),
        *range(40, len(content), 501),
        *range(len(content) - 12, len(content)),
    ):
        with pytest.raises(BadSlugError):
            decompressed(content[:end])


@pytest.mark.parametrize("content", [GZIP, ZSTD], ids=["gzip", "zstd"])
def test_a_changed_byte_never_passes_for_other_content(content):
    for at in range(0, len(content), 37):
        changed = bytearray(content)
        changed[at] ^= 0x10
        with contextlib.suppress(BadSlugError):
            assert decompressed(bytes(changed)) == PLAIN  # a time in the header


@pytest.mark.parametrize("tail", [b"x", GZIP[:1], b"\0" * 10 + b"x", b"\x1f\x8c"])
def test_what_follows_gzip_is_refused(tail):
    with pytest.raises(BadSlugError, match="follows its gzip"):
        decompressed(GZIP + tail)


def test_no_chunk_is_large(monkeypatch):
    bomb = gzip.compress(bytes(64 << 20))
    assert max(map(len, decompress.decompressed(iter([bomb])))) <= decompress.OUT_BYTES
    bomb = zstandard.ZstdCompressor(level=19).compress(bytes(64 << 20))
    assert max(map(len, decompress.decompressed(iter([bomb])))) <= decompress.OUT_BYTES


def test_zstd_that_asks_for_too_much_memory_is_refused():
    wide = zstandard.ZstdCompressionParameters(window_log=30, enable_ldm=True)
    packer = zstandard.ZstdCompressor(compression_params=wide).compressobj()
    packed = packer.compress(PLAIN) + packer.flush()
    with pytest.raises(BadSlugError, match=r"zstd data is corrupt .*memory"):
        decompressed(packed)
