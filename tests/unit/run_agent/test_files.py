"""Files are replaced whole or not at all."""

import errno
import os
import threading

import pytest

from run_agent import files


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("fsync", [False, True])
def test_a_file_is_replaced_with_its_mode_whatever_the_umask(tmp_path, fsync):
    path = tmp_path / "file"
    path.write_text("old")
    umask = os.umask(0o777)
    try:
        files.atomic_write(path, b"new", mode=0o640, fsync=fsync)
    finally:
        os.umask(umask)
    assert path.read_bytes() == b"new"
    assert path.stat().st_mode & 0o7777 == 0o640
    assert names(tmp_path) == ["file"]


def test_who_has_the_old_file_open_keeps_it(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")
    with path.open() as old:
        files.atomic_write(path, b"new")
        assert old.read() == "old"


def test_a_failure_leaves_what_was_there_and_nothing_else(tmp_path):
    path = tmp_path / "folder"
    path.mkdir()
    with pytest.raises(OSError, match="directory"):
        files.atomic_write(path, b"new")
    assert names(tmp_path) == ["folder"]


def test_a_disk_that_fails_is_an_error(tmp_path, monkeypatch):
    def full(_descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        files.atomic_write(tmp_path / "file", b"new", fsync=True)
    assert names(tmp_path) == []


def test_what_is_written_once_stays(tmp_path):
    path = tmp_path / "file"
    assert files.write_once(path, b"first", mode=0o600) == b"first"
    assert files.write_once(path, b"second") == b"first"
    assert path.stat().st_mode & 0o7777 == 0o600
    assert names(tmp_path) == ["file"]


def test_all_who_write_at_once_get_the_same(tmp_path):
    path, count = tmp_path / "file", 16
    start, got = threading.Barrier(count), []

    def write(number):
        start.wait()
        got.append(files.write_once(path, b"%d" % number * 1000))

    threads = [threading.Thread(target=write, args=[number]) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(got) == {path.read_bytes()}
    assert len(got) == count
    assert names(tmp_path) == ["file"]


def test_a_link_is_replaced(tmp_path):
    link = tmp_path / "link"
    for target in "one", "two":
        files.replace_link(link, tmp_path / target)
        assert link.readlink() == tmp_path / target
    assert names(tmp_path) == ["link"]


def test_a_folder_is_not_replaced_by_a_link(tmp_path):
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError, match="directory"):
        files.replace_link(tmp_path / "folder", tmp_path)
    assert names(tmp_path) == ["folder"]
