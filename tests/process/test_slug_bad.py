"""Slugs that are corrupt, too large or malicious: refused by name, and nothing is touched."""

import asyncio
import contextlib
import gzip
import hashlib
import os
import re
import tarfile
from pathlib import Path

import pytest

from run_agent.errors import RunAgentError, SlugError
from run_agent.slug.fetch import start
from support import tarballs
from support.fetching import Volume, quick_folder, snapshot
from support.http_server import HttpServer
from support.need import need
from support.tarballs import file, folder, hard_link, member, slug, symlink, tar

PATH = "/bad.tar.gz"
GOOD = slug([file("bin/app", b"#!/bin/sh\n", mode=0o755)])
RELEASE = tarballs.release(1 << 20)


@pytest.fixture(name="server")
def a_server():
    with HttpServer() as server:
        server.put("/good.tar.gz", GOOD, etag='"good"')
        yield server


@pytest.fixture(name="volume")
def a_volume(server):
    """Yield a volume with a good slug in use, beside files that are nobody's business."""
    with quick_folder() as folder:
        volume = Volume(folder / "root")
        volume.trees.switch(volume.fetch(server.url("/good.tar.gz")).digest)
        outside = folder / "outside"
        outside.mkdir()
        (outside / "secret").write_text("of somebody else")
        (outside / "folder").mkdir(mode=0o700)
        yield volume


def refuse(volume, server, content, match, error=SlugError, **limits):
    """Fetch `content` in vain and see that nothing else happened."""
    server.put(PATH, content)
    volume.reports.clear()
    before = snapshot(volume.root.parent)
    with pytest.raises(error, match=match) as raised:
        volume.fetch(server.url(f"{PATH}?Signature=s3cr3t"), **limits)
    assert snapshot(volume.root.parent) == before
    assert volume.trees.current() == hashlib.sha256(GOOD).hexdigest()
    assert not volume.left()
    assert "s3cr3t" not in str(raised.value)
    return raised.value


def raw(info, content=b"", end=bytes(1024)):
    """Pack one header as tarfile would not."""
    return gzip.compress(info.tobuf(tarfile.GNU_FORMAT) + content + end)


def corrupted(content, at):
    return content[:at] + bytes([content[at] ^ 0xFF]) + content[at + 1 :]


ZST = b"\x28\xb5\x2f\xfd"

