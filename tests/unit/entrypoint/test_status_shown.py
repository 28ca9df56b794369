"""How the state of SSH is shown to people."""

import pytest

from entrypoint.commands.status import _ssh


@pytest.mark.parametrize(("count", "shown"), [(0, "0 keys"), (1, "1 key"), (2, "2 keys")])
def test_keys_are_counted_as_people_do(count, shown):
    keys = {"keys": count, "fetched_at": "2026-01-02T03:04:05Z", "age_seconds": 7, "problem": None}
    door = {"logged_in": 0, "penalised": 1}
    assert _ssh({"keys": keys, "door": door}) == (
        f"0 logged in; {shown}, fetched 7 s ago; sources refused for now: 1"
    )
