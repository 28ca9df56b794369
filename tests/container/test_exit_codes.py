"""The exit code of the container is that of what run-agent runs, whatever it is."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from support.long_tests import LONG

AT_ONCE = 2
BLOCK = 16
"""Codes in one test, so that several workers share them."""

SOME_CODES = (0, 1, 2, 63, 64, 126, 127, 128, 129, 137, 143, 254, 255)
BLOCKS = [range(first, first + BLOCK) for first in range(0, 256, BLOCK)] if LONG else [SOME_CODES]


@pytest.fixture
def codes_of(host):
    """Run every shell script in a container of its own, and return all exit codes."""

    def ends_with(script):
        return host.boot("sh", "-c", script, verb=("exec", "--"), network="none").wait(60)

    def codes_of(scripts):
        with ThreadPoolExecutor(AT_ONCE) as pool:
            return list(pool.map(ends_with, scripts))

    return codes_of


@pytest.mark.parametrize("codes", BLOCKS, ids=lambda codes: f"{codes[0]}-{codes[-1]}")
def test_every_code_of_the_release_is_that_of_the_container(codes_of, codes):
    assert codes_of(f"exit {code}" for code in codes) == list(codes)


def test_a_signal_that_kills_the_release_gives_128_and_its_number(codes_of):
    deadly = (1, 2, 3, 6, 9, 11, 15, 31, 34, 64)
    assert codes_of(f"kill -{number} $$" for number in deadly) == [128 + n for n in deadly]


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("--help",), 0),
        (("no-such-verb",), 64),
        (("exec", "--", "/no/such/program"), 127),
        (("exec", "--", "/etc/passwd"), 126),
    ],
)
def test_an_end_without_a_release_has_a_code_of_ours(host, arguments, code):
    assert host.boot(verb=arguments, network="none").wait() == code


def test_bad_settings_end_it_and_all_of_them_are_named(host):
    settings = {"PORT": "no", "GRACE_SECONDS": "long", "READY_CHECK": "maybe"}
    replica = host.boot(settings=settings, network="none")
    assert replica.wait() == 78
    assert all(name in replica.log for name in settings)
