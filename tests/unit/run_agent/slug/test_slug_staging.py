"""Making and removing trees."""

import os
from pathlib import Path

import pytest

from run_agent.files import atomic_write
from run_agent.slug import staging


def test_a_folder_is_removed_in_the_end(tmp_path):
    with staging.folder(tmp_path) as folder:
        (folder / "a" / "b").mkdir(parents=True)
    assert not list(tmp_path.iterdir())


def test_a_signal_while_it_is_removed_does_not_keep_it(tmp_path, monkeypatch):
    interruptions = [KeyboardInterrupt]
    chmod = Path.chmod

    def interrupted(path, mode):
        if path.name == "b" and interruptions:
            raise interruptions.pop()
        chmod(path, mode)

    def leave(folder):
        (folder / "a" / "b").mkdir(parents=True)
        monkeypatch.setattr(Path, "chmod", interrupted)

    with pytest.raises(KeyboardInterrupt), staging.folder(tmp_path) as folder:
        leave(folder)
    assert not interruptions
    assert not list(tmp_path.iterdir())


def test_an_adopted_folder_stays_under_its_name(tmp_path):
    with staging.folder(tmp_path) as folder:
        (folder / "a").write_text("new")
        staging.adopt(folder, tmp_path / "tree")
    assert [path.name for path in tmp_path.iterdir()] == ["tree"]
    assert (tmp_path / "tree" / "a").read_text() == "new"


def test_a_tree_that_is_there_makes_way(tmp_path):
    (tmp_path / "tree" / "old").mkdir(parents=True)
    with staging.folder(tmp_path) as folder:
        staging.adopt(folder, tmp_path / "tree")
    assert [path.name for path in tmp_path.rglob("*")] == ["tree"]


def test_links_are_removed_and_not_what_they_point_to(tmp_path):
    outside = tmp_path / "outside"
    (outside / "folder").mkdir(parents=True, mode=0o500)
    (outside / "file").write_text("x")
    doomed = tmp_path / "doomed"
    (doomed / "d").mkdir(parents=True)
    (doomed / "d" / "folder").symlink_to(outside / "folder")
    (doomed / "file").symlink_to(outside / "file")
    (doomed / "twin").hardlink_to(outside / "file")
    staging.remove(doomed)
    assert not doomed.exists()
    assert sorted(path.name for path in outside.iterdir()) == ["file", "folder"]
    assert (outside / "folder").stat().st_mode & 0o777 == 0o500


def test_no_depth_is_too_great(tmp_path):
    doomed = tmp_path / "doomed"
    doomed.mkdir()
    at = os.open(doomed, os.O_RDONLY)
    for _ in range(3000):
        os.mkdir("deep", dir_fd=at)
        below = os.open("deep", os.O_RDONLY, dir_fd=at)
        os.close(at)
        at = below
    os.close(at)
    staging.remove(doomed)
    assert not doomed.exists()


def test_what_is_not_there_needs_no_removal(tmp_path):
    staging.remove(tmp_path / "nothing")
    staging.discard(tmp_path / "nothing")
    assert not list(tmp_path.iterdir())


def test_only_temporary_names_are_swept(tmp_path):
    for name in (".fetching-1", ".removed-1", "tree", ".other"):
        (tmp_path / name / "inner").mkdir(parents=True)
    (tmp_path / ".record.json.abc.new").write_text("x")
    os.utime(tmp_path / ".record.json.abc.new", (0, 0))
    staging.sweep(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".other", "tree"]


def test_a_record_that_is_being_written_is_not_swept(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda _: staging.sweep(tmp_path))
    atomic_write(tmp_path / "record.json", b"{}", fsync=True)
    assert (tmp_path / "record.json").read_bytes() == b"{}"


def test_the_lock_is_exclusive_and_ends_with_the_block(tmp_path):
    with staging.locked(tmp_path / "deploys") as first:
        assert first
        with staging.locked(tmp_path / "deploys", wait=False) as second:
            assert not second
    with staging.locked(tmp_path / "deploys", wait=False) as again:
        assert again


def test_a_file_system_can_be_synced(tmp_path):
    staging.sync(tmp_path)
    with pytest.raises(FileNotFoundError):
        staging.sync(tmp_path / "nothing")
