"""What hot upgrades add to a tree: never over what is there, and gone again to the last file."""

import errno
import os
import resource
import stat
import tempfile
from contextlib import contextmanager, suppress
from pathlib import Path
from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from run_agent.errors import RunAgentError
from upgrade.additions import Additions

OLD = {
    "bin/hello": "script 1",
    "bin/hello-0.1.0": "script 1",
    "lib/hello-0.1.0/ebin/hello.beam": "1",
    "lib/kernel-8.5/ebin/kernel.beam": "kernel",
    "releases/0.1.0/hello.rel": "rel 1",
    "releases/COOKIE": "first",
    "releases/RELEASES": "[one].\r\n",
    "releases/start_erl.data": "13.1.5 0.1.0",
}
NEW = {
    "bin/hello": "script 2",
    "bin/hello-0.2.0": "script 2",
    "lib/hello-0.2.0/ebin/hello.beam": "2",
    "lib/hello-0.2.0/priv/deep/text": "2",
    "lib/kernel-8.5/ebin/kernel.beam": "built anew",
    "releases/0.2.0/hello.rel": "rel 2",
    "releases/0.2.0/relup": "relup 2",
    "releases/COOKIE": "second",
    "releases/start_erl.data": "13.1.5 0.2.0",
}
ADDED = {
    "bin/hello-0.2.0", "lib/hello-0.2.0", "lib/hello-0.2.0/ebin",
    "lib/hello-0.2.0/ebin/hello.beam", "lib/hello-0.2.0/priv", "lib/hello-0.2.0/priv/deep",
    "lib/hello-0.2.0/priv/deep/text", "releases/0.2.0", "releases/0.2.0/hello.rel",
    "releases/0.2.0/relup",
}  # fmt: skip


def plant(folder, files):
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content.encode())
    return folder


def whole(folder):
    """Return every path below, with its mode and what it holds."""

    def of(path):
        if path.is_symlink():
            return str(path.readlink())
        return None if path.is_dir() else path.read_bytes()

    return {
        str(path.relative_to(folder)): (stat.S_IMODE(path.lstat().st_mode), of(path))
        for path in folder.rglob("*")
    }


@pytest.fixture
def old(tmp_path):
    return plant(tmp_path / "old", OLD)


@pytest.fixture
def new(tmp_path):
    return plant(tmp_path / "new", NEW)


@pytest.fixture
def additions(tmp_path, old):
    return Additions(old, tmp_path / "old.added.json")


def test_what_the_root_lacks_is_placed_and_nothing_else_touched(tmp_path, old, new, additions):
    before = whole(old)
    additions.place(new, "0.2.0", digest="b")
    after = whole(old)
    assert {name: after[name] for name in before} == before
    assert after.keys() - before.keys() == ADDED
    assert all(after[name] == whole(new)[name] for name in ADDED)
    assert additions.digest_of("0.2.0") == "b"
    assert additions.digest_of("0.1.0") is None
    assert additions.digests() == {"b"}
    assert stat.S_IMODE((tmp_path / "old.added.json").stat().st_mode) == 0o600


def test_libraries_are_links_and_what_scripts_write_into_copies(old, new, additions):
    additions.place(new, "0.2.0", digest="b")
    for name in ADDED:
        if (new / name).is_file():
            assert (old / name).samefile(new / name) is name.startswith("lib/")


@pytest.mark.parametrize("number", [errno.EXDEV, errno.EPERM, errno.EMLINK, errno.EOPNOTSUPP])
def test_where_there_are_no_links_all_is_copied(old, new, additions, number):
    with mock.patch("os.link", side_effect=OSError(number, os.strerror(number))):
        additions.place(new, "0.2.0", digest="b")
    beam = "lib/hello-0.2.0/ebin/hello.beam"
    assert (old / beam).read_text() == "2"
    assert not (old / beam).samefile(new / beam)


