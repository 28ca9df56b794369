"""What teller and worker say to each other comes over whole."""

from pathlib import Path

import pytest

from run_agent.cluster import messages
from run_agent.cluster.account import Account
from run_agent.cluster.messages import REPORT, Request, Result

POD = Account("fd00::1", 6443, Path("/x/ä"), "shop", "hello-1")


def test_a_request():
    request = Request(POD, {"metadata": {"labels": {"a": None}}}, ({"kind": "Event"},), 26.0, True)
    assert messages.parse_request(messages.request_text(request)) == request


def test_results():
    results = [Result(REPORT, True, 200, "größe"), Result("e", False, 429, "slow", 7.0)]
    assert messages.parse_results(messages.results_text(results)) == tuple(results)


@pytest.mark.parametrize(
    ("status", "is_denial", "is_hopeless"),
    [
        (0, False, False),
        (401, False, False),
        (403, True, False),
        (404, True, False),
        (409, False, False),
        (422, True, True),
        (429, False, False),
        (500, False, False),
    ],
)
def test_what_a_status_means(status, is_denial, is_hopeless):
    result = Result(REPORT, False, status)
    assert (result.is_denial, result.is_hopeless) == (is_denial, is_hopeless)
