"""The volume: which trees count, which one is booted, and which may go."""

import json
import logging
import stat

import pytest

from run_agent.errors import RunAgentError
from run_agent.model import Deploy, Layout, Slug
from run_agent.slug import record, staging, tree


@pytest.fixture
def layout(tmp_path):
    layout = Layout(tmp_path)
    layout.deploys.mkdir(parents=True)
    return layout


@pytest.fixture
def trees(layout):
    return tree.Trees(layout)


def digest(letter):
    return letter * 64


def make(layout, letter, *, durable=True, boot_id="another", **fields):
    slug = Slug(digest(letter), layout.deploys / digest(letter), "https://s/a.tar.gz", **fields)
    slug.path.mkdir()
    (slug.path / "file").write_text(letter)
    record.write_unpacked(layout.deploys, record.Unpacked(slug, boot_id, durable), fsync=False)
    return slug


def deploy(version="1", **fields):
    return Deploy("https://s/a.tar.gz?Signature=s3cr3t", "app", version=version, **fields)


def test_a_whole_tree_is_found(layout, trees):
    slug = make(layout, "a", etag='"1"', goog_hash="crc32c=x", packed_bytes=1, members=2)
    assert trees.find(slug.digest) == slug
    assert trees.find(digest("b")) is None


def test_a_tree_that_is_not_durable_counts_until_the_kernel_boots_again(layout, trees):
    make(layout, "a", durable=False, boot_id=record.boot_id())
    make(layout, "b", durable=False, boot_id="of the boot before")
    assert trees.find(digest("a"))
    assert trees.find(digest("b")) is None


def test_a_record_without_a_tree_and_a_tree_without_a_record_are_nothing(layout, trees):
    staging.remove(make(layout, "a").path)
    (layout.deploys / digest("b")).mkdir()
    assert trees.find(digest("a")) is None
    assert trees.find(digest("b")) is None


def test_the_record_of_another_tree_is_nothing(layout, trees, caplog):
    make(layout, "a")
    (layout.deploys / digest("b")).mkdir()
    copy = (layout.deploys / f"{digest('a')}.json").read_bytes()
    (layout.deploys / f"{digest('b')}.json").write_bytes(copy)
    assert trees.find(digest("b")) is None
    assert "cannot use the record" in caplog.text


@pytest.mark.parametrize(
    ("source", "etag", "goog_hash", "found"),
    [
        ("https://s/a.tar.gz", '"1"', None, True),
        ("https://s/a.tar.gz", None, "md5=x", True),
        ("https://s/a.tar.gz", '"2"', "md5=x", True),
        ("https://s/a.tar.gz", '"2"', None, False),
        ("https://s/a.tar.gz", None, None, False),
        ("https://s/b.tar.gz", '"1"', "md5=x", False),
    ],
)
def test_a_source_is_known_by_its_etag_or_its_hash(layout, source, etag, goog_hash, found):
    make(layout, "a", etag='"1"', goog_hash="md5=x")
    assert bool(tree.find_source(layout.deploys, source, etag, goog_hash)) is found


def test_no_etag_is_no_match(layout):
    make(layout, "a")
    assert tree.find_source(layout.deploys, "https://s/a.tar.gz", None, None) is None


def test_current_is_switched_at_once(layout, trees):
    assert trees.current() is None
    make(layout, "a")
    make(layout, "b")
    trees.switch(digest("a"))
    assert trees.current() == digest("a")
    trees.switch(digest("b"))
    assert trees.current() == digest("b")
    assert (layout.current / "file").read_text() == "b"
    assert not layout.current.readlink().is_absolute()
    assert {path.name for path in layout.volume.iterdir()} == {"deploys", "current"}


def test_a_switch_to_nothing_changes_nothing(layout, trees):
    make(layout, "a")
    trees.switch(digest("a"))
    with pytest.raises(RunAgentError, match=r"cannot switch to b{64}: its tree is gone"):
        trees.switch(digest("b"))
    assert trees.current() == digest("a")


def test_a_folder_in_place_of_the_link_is_left_alone(layout, trees):
    make(layout, "a")
    layout.current.mkdir()
    with pytest.raises(RunAgentError, match=r"cannot point .* must be a link"):
        trees.switch(digest("a"))
    assert layout.current.is_dir()
    assert trees.current() is None


def test_a_link_to_elsewhere_is_no_deploy(layout, trees):
    layout.current.symlink_to("/srv/app")
    assert trees.current() is None


