"""The door: accepts SSH connections, turns away what it can, and hands the rest to the daemon.

Owns the listening sockets' connections until somebody speaks. Knows of SSH only that a client
begins with `SSH-` (RFC 4253 4.2), and never waits for the daemon: PID 1 starts one when we connect
to its socket, where what we send waits for it.
"""

import asyncio
import contextlib
import itertools
import logging
import math
import random
import socket
import time
from collections.abc import Callable, Sequence

from run_agent.settings import Settings
from run_agent.ssh.handover import Connection, Event, Handover, connect_to
from run_agent.ssh.penalties import Fault, Penalties, source_of
from run_agent.ssh.refusals import Refusals
from run_agent.ssh.startups import SilentStarts, StartUps

__all__ = ["Door", "connect_to"]

SILENT_SECONDS = 1.0
"""How long a client may say nothing before it is taken for one that waits for our banner."""

RECHECK_SECONDS = 5.0
"""How often it is asked whether somebody silent may have the daemon now."""

ACCEPTS = 64
"""So many connections are accepted in a row; then the agent's other work has a turn."""

PAUSE_SECONDS = 1.0
"""How long nothing is accepted where the kernel has no descriptor or no memory for it."""

PREFIX = b"SSH-"

LINE_BYTES = 4096
"""More than a client says before it has seen our banner."""

LIMITS = ("too_many_attempts", "too_slow", "unresponsive")
"""What the daemon ends connections for, as it names them (`wire`)."""

COUNTED = (
    "accepted",
    "refused",  # by penalty
    "dropped",  # by MaxStartups
    "probed",  # went without a word
    "silent",  # stayed without a word until the time to log in was over
    "not_ssh",
    "handed_over",
    "lost",  # the daemon died with them, or was not reached
    "wrong_keys",
    "failed_logins",
    "logins",
    "sessions_refused",  # by SSH_MAX_SESSIONS
    *LIMITS,
)

log = logging.getLogger("ssh")


