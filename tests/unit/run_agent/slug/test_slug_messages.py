"""What the agent and its worker say to each other arrives as it was said."""

from pathlib import Path

import pytest

from run_agent.errors import DeniedError, RunAgentError, SlugError, UnavailableError
from run_agent.model import Slug
from run_agent.slug import messages

DEPLOYS = Path("/deploys")


def test_a_request():
    request = messages.Request("https://s/a?b=\N{SNOWMAN}", DEPLOYS, "v41", 10, 1 << 34, "a" * 64)
    assert messages.parse_request(messages.request_line(request, 1.5)) == (request, 1.5)
    assert "?b=" not in repr(request)


@pytest.mark.parametrize(
    "event",
    [
        messages.Progress(bytes=1, total=None, unpacked=3, members=4),
        messages.Notice("a line\nand another \udcff"),
        Slug("a" * 64, DEPLOYS / ("a" * 64), "https://s/a", etag='"1"', members=3),
    ],
)
def test_an_event(event):
    line = messages.event_line(event)
    assert line.count(b"\n") == 1
    assert messages.parse_event(line, DEPLOYS) == event


@pytest.mark.parametrize("kind", [UnavailableError, DeniedError, SlugError, RunAgentError])
@pytest.mark.parametrize("exit_code", [None, 74])
def test_an_error(kind, exit_code):
    error = kind("cannot do it", exit_code=exit_code)
    found = messages.parse_event(messages.event_line(error), DEPLOYS)
    assert type(found) is kind
    assert (str(found), found.exit_code) == (str(error), error.exit_code)


@pytest.mark.parametrize("line", [b"", b"x", b"[]", b"{}", b'{"a": 1}', b'{"progress": {}}'])
def test_nonsense_is_told(line):
    with pytest.raises((ValueError, TypeError, LookupError, AttributeError)):
        messages.parse_event(line, DEPLOYS)
