"""What a transfer tells for the audit, and how much."""

import json
import os

import pytest

from run_agent.ssh.files.ledger import IN_FULL, READ, WRITE, Ledger


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def book(clock):
    """Return a ledger, and what it has told."""
    source, target = os.pipe()
    ledger = Ledger(target, clock)
    closed = False

    def told():
        nonlocal closed
        if not closed:
            ledger.close()
            os.close(target)
            closed = True
        with os.fdopen(source, "rb") as reader:
            return [json.loads(line) for line in reader]

    yield ledger, told
    if not closed:
        os.close(source)
        os.close(target)


def test_a_file_is_told_when_it_opens_and_when_it_closes(book):
    ledger, told = book
    ledger.opened(b"/a\xff", READ).close(read=3)
    opened, closed, totals = told()
    assert opened == {"event": "opened", "file": 1, "path": "/a\\xff", "direction": "read"}
    assert closed == {"event": "closed", "file": 1, "bytes": 3}
    assert (totals["files_read"], totals["bytes_read"], totals["failures"]) == (1, 3, 0)


def test_a_change_that_failed_says_why(book):
    ledger, told = book
    with pytest.raises(OSError, match="full"), ledger.change("make folder", b"/d"):
        raise OSError(28, "disk full")
    changed, totals = told()
    assert changed == {
        "event": "changed", "operation": "make folder", "path": "/d", "error": "disk full",
    }  # fmt: skip
    assert totals["failures"] == 1


def test_of_ten_thousand_files_the_first_are_told_and_all_are_counted(book):
    ledger, told = book
    for number in range(10_000):
        ledger.opened(b"/%d" % number, WRITE).close(written=2)
    *lines, totals = told()
    assert len(lines) == 2 * IN_FULL
    assert totals["files_written"] == 10_000
    assert totals["bytes_written"] == 20_000
    assert totals["not_listed"] == 10_000 - IN_FULL


def test_a_long_session_keeps_being_told(book, clock):
    ledger, told = book
    for number in range(IN_FULL + 5):
        ledger.opened(b"/%d" % number, WRITE).close()
    clock.now += 1
    ledger.opened(b"/later", WRITE).close()
    assert told()[-3]["path"] == "/later"
