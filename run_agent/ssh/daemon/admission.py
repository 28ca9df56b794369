"""Who may log in: the list of keys as the volume has it, asked at login and on live sessions."""

from __future__ import annotations

import time
from collections.abc import Callable

from run_agent.settings import Settings
from run_agent.ssh import authorized_keys, kept
from run_agent.ssh.authorized_keys import AuthorizedKey, KeyList
from run_agent.ssh.daemon.site import Login

ROOT = "root"
"""What clients send; like the app's name, it means the account that the release runs as."""


class Admission:
    """The current list. `clock` gives epoch seconds, as `expiry-time` has them."""

    def __init__(self, app: str, options: Settings, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._users = {ROOT, app}
        found = kept.load(options.layout, app)  # until the agent tells which list rules
        self._list = authorized_keys.read(found.lines) if found else KeyList()

    def take(self, content: bytes) -> None:
        """Let another list rule (`kept.to_json`); raises as `kept.from_json`."""
        self._list = authorized_keys.read(kept.from_json(content).lines)

    def find(self, user: str, blob: bytes, address: str) -> AuthorizedKey | str:
        """Return the line that lets `user` in with this key, or why none does.

        A user that does not exist takes as long as a wrong key.
        """
        found = self._list.find(blob, address, self._clock())
        return found if user in self._users else "unknown user"

    def objection(self, login: Login) -> str | None:
        """Return why somebody who has logged in would not get in the same way now, if so."""
        found = self.find(login.user, login.key.blob, login.source[0])
        if isinstance(found, str):
            return f"its key is no longer admitted: {found}"
        if not found.permits_same_as(login.key):
            return "the options of its key have changed"
        return None

    def seconds_to_expiry(self) -> float | None:
        """Return how long it is until the next key expires, if one does."""
        now = self._clock()
        at = self._list.next_expiry(now)
        return None if at is None else at - now