class Door:
    """All connections to `listeners`. `connect` gives a socket to a daemon, as `connect_to` does.

    `clock` gives seconds and `random` 0 to 1; a test may want its own.
    """

    def __init__(
        self,
        listeners: Sequence[socket.socket],
        options: Settings,
        *,
        connect: Callable[[], socket.socket],
        clock: Callable[[], float] = time.monotonic,
        random: Callable[[], float] = random.random,
    ) -> None:
        self._listeners, self._clock = listeners, clock
        self._grace = options.ssh_login_grace_seconds
        self._penalties = Penalties(
            options.ssh_penalty_seconds,
            options.ssh_penalty_max_seconds,
            options.ssh_penalty_exempt,
        )
        self._startups = StartUps(options.ssh_max_startups, random)
        self._silent_starts = SilentStarts(clock())
        self._handover = Handover(connect, self._on_event, clock)
        self._refusals = Refusals()
        self._counts = dict.fromkeys(COUNTED, 0)
        # a daemon outlives us, and our successor must not use the numbers that it has again
        self._numbers = itertools.count(int(clock() * 1_000_000))
        self._waiting: dict[int, Connection] = {}
        self._starved = False

    async def serve(self, *, daemon_runs: bool) -> None:
        """Hold the door for ever. `daemon_runs` where a predecessor of ours has left one."""
        if daemon_runs:
            self._handover.resume()
        for listener in self._listeners:
            listener.setblocking(False)
            _loop().add_reader(listener, self._accept, listener)
        try:
            await _loop().create_future()
        finally:
            for listener in self._listeners:
                _loop().remove_reader(listener)
            for connection in list(self._waiting.values()):
                self._turn_away(connection)
            self._handover.close()
            self._refusals.sum_up()

    def keys_changed(self, keys: bytes) -> None:
        """Give the daemon another list of keys (`kept.to_json`), and every daemon to come."""
        self._handover.keys_changed(keys)

    def counts(self) -> dict[str, int]:
        """Return what has happened since the agent started, and how many there are now."""
        behind = self._handover.connections.values()
        return self._counts | {
            "daemon_starts": self._handover.starts,
            "unauthenticated": len(self._startups),
            "logged_in": sum(connection.logged_in for connection in behind),
            "penalised": self._penalties.refusing(self._clock()),
        }

    # -- at the door ----------------------------------------------------------------------------

    def _accept(self, listener: socket.socket) -> None:
        for _ in range(ACCEPTS):
            try:
                client, address = listener.accept()
            except BlockingIOError:
                return
            except ConnectionAbortedError:
                continue  # gone again
            except OSError as error:
                self._pause(listener, error)
                return
            self._starved = False
            self._receive(client, address[0])

    def _pause(self, listener: socket.socket, error: OSError) -> None:
        if not self._starved:
            log.error("cannot accept SSH connections now (%s), and try again every %g s",
                      error.strerror, PAUSE_SECONDS)  # fmt: skip
        self._starved = True
        _loop().remove_reader(listener)
        _loop().call_later(PAUSE_SECONDS, self._resume, listener)

    def _resume(self, listener: socket.socket) -> None:
        if listener.fileno() >= 0:
            _loop().add_reader(listener, self._accept, listener)

    def _receive(self, client: socket.socket, host: str) -> None:
        """Let somebody in as far as the door, unless they are penalised or too many."""
        self._counts["accepted"] += 1
        now = self._clock()
        if seconds := self._penalties.refused_for(host, now):
            self._refuse("refused", host, "too many failed logins")
            _dismiss(client, "too many failed logins from your address; "
                             f"try again in {math.ceil(seconds)} s")  # fmt: skip
            return
        client.setblocking(False)
        connection = Connection(next(self._numbers), host, now, client)
        self._waiting[connection.number] = connection
        _loop().add_reader(client, self._on_first_bytes, connection)
        connection.timer = _loop().call_later(SILENT_SECONDS, self._on_silence, connection)
        victim = self._startups.admit(
            connection.number, source_of(host), lambda source: self._penalties.trusts(source, now)
        )
        if victim is not None:
            self._drop(self._waiting.get(victim) or self._handover.connections[victim])

    def _drop(self, connection: Connection) -> None:
        self._refuse("dropped", connection.host, "too many connections that have not logged in")
        if connection.number in self._waiting:
            self._turn_away(connection, "too many connections; try again later")
        else:
            self._handover.drop(connection)

    def _on_first_bytes(self, connection: Connection) -> None:
        assert connection.client is not None
        try:
            first = connection.client.recv(len(PREFIX), socket.MSG_PEEK)
        except BlockingIOError:
            return
        except OSError:
            first = b""
        if not first:
            self._counts["probed"] += 1
            self._turn_away(connection)
        elif PREFIX.startswith(first):
            connection.spoke = True
            self._hand_over(connection)
        else:
            self._refuse("not_ssh", connection.host, "does not speak SSH")
            self._turn_away(connection, "this is an SSH server")

    def _on_silence(self, connection: Connection) -> None:
        """Hand over somebody who may be waiting for our banner, but not a prober."""
        left = connection.since + self._grace - self._clock()
        if left <= 0:
            # without a penalty: there are load balancers that open connections in advance
            self._refuse("silent", connection.host, "said nothing in the time to log in")
            self._turn_away(connection)
        elif wait := self._wait_for_banner(source_of(connection.host)):
            wait = min(wait, left, RECHECK_SECONDS)
            connection.timer = _loop().call_later(wait, self._on_silence, connection)
        else:
            self._hand_over(connection)

    def _wait_for_banner(self, source: str) -> float:
        now = self._clock()
        if self._penalties.trusts(source, now):
            return 0.0
        return self._silent_starts.wait(source, now, runs=self._handover.runs)

    def _hand_over(self, connection: Connection) -> None:
        self._counts["handed_over"] += 1
        left = max(connection.since + self._grace - self._clock(), 0.0)
        self._let_go(connection)
        self._handover.hand_over(connection, left)

    def _turn_away(self, connection: Connection, message: str = "") -> None:
        self._startups.remove(connection.number)
        _dismiss(self._let_go(connection), message)

    def _let_go(self, connection: Connection) -> socket.socket:
        """Watch it no longer; its socket is the caller's."""
        assert connection.client is not None
        assert connection.timer is not None
        _loop().remove_reader(connection.client)
        connection.timer.cancel()
        del self._waiting[connection.number]
        return connection.client

    def _refuse(self, counted: str, host: str, reason: str) -> None:
        self._counts[counted] += 1
        self._refusals.note(host, reason)

    # -- behind it ------------------------------------------------------------------------------

    def _on_event(self, event: Event, connection: Connection) -> None:
        match event:
            case Event.ADOPTED:
                self._startups.add(connection.number, source_of(connection.host))
                return
            case Event.WRONG_KEY:
                self._counts["wrong_keys"] += 1
                return
            case Event.SESSION_REFUSED:
                self._counts["sessions_refused"] += 1
                return
            case Event.LOGGED_IN:
                self._counts["logins"] += 1
                self._penalties.absolve(connection.host, self._clock())
            case Event.CLOSED:
                self._on_closed(connection)
            case Event.LOST:
                self._counts["lost"] += not connection.dropped
        self._startups.remove(connection.number)

    def _on_closed(self, connection: Connection) -> None:
        if connection.limit in LIMITS:
            self._counts[connection.limit] += 1
        if connection.logged_in:
            return
        now, source = self._clock(), source_of(connection.host)
        self._counts["failed_logins"] += bool(connection.wrong_keys)
        if now - connection.since >= self._grace:
            fault = Fault.GRACE_EXCEEDED
        elif connection.wrong_keys:
            fault = Fault.WRONG_KEYS
        elif connection.dropped:
            return  # that was us
        else:
            fault = Fault.NO_ATTEMPT
            if not connection.spoke:
                self._silent_starts.came_to_nothing(source, now)
        self._penalties.blame(connection.host, fault, now)


def _dismiss(client: socket.socket, message: str) -> None:
    """Close it, with a line before the banner that is not to come: RFC 4253 4.2 allows it."""
    with contextlib.suppress(OSError):
        if message:
            client.send(f"{message}\r\n".encode(), socket.MSG_DONTWAIT)
            # a close with something unread is a reset, which may overtake the message
            client.shutdown(socket.SHUT_WR)
            client.recv(LINE_BYTES, socket.MSG_DONTWAIT)
    client.close()


def _loop() -> asyncio.AbstractEventLoop:
    return asyncio.get_running_loop()
