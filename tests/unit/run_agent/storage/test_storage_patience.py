"""When the next try is made, and which one is the last."""

import pytest

from run_agent.errors import UnavailableError
from run_agent.storage import patience


@pytest.fixture
def waits(monkeypatch):
    """Seconds that were waited, in no time."""
    waits = []
    monkeypatch.setattr("tenacity.nap.time.sleep", waits.append)
    return waits


def failing(times, wait=0.0):
    left = [patience.PassingError("https://s/a", "connection refused", wait=wait)] * times

    def attempt():
        if left:
            raise left.pop()
        return "done"

    return attempt


def test_waits_are_doubled_and_jittered(waits):
    assert patience.persist(failing(4)) == "done"
    assert len(waits) == 4
    for tries, wait in enumerate(waits):
        longest = patience.FIRST_WAIT_SECONDS * 2**tries
        assert longest / 2 <= wait <= longest


def test_the_last_reason_is_told(waits):
    expected = r"^cannot fetch https://s/a \(connection refused, 5 tries in \d+ s\); check"
    with pytest.raises(UnavailableError, match=expected):
        patience.persist(failing(9))
    assert len(waits) == patience.TRIES - 1


@pytest.mark.parametrize(("asked", "waited"), [(7.0, 7.0), (3600.0, 30.0)])
def test_what_the_storage_asks_for_is_waited_within_reason(waits, asked, waited):
    patience.persist(failing(1, wait=asked))
    assert waits == [waited]


def test_another_error_is_not_tried_again(waits):
    def attempt():
        raise KeyError

    with pytest.raises(KeyError):
        patience.persist(attempt)
    assert not waits
