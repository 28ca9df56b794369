"""What GNU tar packs comes out of the worker as GNU tar itself would unpack it."""

import gzip
import os
import shutil
import subprocess

import pytest

from support import tarballs
from support.fetching import Volume, quick_folder
from support.need import need
from support.tarballs import file, folder, hard_link, symlink

need(shutil.which("tar"), "no tar on the PATH")

FORMATS = ["gnu", "oldgnu", "pax", "posix", "ustar", "v7"]
SPARSE = ["0.0", "0.1", "1.0"]


@pytest.fixture(name="volume")
def a_volume():
    with quick_folder() as folder:
        yield Volume(folder)


@pytest.fixture
def tree(tmp_path):
    """Make what may be in a slug."""
    tree = tmp_path / "tree"
    (tree / "bin").mkdir(parents=True)
    (tree / "bin" / "app").write_text("#!/bin/sh\n")
    (tree / "bin" / "app").chmod(0o755)
    (tree / "empty").mkdir()
    (tree / "releases").mkdir(mode=0o775)
    (tree / "releases" / "secret").write_text("s")
    (tree / "releases" / "secret").chmod(0o600)
    (tree / "zero").write_bytes(b"")
    (tree / "block").write_bytes(b"x" * 512)
    (tree / "large").write_bytes(os.urandom(3_000_000))
    (tree / "to-data").symlink_to("/mnt/data")
    (tree / "to-bin").symlink_to("bin/app")
    (tree / "dangling").symlink_to("nowhere/at/all")
    os.link(tree / "bin" / "app", tree / "bin" / "twin")
    os.utime(tree / "bin" / "app", (1_600_000_000, 1_600_000_000))
    (tree / "tmp").mkdir()
    (tree / "tmp").chmod(0o1777)
    return tree


def tar(folder, archive, *options):
    for path in folder.rglob("*"):
        if not path.is_symlink() and path.is_file():
            # what a float can tell exactly: tarfile reads times as such
            quarters = path.stat().st_mtime_ns // 250_000_000
            os.utime(path, ns=(quarters * 250_000_000,) * 2)
    subprocess.run(["tar", *options, "-C", folder, "-czf", archive, "."], check=True)
    return archive


def described(tree):
    """Return all that is to be restored, by name."""
    found, inodes = {}, {}
    for path in sorted(tree.rglob("*")):
        status = path.lstat()
        name = os.fsencode(path.relative_to(tree))
        if path.is_symlink():
            found[name] = ("link", str(path.readlink()))
        elif path.is_dir():
            found[name] = ("folder", oct(status.st_mode))
        else:
            first = inodes.setdefault(status.st_ino, name)
            time = status.st_mtime_ns // 1_000_000
            found[name] = ("file", oct(status.st_mode), time, first, path.read_bytes())
    return found


def unpacked_by_tar(archive, folder):
    folder.mkdir()
    subprocess.run(["tar", "-xpzf", archive, "-C", folder], check=True)
    return folder


@pytest.mark.parametrize("form", FORMATS)
def test_all_that_tar_restores(tree, volume, tmp_path, form):
    archive = tar(tree, tmp_path / "slug.tar.gz", f"--format={form}")
    expected = described(unpacked_by_tar(archive, tmp_path / "expected"))
    assert expected.keys() == described(tree).keys()
    assert described(volume.fetch(archive.as_uri()).path) == expected


@pytest.mark.parametrize("form", ["gnu", "pax"])
@pytest.mark.parametrize("length", [99, 100, 101, 155, 250, 600, 1500])
def test_long_names_and_targets(volume, tmp_path, form, length):
    tree = tmp_path / "tree"
    path = tree
    while len(str(path.relative_to(tree))) < length:
        path = path / "a-rather-long-name-of-a-folder-for-sure"[: max(1, length)]
    path.mkdir(parents=True)
    (path / "file").write_text("x")
    (tree / "link").symlink_to("t" * length)
    os.link(path / "file", tree / "hard")
    archive = tar(tree, tmp_path / "slug.tar.gz", f"--format={form}")
    expected = described(unpacked_by_tar(archive, tmp_path / "expected"))
    assert described(volume.fetch(archive.as_uri()).path) == expected


@pytest.mark.parametrize("form", ["gnu", "pax"])
def test_names_of_any_bytes(volume, tmp_path, form):
    tree = tmp_path / "tree"
    tree.mkdir()
    for name in (
        b"caf\xe9",
        "gr\N{LATIN SMALL LETTER U WITH DIAERESIS}n".encode(),
        b"new\nline",
        b"back\\slash",
        b" ",
        b"-x",
        b"...",
    ):
        (tree / os.fsdecode(name)).write_bytes(name)
    archive = tar(tree, tmp_path / "slug.tar.gz", f"--format={form}")
    expected = described(unpacked_by_tar(archive, tmp_path / "expected"))
    assert described(volume.fetch(archive.as_uri()).path) == expected


