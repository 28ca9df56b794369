"""Where a node's port mapper is asked."""

import pytest

from run_agent import epmd


@pytest.mark.parametrize(
    ("given", "port"),
    [
        ("4370", 4370),
        ("65535", 65535),
        ("", 4369),
        ("0", 4369),
        ("65536", 4369),
        ("1" * 30, 4369),
        ("1" * 5000, 4369),  # more digits than Python turns into a number
        ("x", 4369),
        ("-1", 4369),
        ("\u0663", 4369),
    ],
    ids=lambda value: ascii(value)[:12],
)
def test_what_is_no_port_is_the_usual_one(given, port):
    assert epmd.port_in({"ERL_EPMD_PORT": given}) == port
    assert epmd.port_in({}) == 4369