CORRUPT = {
    "empty": (b"", "it is empty"),
    "text": (b"<html>not found</html>", "neither gzip nor zstd .*<html>not found"),
    "one byte": (b"\x1f", "neither gzip nor zstd"),
    "gzip magic only": (b"\x1f\x8b", "cut"),
    "gzip of nothing": (gzip.compress(b""), "cut: its tar"),
    "gzip of text": (gzip.compress(b"hello " * 500), "damaged at byte 0"),
    "no members": (gzip.compress(bytes(10240)), "nothing in its archive"),
    "cut in half": (RELEASE[: len(RELEASE) // 2], "its compressed data ends early"),
    "cut in the checksum": (RELEASE[:-5], "its compressed data ends early"),
    "cut by one byte": (RELEASE[:-1], "its compressed data ends early"),
    "checksum": (corrupted(RELEASE, -6), "gzip data is corrupt"),
    "length": (corrupted(RELEASE, -1), "gzip data is corrupt"),
    "damaged": (corrupted(RELEASE, len(RELEASE) // 2), "corrupt|damaged"),
    "garbage after gzip": (RELEASE + b"garbage", "something follows its gzip"),
    "garbage after tar": (gzip.compress(tar([file("a")]) + b"x"), "follows the end of its tar"),
    "tar without an end": (gzip.compress(tar([file("a")])[:1024]), "cut: its tar"),
    "tar cut in a file": (gzip.compress(tar([file("a", b"x" * 5000)])[:3000]), "cut: its tar"),
    "tar cut in a header": (gzip.compress(tar([file("a"), file("b")])[:1200]), "cut: its tar"),
    "bad second header": (
        gzip.compress(corrupted(tar([file("a"), file("b")]), 1024 + 20)),
        "damaged at byte 1024",
    ),
    "zstd magic only": (ZST, "cut"),
    "zstd garbage": (ZST + b"garbage" * 100, "zstd data is corrupt"),
}


@pytest.mark.parametrize("kind", CORRUPT)
def test_a_corrupt_slug_is_refused(server, volume, kind):
    content, reason = CORRUPT[kind]
    error = refuse(volume, server, content, f"^cannot use slug v41 from .*{PATH}: .*({reason})")
    assert error.exit_code == os.EX_DATAERR
    assert len(server.asked(PATH)) == 1


def zstd(content, **options):
    import zstandard

    return zstandard.ZstdCompressor(**options).compress(content)


def test_corrupt_zstd_is_refused(server, volume):
    packed = zstd(tar([file("a", os.urandom(100_000))]), write_checksum=True)
    refuse(volume, server, packed[:-2], "its compressed data ends early")
    refuse(volume, server, corrupted(packed, 5000), "zstd data is corrupt")
    refuse(volume, server, packed + b"garbage", "something follows its zstd")


OUT = "../../../../../outside"


MALICIOUS = {
    "absolute name": ([file("/etc/passwd")], "/etc/passwd"),
    "absolute folder": ([folder("/outside")], "/outside"),
    "absolute symlink name": ([symlink("/outside", "x")], "/outside"),
    "parent name": ([file("../evil")], r"\.\./evil"),
    "parent in the middle": ([file("a/../../evil")], r"a/\.\./\.\./evil"),
    "parent at the end": ([folder("a/..")], r"a/\.\."),
    "parent after ./": ([file("./../evil")], r"\./\.\./evil"),
    "parent folder alone": ([folder("..")], r"\.\."),
    "through an absolute symlink": ([symlink("out", "@"), file("out/evil")], "out/evil"),
    "through a relative symlink": ([symlink("out", OUT), file("out/evil")], "out/evil"),
    "through a chain of symlinks": (
        [symlink("a", OUT), symlink("b", "a"), file("b/evil")],
        "b/evil",
    ),
    "through a symlink to .": (
        [symlink("here", "."), symlink("here/out", OUT), file("here/out/evil")],
        "here/out/evil",
    ),
    "through a symlink to ..": (
        [folder("a"), symlink("a/up", "../.."), file("a/up/evil")],
        "a/up/evil",
    ),
    "a folder below a symlink": ([symlink("out", "@"), folder("out/folder")], "out/folder"),
    "a symlink below a symlink": ([symlink("out", "@"), symlink("out/l", "x")], "out/l"),
    "through a loop of symlinks": (
        [symlink("a", "b"), symlink("b", "a"), file("a/evil")],
        "a/evil",
    ),
    "through a dangling symlink": ([symlink("a", "nowhere"), file("a/evil")], "a/evil"),
    "through a link below a file": (
        [file("a"), symlink("c", "a/a"), file("c/evil")],
        "c/evil",
    ),
    "below a file": ([file("a"), file("a/evil")], "a/evil"),
    "absolute hard link": ([hard_link("evil", "@/secret")], "evil' names '@/secret"),
    "hard link to a parent": ([hard_link("evil", f"{OUT}/secret")], "evil' .*outside/secret"),
    "hard link through a symlink": (
        [symlink("out", "@"), hard_link("evil", "out/secret")],
        "evil' .*out",
    ),
    "hard link to a symlink to outside": (
        [symlink("out", "@/secret"), hard_link("evil", "out")],
        "evil",
    ),
    "hard link then write": (
        [symlink("out", "@/secret"), hard_link("evil", "out"), file("evil", b"overwritten")],
        "evil",
    ),
    "hard link to nothing": ([hard_link("evil", "nothing")], "evil"),
    "hard link to a folder": ([folder("d"), hard_link("evil", "d")], "evil"),
    "hard link without a target": ([hard_link("evil", "")], "evil"),
    "character device": ([member("evil", type=tarfile.CHRTYPE, devmajor=1, devminor=3)], "evil"),
    "block device": ([member("evil", type=tarfile.BLKTYPE, devmajor=8)], "evil"),
    "named pipe": ([member("evil", type=tarfile.FIFOTYPE)], "evil"),
    "unknown kind": ([member("evil", type=b"Z")], "evil"),
    "set-uid": ([file("evil", mode=0o4755)], "evil"),
    "set-gid": ([file("evil", mode=0o2755)], "evil"),
    "set-uid hard link": (
        [file("a"), member("evil", type=tarfile.LNKTYPE, linkname="a", mode=0o6755)],
        "evil",
    ),
    "a file that is the app folder": ([file("./")], r"\./"),
    "a symlink that is the app folder": ([symlink(".", "@")], r"\."),
    "over a full folder": ([file("d/x"), symlink("d", "@")], "d"),
    "symlink to nothing": ([symlink("evil", "")], "evil"),
    "long name": ([file("a" * 300)], "a{200}"),
    "long path": ([file("/".join(["a" * 200] * 30))], "a{200}"),
    "deep path": ([file("/".join(["a"] * 1000))], "a/a/a"),
    "deep by links": (
        [
            file("/".join(["a"] * 150) + "/x"),
            symlink("l", "/".join(["a"] * 150)),
            file("l/" + "/".join(["b"] * 150)),
        ],
        "l/b",
    ),
    "long target": ([symlink("evil", "a" * 5000)], "evil"),
    "a folder over a file, then below a link": (
        [file("d"), symlink("d", "@"), file("d/evil")],
        "d/evil",
    ),
}


@pytest.mark.parametrize("kind", MALICIOUS)
def test_a_malicious_member_is_refused_by_name(server, volume, kind):
    members, name = MALICIOUS[kind]
    outside = str(volume.root.parent / "outside")
    for info, _ in members:
        info.linkname = info.linkname.replace("@", outside)
    refuse(
        volume,
        server,
        slug([file("bin/before"), *members, file("after")]),
        f"^cannot use slug v41 from .*: its member '.*{name.replace('@', outside)}",
    )


def test_nothing_is_removed_outside(server, volume):
    """What is replaced is the link itself, never what it points to."""
    secret = volume.root.parent / "outside"
    members = [
        symlink("f", str(secret / "secret")), file("f", b"a new file"),
        symlink("d", str(secret / "folder")), folder("d", mode=0o777),
        symlink("l", str(secret / "secret")), symlink("l", "elsewhere"),
        folder("closed", mode=0o500), symlink("closed", str(secret / "folder")),
    ]  # fmt: skip
    server.put(PATH, slug(members))
    before = snapshot(secret)
    tree = volume.fetch(server.url(PATH)).path
    assert snapshot(secret) == before
    assert (tree / "f").read_bytes() == b"a new file"
    assert (tree / "d").is_dir()
    assert str((tree / "l").readlink()) == "elsewhere"
    assert (tree / "closed").readlink() == secret / "folder"


def test_nothing_outside_is_removed_with_a_tree(server, volume):
    secret = volume.root.parent / "outside"
    server.put(PATH, slug([symlink("out", str(secret)), folder("closed", mode=0o100)]))
    digest = volume.fetch(server.url(PATH)).digest
    before = snapshot(secret)
    assert volume.trees.prune(set()) == [digest]
    assert snapshot(secret) == before
    assert not volume.left()


HOSTILE_HEADERS = {
    "negative size": lambda: raw(member("evil", size=-512)[0]),
    "huge size": lambda: raw(member("evil", size=1 << 62)[0]),
    "huge pax header": lambda: raw(member("x", type=tarfile.XHDTYPE, size=1 << 40)[0]),
    "huge long name": lambda: raw(
        member("././@LongLink", type=tarfile.GNUTYPE_LONGNAME, size=1 << 40)[0]
    ),
    "endless long names": lambda: gzip.compress(
        member("././@LongLink", b"x", type=tarfile.GNUTYPE_LONGNAME)[0]
        .tobuf(tarfile.GNU_FORMAT)
        .ljust(1024, b"x")
        * 20_000
    ),
    "endless global headers": lambda: slug_of_globals(2000, same_name=True),
    "many global records": lambda: slug_of_globals(100, same_name=False),
    "pax size that is no number": lambda: slug(
        [file("evil", pax_headers={"GNU.sparse.major": "1", "GNU.sparse.minor": "0"})]
    ),
    "pax sparse map of nonsense": lambda: slug(
        [file("evil", pax_headers={"GNU.sparse.map": "a,b"})]
    ),
    "sparse map beyond the file": lambda: slug(
        [
            file(
                "evil",
                b"x" * 512,
                pax_headers={"GNU.sparse.map": "1000,512", "GNU.sparse.size": "600"},
            )
        ]
    ),
    "sparse map backwards": lambda: slug(
        [
            file(
                "evil",
                b"x" * 20,
                pax_headers={"GNU.sparse.map": "10,5,0,5", "GNU.sparse.size": "20"},
            )
        ]
    ),
    "sparse map of more than there is": lambda: slug(
        [
            file(
                "evil",
                b"x" * 10,
                pax_headers={"GNU.sparse.map": "0,9999", "GNU.sparse.size": "9999"},
            )
        ]
    ),
    "NUL in a name": lambda: slug([file("x", pax_headers={"path": "evil\0name"})]),
    "NUL in a target": lambda: slug([symlink("x", "y")[0:1] and pax_link("evil\0target")]),
}


def pax_link(target):
    info, content = symlink("x", "y")
    info.pax_headers = {"linkpath": target}
    return info, content


def slug_of_globals(count, *, same_name):
    blocks = b""
    for i in range(count):
        name = "comment" if same_name else f"comment{i}"
        blocks += tarfile.TarInfo.create_pax_global_header({name: "x"})
        blocks += b"" if same_name else tar([file(f"f{i}")])[:1024]
    return gzip.compress(blocks + bytes(1024))


@pytest.mark.parametrize("kind", HOSTILE_HEADERS)
def test_a_hostile_header_is_refused(server, volume, kind):
    refuse(volume, server, HOSTILE_HEADERS[kind](), "^cannot use slug v41 from")


def test_more_members_than_allowed(server, volume):
    members = [file(f"f{i}") for i in range(101)]
    refuse(volume, server, slug(members), "over 100 members; .* SLUG_MAX_MEMBERS", max_members=100)
    server.put(PATH, slug(members[:100]))
    assert volume.fetch(server.url(PATH), max_members=100).members == 100


def test_more_bytes_than_allowed(server, volume):
    members = [file("a", bytes(600)), file("b", bytes(401))]
    refuse(volume, server, slug(members), "over 1000 bytes .*'b'.* SLUG_MAX_BYTES", max_bytes=1000)


def test_holes_count_as_bytes(server, volume):
    sparse = {"GNU.sparse.map": "0,512", "GNU.sparse.size": str(1 << 40)}
    content = slug([file("holes", b"x" * 512, pax_headers=sparse)])
    refuse(volume, server, content, "'holes'.* SLUG_MAX_BYTES")


def bomb(size):
    """Pack that many zeros into a thousandth of them, without holding them."""
    import zlib

    head = member("bomb")[0]
    head.size = size
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    zeros = bytes(1 << 20)
    parts = [packer.compress(head.tobuf(tarfile.GNU_FORMAT))]
    parts += [packer.compress(zeros) for _ in range(size >> 20)]
    return b"".join([*parts, packer.compress(bytes(1024)), packer.flush()])


def test_a_bomb_stops_at_the_limit_before_anything_of_it_is_written(server, volume):
    refuse(volume, server, bomb(1 << 30), "'bomb'.* SLUG_MAX_BYTES", max_bytes=1 << 29)
    assert not volume.reports


def test_zeros_without_end_after_the_archive_are_a_bomb(server, volume):
    import zlib

    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    content = packer.compress(tar([file("a")]))
    content += b"".join(packer.compress(bytes(1 << 20)) for _ in range(128)) + packer.flush()
    refuse(volume, server, content, "64 MiB of zeros")


@pytest.mark.parametrize("packed", ["gzip", "zstd"])
def test_what_unpacks_to_a_lot_costs_no_memory(server, volume, packed):
    zeros = tar([file("zeros", bytes(256 << 20))])
    server.put(PATH, gzip.compress(zeros, 9) if packed == "gzip" else zstd(zeros, level=19))
    peaks = []

    async def fetch():
        async with start(volume.environ) as fetcher:
            status = Path(f"/proc/{fetcher._worker.pid}/status")

            def look(_):
                with contextlib.suppress(OSError):  # it has ended, and been reaped
                    if found := re.search(r"VmHWM:\s*(\d+) kB", status.read_text()):
                        peaks.append(int(found[1]))  # none once it has ended

            await fetcher.fetch(volume.request(server.url(PATH)), look, 60)
            await fetcher.finished()

    asyncio.run(fetch())
    # 40 MiB are Python and its libraries; zstd is fed what may become 16 MiB at once.
    assert peaks
    assert max(peaks) < 128 << 10


def test_a_disk_that_is_full(server, volume, disk):
    small = Volume(disk)
    server.put(PATH, tarballs.release(4 << 20))
    with pytest.raises(
        RunAgentError, match=r"^cannot unpack slug v41 into .*disk is full.*free"
    ) as e:
        small.fetch(server.url(PATH))
    assert e.value.exit_code == os.EX_IOERR
    assert str(small.deploys) in str(e.value)
    assert not small.left()
    server.put(PATH, GOOD)
    small.fetch(server.url(PATH))


@pytest.fixture
def disk(tmp_path):
    """Mount a file system of 2 MiB."""
    import subprocess

    need(os.geteuid() == 0, "a small file system can be mounted by root only")
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", folder]
    done = subprocess.run(mount, capture_output=True, check=False)
    need(done.returncode == 0, f"no tmpfs can be mounted here: {done.stderr.decode()}")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_a_disk_that_is_full_in_the_end(server, disk):
    """The tree just fits, but its record does not."""
    small = Volume(disk)
    server.put(PATH, slug([file("a", os.urandom(900 << 10))]))

    def trouble(ballast):
        (disk / "ballast").write_bytes(bytes(ballast))
        try:
            small.fetch(server.url(PATH))
        except RunAgentError as error:
            return error
        return small.trees.prune(set()) and None

    errors = map(trouble, range(1100 << 10, 1200 << 10, 4 << 10))
    error = next(error for error in errors if error)
    assert error.exit_code == os.EX_IOERR
    assert [path.name for path in small.deploys.iterdir()] == [".lock"]


def test_a_volume_that_is_no_folder(server, tmp_path):
    (tmp_path / "var").write_text("in the way")
    with pytest.raises(RunAgentError, match=r"^cannot unpack slug v41 into .*check the volume"):
        Volume(tmp_path).fetch(server.url("/good.tar.gz"))
