"""What a run leaves for the one after it."""

import json
import os
import socket
import time
from pathlib import Path

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
    run(volume)[0].clear(None, 0.0)
    assert os.listdir(volume) == []  # noqa: PTH208 - as PID 1 does
    assert run(volume)[1] is None


def test_a_run_that_was_cut_off_is_reported_and_handed_on(volume, capfd):
    run(volume)
    _, before = run(volume)
    assert before["reason"] == "cut off"
    assert "ended without a stop" in before["message"]
    assert capfd.readouterr().err.count("ended without a stop") == 1


def test_an_end_for_want_of_memory_is_handed_on_once_and_not_logged_again(volume, capfd):
    run(volume)[0].clear(KILLED, 86_400.9)
    later, before = run(volume)
    assert before == {"reason": "out of memory", "message": KILLED, "at": "1970-01-02T00:00:00Z"}
    assert not capfd.readouterr().err
    later.clear(None, 0.0)
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
        "[" * 10_000,
        '{"started_at": ' + '{"a":' * 1_900 + "1" + "}" * 1_901,
        '{"started_at": "2026-11-21T12:00:00Z\\nERROR"}',
        '{"started_at": 7}',
        "{}",
        '{"started_at": 1' + "0" * 5_000 + "}",
    ],
)
def test_what_cannot_be_read_is_no_end(volume, content, capfd):
    marker, _ = run(volume)
    path = Path(marker._path)
    path.write_text(content)
    assert run(volume)[1] is None
    assert set(json.loads(path.read_text())) == {"started_at"}


def bind(path):
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))


THINGS = {
    "a pipe": os.mkfifo,
    "a socket": bind,
    "a link to a device that never ends": lambda path: path.symlink_to("/dev/zero"),
    "a link to nothing": lambda path: path.symlink_to("nowhere"),
    "a link to what is not to be written": lambda path: path.symlink_to("precious"),
}


@pytest.mark.parametrize("suffix", ["", ".new"])
@pytest.mark.parametrize("thing", THINGS)
def test_what_is_no_ordinary_file_gives_way(thing, suffix, volume, capfd):
    marker, _ = run(volume)
    marker.clear(None, 0.0)
    precious = Path(volume, "precious")
    precious.write_text("{}")
    THINGS[thing](Path(marker._path + suffix))
    assert run(volume)[1] is None
    assert run(volume)[1]["reason"] == "cut off"
    assert precious.read_text() == "{}"
    assert "cannot write" not in capfd.readouterr().err
    assert set(os.listdir(volume)) == {"precious", Path(marker._path).name}  # noqa: PTH208


@pytest.mark.parametrize("suffix", ["", ".new"])
def test_a_folder_in_its_place_is_said_and_no_obstacle(suffix, volume, capfd):
    marker, _ = run(volume)
    marker.clear(None, 0.0)
    Path(marker._path + suffix).mkdir()
    assert run(volume)[1] is None
    assert "cannot write" in capfd.readouterr().err


def test_where_nothing_can_be_written_the_run_before_is_not_told_twice(volume, capfd):
    run(volume)[0].clear(KILLED, time.time())
    marker = Marker(volume, Log("text"))
    Path(marker._path + ".new").mkdir()  # stands for a full volume
    assert marker.set()["message"] == KILLED
    assert "an unclean end of this run will go unreported" in capfd.readouterr().err
    assert marker.set() is None