def test_links_and_modes_come_along(old, new, additions):
    (new / "lib/hello-0.2.0/link").symlink_to("../nowhere")
    (new / "lib/linked-1.0").symlink_to("kernel-8.5")
    (new / "releases/0.2.0/run").touch(mode=0o755)
    (new / "lib/hello-0.2.0/priv/deep").chmod(0o555)
    additions.place(new, "0.2.0", digest="b")
    for name in ("lib/hello-0.2.0/link", "lib/linked-1.0", "releases/0.2.0/run"):
        assert whole(old)[name] == whole(new)[name]
    assert whole(old)["lib/hello-0.2.0/priv/deep"] == (0o555, None)
    additions.undo("0.2.0")
    assert whole(old).keys() == whole(plant(old, OLD)).keys()


def test_undo_takes_only_what_no_other_version_needs(tmp_path, old, new, additions):
    later = plant(tmp_path / "later", {
        "bin/hello-0.3.0": "3", "releases/0.3.0/hello.rel": "3",
        "lib/hello-0.2.0/ebin/hello.beam": "2", "lib/greeter-1.0/ebin/greeter.beam": "3",
    })  # fmt: skip
    additions.place(new, "0.2.0", digest="b")
    additions.place(later, "0.3.0", digest="c")
    additions.undo("0.2.0")
    additions.undo("0.2.0")
    names = whole(old).keys()
    assert "lib/hello-0.2.0/ebin/hello.beam" in names
    assert "releases/0.2.0" not in names
    assert additions.digest_of("0.2.0") is None
    additions.undo("0.3.0")
    assert whole(old).keys() == whole(plant(tmp_path / "again", OLD)).keys()


def test_what_release_handler_has_removed_already_is_no_trouble(old, new, additions):
    before = whole(old)
    additions.place(new, "0.2.0", digest="b")
    (old / "bin/hello-0.2.0").unlink()
    (old / "lib/hello-0.2.0/ebin/hello.beam").unlink()
    additions.undo("0.2.0")
    assert whole(old) == before


def test_all_is_put_back_as_the_slug_has_it(tmp_path, old, new, additions):
    before, left = whole(old), whole(new)
    additions.place(new, "0.2.0", digest="b")
    (old / "releases/RELEASES").write_text("[two, one].")
    (old / "releases/start_erl.data").write_text("13.1.5 0.2.0")
    (old / "releases/0.2.0/sys.config").write_text("written by a script")
    (old / "releases/sys.config.bak").touch()
    (old / "releases/.partial-0.3.0").mkdir()
    Additions(old, tmp_path / "old.added.json").restore()
    assert whole(old) == before
    assert whole(new) == left
    assert not (tmp_path / "old.added.json").exists()
    additions.restore()
    assert whole(old) == before


def test_what_was_missing_is_missing_again(old, new, additions):
    (old / "releases/RELEASES").unlink()
    (old / "releases/start_erl.data").unlink()
    before = whole(old)
    additions.place(new, "0.2.0", digest="b")
    (old / "releases/RELEASES").write_text("[two].")
    (old / "releases/start_erl.data").write_text("13.1.5 0.2.0")
    additions.put_back_start()
    assert not (old / "releases/start_erl.data").exists()
    additions.restore()
    assert whole(old) == before


def test_a_start_can_be_made_to_boot_another_version(old, additions):
    erts, _ = (old / "releases/start_erl.data").read_text().split()
    additions.start_from("0.3.0")
    assert (old / "releases/start_erl.data").read_text() == f"{erts} 0.3.0"


def test_an_install_that_was_cut_off_is_undone(old, new, additions):
    additions.place(new, "0.2.0", digest="b")
    config = old / "releases" / "0.1.0" / "sys.config"
    config.write_text("[].")
    config.rename(config.with_name("sys.config.original"))
    config.write_text("[{app,[{secret,1}]}].")
    config.with_name("sys.config.new").write_text("[{app,")
    additions.restore()
    assert config.read_text() == "[]."
    assert not list(config.parent.glob("sys.config.*"))


