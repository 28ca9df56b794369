"""What a run leaves for the one after it."""

import json
import os

import pytest

from entrypoint.init.log import Log
from entrypoint.init.marker import Marker

KILLED = "the release was killed by the kernel, out of memory: limit 64 MiB, peak 64 MiB"


@pytest.fixture
def volume(tmp_path):
    return str(tmp_path)


def run(volume):
    """Begin a run on the volume; return its marker and what it found."""
    marker = Marker(volume, Log("text"))
    return marker, marker.set()


def test_a_first_run_finds_nothing(volume, capfd):
    assert run(volume)[1] is None
    assert not capfd.readouterr().err


def test_a_run_that_ended_in_order_leaves_nothing(volume):
    run(volume)[0].clear(None)
    assert os.listdir(volume) == []  # noqa: PTH208 - as PID 1 does
    assert run(volume)[1] is None


def test_a_run_that_was_cut_off_is_reported_and_handed_on(volume, capfd):
    run(volume)
    _, before = run(volume)
    assert before["reason"] == "cut off"
    assert "ended without a stop" in before["message"]
    assert capfd.readouterr().err.count("ended without a stop") == 1


def test_an_end_for_want_of_memory_is_handed_on_once_and_not_logged_again(volume, capfd):
    run(volume)[0].clear(KILLED)
    later, before = run(volume)
    assert (before["reason"], before["message"]) == ("out of memory", KILLED)
    assert not capfd.readouterr().err
    later.clear(None)
    assert run(volume)[1] is None


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        '{"ended": {}}',
        '{"ended": 7}',
        '{"ended": {"message": "m", "at": "yesterday"}}',
        '{"ended": {"message": "m", "at": 7}}',
        '{"started_at": "' + "x" * 20_000 + '"}',
        "\x00\xff",
    ],
)
def test_what_cannot_be_read_is_no_end(volume, content, capfd):
    marker, _ = run(volume)
    with open(marker._path, "w") as file:  # noqa: PTH123
        file.write(content)
    assert run(volume)[1] is None
    with open(marker._path) as file:  # noqa: PTH123
        assert set(json.load(file)) == {"started_at"}