def test_the_last_good_deploy_comes_back_whole(layout, trees):
    slug = make(layout, "a")
    make(layout, "b")
    good = deploy("1", config={"A": "s3cr3t\n\0\N{SNOWMAN}\udcff"}, cloud="gcp", sha="abc")
    trees.mark_good(digest("b"), deploy("0"), at=1.0)
    trees.mark_good(digest("a"), good, at=2.5)
    assert trees.last_good() == (good, slug)
    path = layout.deploys / f"{digest('a')}.good.json"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_good_but_gone_or_not_to_be_trusted_is_passed_over(layout, trees):
    assert trees.last_good() is None
    oldest = make(layout, "a")
    for at, letter in enumerate("abc"):
        if letter != "a":
            make(layout, letter, durable=letter != "b")
        trees.mark_good(digest(letter), deploy(letter), at=at)
    staging.remove(layout.deploys / digest("c"))
    assert trees.last_good() == (deploy("a"), oldest)


@pytest.mark.parametrize(
    "damage",
    [b"", b"nonsense", b"[]", b"{}", b'{"deploy": {"slug_url": 1}, "good_at": 1.0}', b"\xff"],
)
def test_a_damaged_record_is_said_and_passed_over(layout, trees, caplog, damage):
    slug = make(layout, "a")
    make(layout, "b")
    trees.mark_good(digest("a"), deploy("1"), at=1)
    trees.mark_good(digest("b"), deploy("2", config={"A": "s3cr3t"}), at=2)
    (layout.deploys / f"{digest('b')}.good.json").write_bytes(damage)
    with caplog.at_level(logging.WARNING):
        assert trees.last_good() == (deploy("1"), slug)
    assert f"{digest('b')}.good.json" in caplog.text
    assert "s3cr3t" not in caplog.text


def test_what_nothing_needs_is_removed(layout, trees):
    for at, letter in enumerate("abcdef"):
        make(layout, letter)
        if letter in "abcd":
            trees.mark_good(digest(letter), deploy(letter), at=at)
    trees.switch(digest("e"))
    (layout.deploys / f"{staging.FETCHING}1" / "lib").mkdir(parents=True)
    (layout.deploys / f"{staging.REMOVED}1").mkdir()
    (layout.deploys / "lost+found").mkdir()
    assert trees.prune({digest("a")}) == [digest("b"), digest("f")]
    left = {path.name for path in layout.deploys.iterdir()}
    kept = {name for letter in "acde" for name in (digest(letter), f"{digest(letter)}.json")}
    good = {f"{digest(letter)}.good.json" for letter in "acd"}
    assert left == kept | good | {".lock", "lost+found"}


def test_trees_and_records_without_each_other_go(layout, trees):
    staging.remove(make(layout, "a").path)
    (layout.deploys / digest("b")).mkdir()
    (layout.deploys / f"{digest('c')}.good.json").write_text("{}")
    assert trees.prune(set()) == [digest("a"), digest("b"), digest("c")]
    assert [path.name for path in layout.deploys.iterdir()] == [".lock"]


def test_what_hot_upgrades_noted_of_a_tree_goes_with_it(layout, trees):
    for letter in "ab":
        record.added_path(layout.deploys, make(layout, letter).digest).write_text("{}")
    assert trees.prune({digest("a")}) == [digest("b")]
    names = {path.name for path in layout.deploys.iterdir()}
    assert {name for name in names if "added" in name} == {f"{digest('a')}.added.json"}


def test_what_failed_outlives_its_tree(layout, trees):
    """It is no sign of a tree either."""
    slug = make(layout, "a")
    for letter in "ab":
        (layout.deploys / f"{digest(letter)}.failed.json").write_text("{}")
    assert trees.prune(set()) == [slug.digest]
    names = {path.name for path in layout.deploys.iterdir()}
    assert names == {f"{digest('a')}.failed.json", f"{digest('b')}.failed.json", ".lock"}


def test_nothing_is_removed_while_somebody_fetches(layout, trees):
    make(layout, "a")
    with staging.locked(layout.deploys):
        assert trees.prune(set()) == []
    assert trees.find(digest("a"))


def test_trouble_while_tidying_is_said_and_not_raised(layout, trees, caplog, monkeypatch):
    make(layout, "a")

    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(staging, "discard", refuse)
    assert trees.prune(set()) == []
    assert "cannot tidy" in caplog.text


def test_a_volume_without_deploys_is_no_trouble(tmp_path):
    trees = tree.Trees(Layout(tmp_path / "fresh"))
    assert trees.current() is None
    assert trees.last_good() is None
    assert trees.find(digest("a")) is None
    assert trees.prune(set()) == []


def test_the_record_says_all_that_there_is_to_a_deploy():
    """A field that is added to `Deploy` must not be lost on the volume."""
    import dataclasses

    whole = Deploy(
        **{
            field.name: {"A": "b"} if field.name == "config" else field.name
            for field in dataclasses.fields(Deploy)
        }
    )
    assert record.deploy_from_json(json.loads(json.dumps(record.deploy_to_json(whole)))) == whole