def test_the_boot_version_alone_can_be_put_back(old, new, additions):
    additions.put_back_start()
    additions.place(new, "0.2.0", digest="b")
    (old / "releases/start_erl.data").write_text("13.1.5 0.2.0")
    (old / "releases/RELEASES").write_text("[two, one].")
    additions.put_back_start()
    assert (old / "releases/start_erl.data").read_text() == "13.1.5 0.1.0"
    assert (old / "releases/RELEASES").read_text() == "[two, one]."
    assert additions.digest_of("0.2.0") == "b"


@pytest.mark.parametrize("step", ["put_back_start", "start_from"])
def test_what_a_killed_agent_had_half_written_goes(old, new, additions, step):
    additions.place(new, "0.2.0", digest="b")
    left = old / "releases" / ".start_erl.data.038a824adc80.new"
    left.write_text("13.")
    if step == "start_from":
        additions.start_from("0.2.0")
    else:
        additions.put_back_start()
    assert not left.exists()


def test_a_version_that_is_there_is_refused(tmp_path, old, new, additions):
    additions.place(new, "0.2.0", digest="b")
    before = whole(old)
    for version in ("0.1.0", "0.2.0"):
        with pytest.raises(RunAgentError, match="is there already; raise the version") as caught:
            additions.place(new, version, digest="c")
        assert caught.value.exit_code == os.EX_CANTCREAT
    assert whole(old) == before
    assert additions.digest_of("0.2.0") == "b"


@pytest.mark.parametrize("version", ["", ".", "..", "../../etc", "/etc", "a\0b"])
def test_a_version_that_is_no_name_is_refused(old, new, additions, version):
    before = whole(old)
    with pytest.raises(RunAgentError, match="cannot place version") as caught:
        additions.place(new, version, digest="b")
    assert caught.value.exit_code == os.EX_DATAERR
    assert whole(old) == before


