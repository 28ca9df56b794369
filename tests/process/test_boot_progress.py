"""How a long fetch is seen, and how it is interrupted."""

import os
import re
import signal

import pytest

from support import small_slugs
from support.http_server import Answer
from support.platform import current, half_done, half_written, trees, until_waits_for, volume
from support.wait import until

SLUG = "/slugs/hello-41.tar.gz"
SLOWLY = Answer(slowly=True)
"""About 1.3 MB a second."""

AT_ONCE_SECONDS = 5.0
"""What an interrupted boot may take: a second is usual, less than the worker's own patience."""


def test_on_a_terminal_one_line_is_redrawn(platform):
    ours, theirs = os.openpty()
    platform.deploy(small_slugs.serving(*small_slugs.ballast(1 << 20)), usual=SLOWLY)
    replica = platform.boot(stderr=theirs, settings={"LOG_FORMAT": "text"})
    os.close(theirs)
    replica.until_ready()
    line = r"fetching the slug of deploy 41: (\d+) % of 1 MB, \d+ files"
    seen = ""
    while not re.search(rf"{line}\r\n", seen):  # the terminal may hand it out in pieces
        seen += os.read(ours, 1 << 16).decode()
    os.close(ours)
    drawn = [int(percent) for percent in re.findall(rf"\r\x1b\[K{line}", seen)]
    assert len(drawn) > 3
    assert drawn == sorted(drawn)
    assert re.search(rf"{line}\r\n", seen), seen
    assert not re.search(rf"{line}[^\r\n]", seen), seen


def test_elsewhere_it_tells_every_ten_seconds(platform):
    platform.deploy(small_slugs.serving(*small_slugs.ballast(16 << 20)), usual=SLOWLY)
    replica = platform.boot().until_ready(60)
    lines = [event["message"] for event in replica.events("fetching the slug")]
    assert 1 <= len(lines) <= 3
    assert re.fullmatch(r"fetching the slug of deploy 41: \d+ % of 17 MB, \d+ files", lines[0])


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_term_while_it_fetches_ends_it_quickly_with_143(platform, number):
    platform.deploy(small_slugs.serving(*small_slugs.ballast(1 << 20)))
    platform.storage.plan(SLUG, Answer(stall_after=1 << 18))
    replica = platform.boot()
    until(lambda: list((volume(replica.root) / "deploys").glob(".fetching*/*")), "nothing came")
    replica.signal(number)
    assert replica.wait(AT_ONCE_SECONDS) == 143
    assert not replica.alive()
    assert (half_done(replica.root), half_written(replica.root)) == ([], [])
    assert (trees(replica.root), current(replica.root)) == (set(), None)
    assert platform.boot(root=replica.root).until_ready().events("ended without a stop") == []


def test_term_while_the_controller_hangs_ends_it_quickly_with_143(platform):
    platform.controller.fault("any", "hang")
    replica = platform.boot()
    until_waits_for(replica, "the current deploy")
    assert replica.term().wait(AT_ONCE_SECONDS) == 143
