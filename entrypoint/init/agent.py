"""The agent as PID 1 sees it: a child that may die, and the socket pair that leads to it."""

import json
import os
import random
import signal
import socket
import sys
import time
from collections.abc import Callable

from entrypoint.init import children, wire
from entrypoint.init.log import Log

BACKOFF_FIRST, BACKOFF_LAST = 0.5, 30.0
"""Seconds before an agent that died during its own start is started again, doubled each time."""

AT_ONCE_SECONDS = 1.0
"""Starts of an agent that was ready are at least this far apart, so that a crash loop of ready
agents cannot take a core from the release."""

SILENCE_SECONDS = 45.0
"""An agent says something every 10 s (entrypoint.agent); one that is silent for so long hangs."""

OOM_SCORE_ADJ = 200
"""The kernel is to take the agent before the release."""


class Agent:
    """Starts the agent, hands its messages to `receive`, and starts it again when it dies."""

    def __init__(
        self,
        log: Log,
        orders: str,
        *,
        control: socket.socket,
        ssh: list[socket.socket],
        connected: Callable[[socket.socket], None],
        disconnected: Callable[[socket.socket], None],
    ) -> None:
        self.pid: int | None = None
        self.restart_at: float | None = None
        self.ready = False
        self._log, self._orders, self._control, self._ssh = log, orders, control, ssh
        self._connected, self._disconnected = connected, disconnected
        self._link: socket.socket | None = None
        self._decoder = wire.Decoder()
        self._backoff = BACKOFF_FIRST
        self._since = self._heard_at = 0.0
        self._devnull = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)

    def start(self, hello: dict[str, object]) -> None:
        """Start an agent and tell it everything its predecessor knew."""
        self.ready, self.restart_at, self._since = False, None, time.monotonic()
        self._heard_at = self._since
        try:
            self._link = self._spawn()
        except OSError as error:
            self.plan_restart(f"cannot start the agent ({error.strerror})")
            return
        self._decoder = wire.Decoder()
        self._connected(self._link)
        self.tell(hello)

    def _spawn(self) -> socket.socket:
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        with theirs:
            link, control = theirs.fileno(), self._control.fileno()
            ssh = [listener.fileno() for listener in self._ssh]
            sockets = json.dumps({"link": link, "control": control, "ssh": ssh})
            self.pid = children.spawn(
                [sys.executable, "-I", "-m", "entrypoint.agent", sockets, self._orders],
                env=os.environ,
                keep=(link, control, *ssh),
                redirect={0: self._devnull, 1: 2},  # stdout is the app's
                raise_oom_score=OOM_SCORE_ADJ,
                session=True,
            )  # fmt: skip
        return ours

    def tell(self, message: dict[str, object]) -> None:
        """Send a message. An agent that does not read is hung: it is killed, and started again."""
        if self._link is None:
            return
        line = wire.encode(message)
        try:
            if self._link.send(line) == len(line):
                return
        except BlockingIOError:
            pass
        except OSError:
            return  # it is dying; its end is told by waitpid
        self._log.error("the agent does not read its messages: killing it")
        self.send(signal.SIGKILL)

    def receive(self) -> list[dict[str, object]]:
        """Return the messages that have come in."""
        if self._link is None:
            return []
        try:
            received = self._link.recv(1 << 20)
        except BlockingIOError:
            return []
        except OSError:
            received = b""
        self._heard_at = time.monotonic()
        if not received:
            self.send(signal.SIGKILL)  # it has ended, or it hangs on its way out
            self._hang_up()
            return []
        try:
            return self._decoder.feed(received)
        except ValueError as error:
            self._log.error(f"cannot understand the agent ({error}): killing it")
            self.send(signal.SIGKILL)
            self._hang_up()
            return []

    def hangs_at(self) -> float | None:
        """When the agent that runs will have been silent for too long."""
        return None if self.pid is None else self._heard_at + SILENCE_SECONDS

    def kill_if_hung(self, now: float) -> None:
        """End an agent that says nothing any more: its verdict would stand for ever."""
        hangs_at = self.hangs_at()
        if hangs_at is not None and now >= hangs_at:
            self._log.error(f"the agent was silent for {SILENCE_SECONDS:g} s: killing it")
            self._heard_at = now
            self.send(signal.SIGKILL)

    def ended(self) -> None:
        """Clean up after it: its workers must not meet those of the next one."""
        children.kill_session(self.pid or 0)
        self.pid = None
        self._hang_up()

    def plan_restart(self, reason: str) -> None:
        """Plan the next start: at once for an agent that was ready, with back-off otherwise."""
        now = time.monotonic()
        if self.ready:
            self._backoff = BACKOFF_FIRST
            self.restart_at = max(now, self._since + AT_ONCE_SECONDS)
        else:
            self.restart_at = now + self._backoff * random.uniform(0.5, 1.0)
            self._backoff = min(self._backoff * 2, BACKOFF_LAST)
        self._log.warning(f"{reason}; starting it again in {self.restart_at - now:.1f} s")

    def send(self, number: int) -> None:
        """Signal the agent."""
        if self.pid is not None:
            children.signal_quietly(os.kill, self.pid, number)

    def _hang_up(self) -> None:
        if self._link is not None:
            self._disconnected(self._link)
            self._link.close()
            self._link = None
