"""Both folders are closed to everybody else where they are ours: the image leaves them open."""

import os

import pytest

from support.need import need
from support.replica import NOBODY

FOLDERS = ("run/run-agent", "var/lib/run-agent")


@pytest.fixture
def open_folders(tmp_path):
    """Give a root in which both are as in the image."""
    for folder in FOLDERS:
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder).chmod(0o1777)
    return tmp_path


def modes(root):
    return [oct((root / folder).stat().st_mode & 0o7777) for folder in FOLDERS]


def test_what_is_ours_is_closed(start, open_folders):
    start("sleep", "600", root=open_folders).until_ready()
    assert modes(open_folders) == ["0o1755", "0o1755"]


def test_what_is_somebody_elses_stays_as_it_is(start, open_folders):
    need(os.geteuid() == 0, "root, to give a folder away")
    for folder in FOLDERS:
        os.chown(open_folders / folder, NOBODY, NOBODY)
    start("sleep", "600", root=open_folders).until_ready()
    assert modes(open_folders) == ["0o1777", "0o1777"]
