"""Headers in pieces of every size, and headers that are no good."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from run_agent.slug.archive import HEADER_LIMIT_BYTES, Archive
from run_agent.slug.reason import BadSlugError
from support import tarballs

MEMBERS = [
    tarballs.folder("d"),
    tarballs.file("d/a", b"x" * 1300),
    tarballs.file("n" * 200, b"long name"),
    tarballs.symlink("s", "t" * 150),
    tarballs.file("empty", b""),
    tarballs.file("last", b"y" * 512),
]
CONTENT = tarballs.tar(MEMBERS)


def read(chunks):
    archive = Archive(iter(chunks))
    return [
        (member.name, b"".join(archive.content(member.size if member.isreg() else 0)))
        for member in archive
    ]


EXPECTED = [(info.name, content) for info, content in MEMBERS]


@pytest.mark.parametrize("step", [1, 7, 511, 512, 513, 4096, 1 << 20])
def test_pieces_of_any_size(step):
    assert read(CONTENT[i : i + step] for i in range(0, len(CONTENT), step)) == EXPECTED


@pytest.mark.parametrize("form", [1, 2], ids=["gnu", "pax"])
def test_content_that_is_not_read_is_skipped(form):
    assert [m.name for m in Archive(iter([tarballs.tar(MEMBERS, form)]))] == [
        info.name for info, _ in MEMBERS
    ]


@pytest.mark.parametrize("end", range(0, len(CONTENT.rstrip(b"\0")) + 1, 100))
def test_cut_anywhere_is_noticed(end):
    with pytest.raises(BadSlugError, match=r"cut|damaged"):
        read([CONTENT[:end]])


def test_the_end_may_be_filled_up_or_one_block_only():
    bare = CONTENT.rstrip(b"\0")
    bare += bytes(-len(bare) % 512)
    assert read([bare, bytes(512)]) == EXPECTED
    assert read([bare, bytes(1 << 20)]) == EXPECTED


@settings(deadline=None)
@given(st.binary(min_size=512, max_size=2048))
def test_garbage_is_refused(content):
    if content[:512].strip(b"\0"):
        with pytest.raises(BadSlugError):
            read([content])


@settings(deadline=None, max_examples=300)
@given(st.integers(0, len(CONTENT) - 1), st.integers(1, 255))
def test_a_changed_byte_is_refused_or_harmless(at, change):
    """Nothing else comes out than a member or a `BadSlugError`."""
    changed = bytearray(CONTENT)
    changed[at] ^= change
    try:
        found = read([bytes(changed)])
    except BadSlugError:
        return
    assert len(found) <= len(MEMBERS)


def test_a_header_costs_no_more_than_its_limit():
    info, _ = tarballs.file("a", b"")
    info.pax_headers = {"comment": "x" * (HEADER_LIMIT_BYTES + 1)}
    with pytest.raises(BadSlugError, match="over 8 MiB"):
        read([tarballs.tar([(info, b"")])])
