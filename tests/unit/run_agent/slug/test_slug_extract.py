"""Names and links of every kind: whatever an archive holds, nothing outside is touched."""

import contextlib
import stat
import tarfile

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from run_agent.slug import extract
from run_agent.slug.archive import Archive
from run_agent.slug.reason import SHOWN_CHARACTERS, BadSlugError
from run_agent.slug.staging import remove
from support import tarballs
from support.fetching import snapshot

LIMITS = extract.Limits(members=1000, unpacked_bytes=1 << 20)


def unpack(members, folder, limits=LIMITS):
    folder.mkdir()
    chunks = iter([tarballs.tar(members)])
    return extract.unpack(Archive(chunks), folder, limits, tell=lambda _: None)


# Few names and mostly good ones, so that members meet: the first that is refused ends it.
part = st.sampled_from(["a", "b", "c"])
name = st.lists(part, min_size=1, max_size=3).map("/".join)
bad_name = st.lists(st.sampled_from(["a", ".", "..", ""]), min_size=1, max_size=4).map("/".join)
target = st.one_of(name, st.sampled_from(["@", "@/secret", "@/folder", "..", "../outside", "."]))
member = st.one_of(
    st.tuples(st.just("file"), name, st.none()),
    st.tuples(st.just("folder"), name, st.none()),
    st.tuples(st.just("symlink"), name, target),
    st.tuples(st.just("hard_link"), name, target),
    st.tuples(st.just("file"), bad_name, st.none()),
)


@settings(
    max_examples=500, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(member, min_size=1, max_size=12))
def test_nothing_outside_is_touched(tmp_path_factory, members):
    base = tmp_path_factory.mktemp("names")
    outside = base / "outside"
    outside.mkdir(mode=0o750)
    (outside / "secret").write_text("s")
    (outside / "folder").mkdir(mode=0o700)
    before = snapshot(base), outside.stat()
    made = []
    for kind, path, to in members:
        make = getattr(tarballs, kind)
        made.append(make(path) if to is None else make(path, to.replace("@", str(outside))))
    with contextlib.suppress(BadSlugError):
        unpack(made, base / "tree")
    after = outside.stat()
    remove(base / "tree")
    assert snapshot(base) == before[0]
    assert (after.st_mode, after.st_mtime_ns) == (before[1].st_mode, before[1].st_mtime_ns)
    assert (outside / "secret").stat().st_nlink == 1


@pytest.mark.parametrize(
    ("given", "found"),
    [("./a", "a"), ("a//b", "a/b"), ("./a/./b/", "a/b"), (".//a", "a"), ("...", "...")],
)
def test_spellings_of_a_name(tmp_path, given, found):
    unpack([tarballs.folder(given)], tmp_path / "tree")
    assert (tmp_path / "tree" / found).is_dir()


def test_the_app_folder_itself_may_be_listed(tmp_path):
    unpack([tarballs.folder("./", mode=0o700), tarballs.file("a")], tmp_path / "tree")
    assert stat.S_IMODE((tmp_path / "tree").stat().st_mode) != 0o700


def test_a_name_of_any_length_makes_a_short_message(tmp_path):
    with pytest.raises(BadSlugError) as refused:
        unpack([tarballs.file("/" + "\x1b[31m" * 2000)], tmp_path / "tree")
    assert len(str(refused.value)) < 12 * SHOWN_CHARACTERS
    assert str(refused.value).isprintable()


@pytest.mark.parametrize("time", [-1.0, 1e300, float("inf"), float("nan"), 1 << 40])
def test_a_time_that_makes_no_sense_is_let_go(tmp_path, time):
    info, content = tarballs.file("a")
    info.mtime = 0
    info.pax_headers = {"mtime": str(time)}
    unpack([(info, content)], tmp_path / "tree")
    assert (tmp_path / "tree" / "a").read_bytes() == content


def test_times_of_files_are_kept(tmp_path):
    info, content = tarballs.file("a", mtime=1_700_000_000.25)
    unpack([(info, content)], tmp_path / "tree")
    assert (tmp_path / "tree" / "a").stat().st_mtime == 1_700_000_000.25


def test_what_was_unpacked_is_counted(tmp_path):
    members = [tarballs.folder("d"), tarballs.file("d/a", b"12345"), tarballs.hard_link("l", "d/a")]
    count = unpack(members, tmp_path / "tree")
    assert (count.members, count.unpacked_bytes) == (3, 5)


def test_more_folders_than_are_remembered(tmp_path, monkeypatch):
    monkeypatch.setattr("run_agent.slug.folders.REMEMBERED", 3)
    members = [tarballs.file(f"d{i % 7}/e{i % 5}/f{i}") for i in range(50)]
    unpack(members, tmp_path / "tree")
    assert sum(path.is_file() for path in (tmp_path / "tree").rglob("*")) == 50


def test_a_hard_link_keeps_the_file_when_its_first_name_is_replaced(tmp_path):
    members = [tarballs.file("a", b"1"), tarballs.hard_link("b", "a"), tarballs.file("a", b"2")]
    unpack(members, tmp_path / "tree")
    assert (tmp_path / "tree" / "b").read_bytes() == b"1"
    assert (tmp_path / "tree" / "a").read_bytes() == b"2"


def test_contiguous_files_and_old_headers_are_files(tmp_path):
    members = [
        tarballs.member("c", b"x", type=tarfile.CONTTYPE),
        tarballs.member("v7", b"y", type=tarfile.AREGTYPE),
    ]
    unpack(members, tmp_path / "tree")
    assert (tmp_path / "tree" / "c").read_bytes() == b"x"
    assert (tmp_path / "tree" / "v7").read_bytes() == b"y"
