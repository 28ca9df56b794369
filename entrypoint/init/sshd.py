"""The SSH daemon as PID 1 sees it: started when somebody connects, cleaned up after when it ends.

Knows nothing of SSH.
"""

import os
import selectors
import socket
import sys
import time

from entrypoint.init import children
from entrypoint.init.log import Log

SESSION_MARK = "RUN_AGENT_SESSION"
"""Every process of a session carries it: the daemon's token, a dot, the session's number."""

PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 1.0, 30.0
"""Starts are at least so far apart, twice as far after each daemon that died young: one that dies
of each connection, or of too little memory, must not take a core from the release."""

YOUNG_SECONDS = 10.0
"""A daemon that dies within this time has served nobody."""

OOM_SCORE_ADJ = 500
"""The kernel is to take a session, or the daemon, first of all."""


class Sshd:
    """Starts the daemon on demand; there is one at most."""

    def __init__(
        self, log: Log, selector: selectors.BaseSelector, listener: socket.socket, orders: str
    ) -> None:
        self.pid: int | None = None
        self.watch_at: float | None = None
        self._log, self._selector, self._listener, self._orders = log, selector, listener, orders
        self._token, self._since, self._pause = "", 0.0, PAUSE_SECONDS
        listener.setblocking(False)
        self._devnull = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        self._watched = False
        self.watch()

    def watch(self) -> None:
        """Start a daemon as soon as somebody connects."""
        self.watch_at = None
        if not self._watched:
            self._selector.register(self._listener, selectors.EVENT_READ, self._start)
            self._watched = True

    def close(self) -> None:
        """Start none any more."""
        self.watch_at = None
        if self._watched:
            self._selector.unregister(self._listener)
            self._watched = False

    def _start(self) -> None:
        self.close()  # from here on the daemon accepts
        self._since, self._token = time.monotonic(), os.urandom(8).hex()
        try:
            self.pid = children.spawn(
                [sys.executable, "-I", "-m", "entrypoint.sshd",
                 str(self._listener.fileno()), self._token, self._orders],
                env=os.environ,
                keep=(self._listener.fileno(),),
                redirect={0: self._devnull, 1: 2},  # stdout is the app's
                raise_oom_score=OOM_SCORE_ADJ,
                session=True,
            )  # fmt: skip
        except OSError as error:
            self._log.error(f"cannot start the SSH daemon ({error.strerror})")
            self.watch_at = self._since + PAUSE_SECONDS

    def ended(self, code: int, *, stopping: bool) -> None:
        """Leave nothing of its sessions behind, and be ready for the next connection."""
        self.pid = None
        if stopping:
            return  # everything is being ended, and nothing is to begin
        now = time.monotonic()
        young = code != 0 and now - self._since < YOUNG_SECONDS
        self._pause = min(self._pause * 2, LONGEST_PAUSE_SECONDS) if young else PAUSE_SECONDS
        self.watch_at = max(now, self._since + self._pause)
        if code != 0:  # one that ends by itself has seen to it
            self._log.error(f"the SSH daemon ended with exit code {code}; its sessions are lost")
            children.kill_marked(f"{SESSION_MARK}={self._token}.")
        if young:
            self._turn_away()

    def _turn_away(self) -> None:
        """Hang up on who waits: it may be what the daemon died of, and its client has gone."""
        try:
            while True:
                self._listener.accept()[0].close()
        except OSError:
            pass  # nobody is left
