"""releases/RELEASES, where a release has none."""

import logging

import pytest

from run_agent.release import Kind, Release, releases_file

REL = """%% coding: utf-8
{release,{"hello","1.0"},
         {erts,"13.1.5"},
         [{kernel,"8.5.3",permanent},
          {stdlib,"4.2"},
          {'Odd app',"1",load,[kernel]},
          {hello,"1.0",[kernel]}]}.
"""
RELEASES = (
    '%% coding: utf-8\n[{release,"hello","1.0","13.1.5",['
    '{kernel,"8.5.3","lib/kernel-8.5.3"},{stdlib,"4.2","lib/stdlib-4.2"},'
    '{\'Odd app\',"1","lib/Odd app-1"},{hello,"1.0","lib/hello-1.0"}],permanent}].\n'
)


@pytest.fixture
def release(tmp_path):
    (tmp_path / "releases/1.0").mkdir(parents=True)
    (tmp_path / "releases/1.0/hello.rel").write_text(REL)
    return Release(Kind.MIX, "hello", tmp_path, version="1.0")


def test_a_missing_file_is_created(release, tmp_path, caplog):
    assert releases_file.create_missing(release)
    assert (tmp_path / "releases/RELEASES").read_text() == RELEASES
    assert not caplog.records


def test_one_that_is_there_is_left_alone(release, tmp_path):
    (tmp_path / "releases/RELEASES").write_text("mine")
    assert releases_file.create_missing(release)
    assert (tmp_path / "releases/RELEASES").read_text() == "mine"


def test_a_file_from_before_otp_17(release, tmp_path):
    latin1 = REL.replace("%% coding: utf-8\n", "").replace("Odd", "\xd6dd").encode("latin-1")
    (tmp_path / "releases/1.0/hello.rel").write_bytes(latin1)
    assert releases_file.create_missing(release)
    assert "{'\xd6dd app',\"1\"" in (tmp_path / "releases/RELEASES").read_text("utf-8")


@pytest.mark.parametrize(
    ("rel", "reason"),
    [
        (None, "No such file"),
        ("", "describes no release"),
        ("a. b.", "describes no release"),
        (REL.replace('"13.1.5"', "13"), "describes no release"),
        (REL.replace('{stdlib,"4.2"}', "stdlib"), "application stdlib"),
        (REL[:-30], "line 7"),
    ],
)  # fmt: skip
def test_what_is_in_the_way_is_said_and_no_reason_not_to_boot(
    release, tmp_path, caplog, rel, reason
):
    path = tmp_path / "releases/1.0/hello.rel"
    path.unlink() if rel is None else path.write_text(rel)
    assert not releases_file.create_missing(release)
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert record.getMessage().startswith("cannot create ")
    assert reason in record.getMessage()
    assert not (tmp_path / "releases/RELEASES").exists()


def test_a_project_needs_none(tmp_path, caplog):
    assert not releases_file.create_missing(Release(Kind.PROCFILE, "hello", tmp_path))
    assert not caplog.records