@pytest.mark.parametrize(
    "options",
    [
        ["--format=gnu"],
        ["--format=oldgnu"],
        *(["--format=pax", f"--sparse-version={v}"] for v in SPARSE),
    ],
)
@pytest.mark.parametrize("holes", ["start", "end", "middle", "many", "all"])
def test_sparse_files_stay_so(volume, tmp_path, options, holes):
    tree = tmp_path / "tree"
    tree.mkdir()
    size = 4 << 20
    with (tree / "sparse").open("wb") as stream:
        stream.truncate(size)
        places = {
            "start": [size - 5000],
            "end": [0],
            "middle": [0, size - 5000],
            "many": range(0, size - 5000, 64 << 10),
            "all": [],
        }[holes]
        for place in places:
            stream.seek(place)
            stream.write(os.urandom(4000))
    (tree / "after").write_text("what follows")
    archive = tar(tree, tmp_path / "slug.tar.gz", "--sparse", *options)
    unpacked = volume.fetch(archive.as_uri()).path
    expected = unpacked_by_tar(archive, tmp_path / "expected")
    assert described(unpacked) == described(expected)
    blocks = (unpacked / "sparse").stat().st_blocks
    # The file system's own bookkeeping may differ by a block or two.
    assert blocks <= (expected / "sparse").stat().st_blocks + 32
    assert blocks * 512 < size


def test_a_tar_with_a_volume_label_or_incremental_records_is_refused_by_name(
    volume, tree, tmp_path
):
    from run_agent.errors import SlugError

    archive = tar(tree, tmp_path / "slug.tar.gz", "--label=release")
    with pytest.raises(SlugError, match="'release' is of the unknown kind b'V'"):
        volume.fetch(archive.as_uri())


@pytest.mark.parametrize("form", [0, 1, 2], ids=["ustar", "gnu", "pax"])
def test_of_members_with_the_same_name_the_last_one_counts(volume, tmp_path, form):
    path = tmp_path / "slug.tar.gz"
    path.write_bytes(
        tarballs.slug(
            [
                file("a", b"first"), file("a", b"second", mode=0o755),
                file("b", b"file"), symlink("b", "a"),
                symlink("c", "a"), file("c", b"a file now"),
                folder("d"), file("d", b"no folder"),
                file("e", b"no folder yet"), folder("e"), file("e/f"),
                file("g", b"kept"), hard_link("h", "g"), file("h", b"new"),
                file("i", b"i"), hard_link("i", "i"),
                folder("j", mode=0o700), folder("j", mode=0o755),
            ],
            form,
        )
    )  # fmt: skip
    tree = volume.fetch(path.as_uri()).path
    assert (tree / "a").read_bytes() == b"second"
    assert str((tree / "b").readlink()) == "a"
    assert (tree / "c").read_bytes() == b"a file now"
    assert (tree / "d").read_bytes() == b"no folder"
    assert (tree / "e" / "f").exists()
    assert (tree / "g").read_bytes() == b"kept"
    assert (tree / "h").read_bytes() == b"new"
    assert (tree / "i").read_bytes() == b"i"
    assert (tree / "j").stat().st_mode & 0o777 == 0o755


def test_links_that_stay_inside_are_followed(volume, tmp_path):
    path = tmp_path / "slug.tar.gz"
    path.write_bytes(
        tarballs.slug(
            [
                folder("releases/1"), symlink("current", "releases/1"),
                file("current/app", b"through a link"),
                symlink("releases/again", "../current"), file("releases/again/more", b"m"),
                symlink("self", "."), file("self/top", b"t"),
                hard_link("linked", "current/app"),
                symlink("twin", "current"), hard_link("triplet", "twin"),
            ]
        )
    )  # fmt: skip
    tree = volume.fetch(path.as_uri()).path
    assert (tree / "releases" / "1" / "app").read_bytes() == b"through a link"
    assert (tree / "releases" / "1" / "more").exists()
    assert (tree / "top").exists()
    assert (tree / "linked").stat().st_ino == (tree / "current" / "app").stat().st_ino
    assert str((tree / "triplet").readlink()) == "current"


def test_a_link_that_points_outside_is_kept(volume, tmp_path):
    path = tmp_path / "slug.tar.gz"
    path.write_bytes(tarballs.slug([symlink("priv/static", "/mnt/data"), symlink("up", "../../x")]))
    tree = volume.fetch(path.as_uri()).path
    assert str((tree / "priv" / "static").readlink()) == "/mnt/data"
    assert str((tree / "up").readlink()) == "../../x"


def test_the_set_gid_bit_of_a_folder_is_dropped(volume, tmp_path):
    path = tmp_path / "slug.tar.gz"
    path.write_bytes(tarballs.slug([folder("shared", mode=0o2775)]))
    assert (volume.fetch(path.as_uri()).path / "shared").stat().st_mode & 0o7777 == 0o775


@pytest.mark.parametrize("tool", ["gzip", "zstd"])
def test_streams_put_one_after_the_other(volume, tree, tmp_path, tool):
    need(shutil.which(tool), f"no {tool} on the PATH")
    archive = tar(tree, tmp_path / "slug.tar.gz")
    content = gzip.decompress(archive.read_bytes())
    packed = b""
    for start in range(0, len(content), 100_000):
        part = content[start : start + 100_000]
        packed += subprocess.run([tool, "-c"], input=part, capture_output=True, check=True).stdout
    path = tmp_path / "slug"
    path.write_bytes(packed)
    expected = described(unpacked_by_tar(archive, tmp_path / "expected"))
    assert described(volume.fetch(path.as_uri()).path) == expected
