"""What failed is remembered by its digest, for a while."""

import os
import stat

import pytest

from run_agent.errors import RunAgentError
from upgrade.failures import REASON_LIMIT, REMEMBERED, Failure, Failures

FAILURE = Failure(at=12.5, from_version="0.1.0", reason="code_change raised: \N{SNOWMAN}\udcff\n")


def digest(number):
    return f"{number:064x}"


@pytest.fixture
def failures(tmp_path):
    return Failures(tmp_path / "deploys")


def test_a_failure_is_remembered_until_it_is_forgotten(tmp_path, failures):
    assert failures.of(digest(1)) is None
    failures.remember(digest(1), FAILURE)
    assert failures.of(digest(1)) == FAILURE
    assert failures.of(digest(2)) is None
    path = tmp_path / "deploys" / f"{digest(1)}.failed.json"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    failures.forget(digest(1))
    failures.forget(digest(1))
    assert failures.of(digest(1)) is None
    assert not list(path.parent.iterdir())


def test_a_later_failure_takes_the_place_of_the_earlier(failures):
    failures.remember(digest(1), FAILURE)
    failures.remember(digest(1), Failure(13.0, "0.2.0", "again"))
    assert failures.of(digest(1)) == Failure(13.0, "0.2.0", "again")


def test_a_long_reason_is_cut(failures):
    failures.remember(digest(1), Failure(1.0, "0.1.0", "x" * 10_000))
    kept = failures.of(digest(1))
    assert kept
    assert kept.reason == "x" * (REASON_LIMIT - 1) + "…"


@pytest.mark.parametrize("damage", [b"", b"[]", b"{}", b'{"at": "soon"}', b"\xff"])
def test_a_damaged_record_is_said_and_ignored(tmp_path, failures, caplog, damage):
    failures.remember(digest(1), FAILURE)
    (tmp_path / "deploys" / f"{digest(1)}.failed.json").write_bytes(damage)
    assert failures.of(digest(1)) is None
    assert "cannot use the record" in caplog.text


def test_of_those_without_a_tree_the_newest_stay(tmp_path, failures):
    count = REMEMBERED + 5
    deploys = tmp_path / "deploys"
    for number in range(count):
        failures.remember(digest(number), FAILURE)
        os.utime(deploys / f"{digest(number)}.failed.json", (number, number))
        if number == 0:
            (deploys / digest(0)).mkdir()
    (deploys / "mine.failed.json").touch()
    failures.remember(digest(count), FAILURE)
    left = [number for number in range(count + 1) if failures.of(digest(number))]
    assert left == [0, *range(count + 1 - REMEMBERED, count + 1)]
    assert (deploys / "mine.failed.json").exists()


def test_a_volume_that_cannot_be_written_is_said(tmp_path, failures):
    (tmp_path / "deploys").touch()
    with pytest.raises(RunAgentError, match=r"cannot note in .*/deploys that the slug 0") as caught:
        failures.remember(digest(1), FAILURE)
    assert caught.value.exit_code == os.EX_IOERR
    with pytest.raises(RunAgentError, match="cannot remove"):
        failures.forget(digest(1))
