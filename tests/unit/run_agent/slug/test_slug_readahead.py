"""Working ahead: order, errors and the end, from another thread."""

import threading

import pytest

from run_agent.slug.readahead import SLOTS, ahead
from support.wait import until


def numbers(count, closed=None):
    try:
        for number in range(count):
            yield b"%d" % number
    finally:
        if closed:
            closed.set()


def test_everything_comes_in_order():
    with ahead(numbers(1000), "numbers") as found:
        assert list(found) == [b"%d" % number for number in range(1000)]


def test_an_error_comes_after_what_was_before_it():
    def failing():
        yield b"1"
        raise KeyError("reason")

    found = []
    with pytest.raises(KeyError, match="reason"), ahead(failing(), "failing") as chunks:
        found.extend(chunks)
    assert found == [b"1"]


def test_it_works_ahead_but_not_far():
    made = []

    def source():
        for number in range(1000):
            made.append(number)
            yield b"x"

    with ahead(source(), "source") as found:
        until(lambda: len(made) == SLOTS + 1, "it stands still")
        next(found)
        until(lambda: len(made) == SLOTS + 2, "it goes on")


def test_the_source_is_closed_and_its_thread_ends_where_nobody_reads_on():
    closed = threading.Event()
    with ahead(numbers(10_000, closed), "given up") as found:
        next(found)
    assert closed.wait(5)
    until(lambda: "given up" not in {thread.name for thread in threading.enumerate()}, "it ended")


def test_a_chain_ends_from_the_end():
    def passed_on(chunks):
        yield from chunks

    with ahead(numbers(10_000), "first") as first, ahead(passed_on(first), "second") as second:
        next(second)
    names = {"first", "second"}
    until(lambda: not names & {thread.name for thread in threading.enumerate()}, "both ended")
