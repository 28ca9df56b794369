"""A client's terminal modes (RFC 4254, section 8) as termios attributes."""

import termios

import pytest

from run_agent.ssh.daemon.sessions.terminal_modes import (
    CC,
    CFLAG,
    IFLAG,
    ISPEED,
    IUTF8,
    LFLAG,
    OSPEED,
)
from run_agent.ssh.daemon.sessions.terminal_modes import wanted as modes

VINTR, VEOF, VSTATUS, ICRNL, MODE_IUTF8, ECHO, CS7, IN_SPEED, OUT_SPEED = (
    1, 5, 17, 36, 42, 53, 90, 128, 129,
)  # fmt: skip


@pytest.fixture
def attributes():
    """Return what a new terminal has, more or less."""
    characters = [b"\0"] * 32
    return [termios.ICRNL, termios.OPOST, termios.CS8, termios.ECHO, termios.B38400,
            termios.B38400, characters]  # fmt: skip


def test_control_characters_are_the_clients(attributes):
    characters = modes(attributes, {VINTR: 5, VEOF: 2})[CC]
    assert (characters[termios.VINTR], characters[termios.VEOF]) == (b"\x05", b"\x02")


@pytest.mark.parametrize("value", [255, 256, 2**32 - 1])
def test_a_character_that_is_not_wanted_is_off(attributes, value):
    assert modes(attributes, {VINTR: value})[CC][termios.VINTR] == b"\0"


def test_flags_are_turned_on_and_off(attributes):
    result = modes(attributes, {ECHO: 0, ICRNL: 0})
    assert not result[LFLAG] & termios.ECHO
    assert not result[IFLAG] & termios.ICRNL
    assert modes(attributes, {ECHO: 1})[LFLAG] & termios.ECHO


def test_utf_8_is_on_unless_the_client_says_no(attributes):
    assert modes(attributes, {})[IFLAG] & IUTF8
    assert not modes(attributes, {MODE_IUTF8: 0})[IFLAG] & IUTF8


def test_the_width_of_a_character_is_one_of_two(attributes):
    assert modes(attributes, {CS7: 1})[CFLAG] & termios.CSIZE == termios.CS7
    assert modes(attributes, {CS7: 0})[CFLAG] & termios.CSIZE == termios.CS8


def test_speeds_are_taken_where_termios_has_them(attributes):
    result = modes(attributes, {IN_SPEED: 9600, OUT_SPEED: 12345})
    assert (result[ISPEED], result[OSPEED]) == (termios.B9600, termios.B38400)


def test_what_linux_does_not_know_is_passed_over(attributes):
    assert modes(attributes, {VSTATUS: 20, 99: 1, 200: 7}) == modes(attributes, {})


def test_the_attributes_that_were_given_stay_as_they_were(attributes):
    before = [list(one) if isinstance(one, list) else one for one in attributes]
    modes(attributes, {ECHO: 0, VINTR: 5})
    assert attributes == before