@contextmanager
def files_up_to(size):
    """Have every write beyond `size` bytes into a file fail, as on a full disk."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_a_write_that_fails_leaves_nothing(old, new, additions):
    (new / "releases/0.2.0/large").write_bytes(bytes(1 << 20))
    before = whole(old)
    with files_up_to(1 << 16), pytest.raises(RunAgentError) as caught:
        additions.place(new, "0.2.0", digest="b")
    assert str(caught.value).startswith(f"cannot place the files of 0.2.0 in {old} (")
    assert "File too large" in str(caught.value)
    assert caught.value.exit_code == os.EX_IOERR
    assert whole(old) == before
    assert additions.digest_of("0.2.0") is None


def test_a_full_disk_names_the_path(old, new, additions):
    before = whole(old)

    def full(source, target):
        raise OSError(errno.ENOSPC, "No space left on device", str(source), None, str(target))

    path = r"/old/lib/\.partial-hello-0\.2\.0/.*: No space left on device\); make that writable"
    with mock.patch("os.link", full), pytest.raises(RunAgentError, match=path):
        additions.place(new, "0.2.0", digest="b")
    assert whole(old) == before


def test_a_record_that_cannot_be_written_leaves_the_tree(tmp_path, old, new):
    before = whole(old)
    additions = Additions(old, tmp_path / "nowhere" / "old.added.json")
    with pytest.raises(RunAgentError, match="cannot place the files") as caught:
        additions.place(new, "0.2.0", digest="b")
    assert caught.value.exit_code == os.EX_IOERR
    assert whole(old) == before


@pytest.mark.parametrize("damage", [b"", b"[]", b"{}", b'{"names": 1}', b"\xff"])
def test_a_damaged_record_is_said_with_what_helps(tmp_path, old, new, additions, damage):
    additions.place(new, "0.2.0", digest="b")
    (tmp_path / "old.added.json").write_bytes(damage)
    for act in (
        additions.restore,
        additions.put_back_start,
        lambda: additions.undo("0.2.0"),
        lambda: additions.digest_of("0.2.0"),
        lambda: additions.place(new, "0.3.0", digest="c"),
    ):
        with pytest.raises(RunAgentError, match=r"cannot read .*old\.added\.json .* remove both"):
            act()


class Killed(BaseException):
    """What stands for a kill: nothing can be done after it."""


CALLS = (
    "link",
    "mkdir",
    "rename",
    "replace",
    "unlink",
    "rmdir",
    "symlink",
    "chmod",
    "fsync",
    "open",
)


@contextmanager
def killed_after(count):
    """Let `count` calls that change the disk pass, and none after them."""
    left = iter(range(count))

    def counted(call):
        def change(*args, **options):
            if next(left, None) is None:
                raise Killed
            return call(*args, **options)

        return change

    calls = {name: counted(getattr(os, name)) for name in CALLS}
    with mock.patch.multiple(os, **calls), suppress(Killed):
        yield


NAMES = st.sets(st.sampled_from(["a-1", "b-1", "b-2", "c-1"]))
STEPS = st.lists(
    st.tuples(
        st.sampled_from(["place", "undo", "restore"]),
        st.sampled_from(["0.1.0", "0.2.0", "0.3.0"]),
        st.integers(0, 80),
    ),
    max_size=6,
)


def slug(folder, version, names):
    libraries = {f"lib/{name}/ebin/{name}.beam": f"of {version}" for name in names}
    own = {f"bin/hello-{version}": version, f"releases/{version}/hello.rel": version}
    return plant(folder / version, {"lib/own-1/x": version, **libraries, **own})


@settings(max_examples=60, deadline=None)
@given(NAMES, NAMES, NAMES, STEPS)
def test_whoever_is_killed_where_ever_the_tree_comes_back(first, second, third, steps):
    with tempfile.TemporaryDirectory() as folder:
        slugs = {
            version: slug(Path(folder), version, names)
            for version, names in (("0.1.0", first), ("0.2.0", second), ("0.3.0", third))
        }
        root, record = slugs["0.1.0"], Path(folder, "0.1.0.added.json")
        (root / "releases/start_erl.data").write_text("13.1.5 0.1.0")
        before = {version: whole(path) for version, path in slugs.items()}
        for step, version, count in steps:
            with killed_after(count):
                take(Additions(root, record), step, version, slugs[version])
            now = whole(root)
            assert all(now[name] == before["0.1.0"][name] for name in before["0.1.0"])
            assert complete(now, before)
        Additions(root, record).restore()
        assert {version: whole(path) for version, path in slugs.items()} == before


def take(additions, step, version, tree):
    if step == "restore":
        additions.restore()
    elif step == "undo":
        additions.undo(version)
    else:
        try:
            additions.place(tree, version, digest=version)
        except RunAgentError as error:
            assert error.exit_code == os.EX_CANTCREAT  # noqa: PT017 - a refusal is one end of it


def complete(now, before):
    """Tell whether each library under its own name is a whole one of some slug."""

    def library(files, name):
        return {path: kept for path, kept in files.items() if f"{path}/".startswith(f"{name}/")}

    names = {"/".join(path.split("/")[:2]) for path in now if path.startswith("lib/")}
    return all(
        any(library(now, name) == library(files, name) for files in before.values())
        for name in names
        if "/.partial-" not in name
    )


def test_a_version_whose_removal_was_cut_is_placed_anew(tmp_path, old, new, additions):
    """Nothing of a build that failed may be left for the corrected one of the same version."""
    additions.place(new, "0.2.0", digest="b")
    with killed_after(4):
        additions.undo("0.2.0")
    assert (old / "lib/hello-0.2.0").exists()
    assert not (old / "releases/0.2.0").exists()
    corrected = plant(tmp_path / "corrected", NEW | {"lib/hello-0.2.0/ebin/hello.beam": "right"})
    additions.place(corrected, "0.2.0", digest="c")
    assert (old / "lib/hello-0.2.0/ebin/hello.beam").read_text() == "right"
    assert additions.digest_of("0.2.0") == "c"
