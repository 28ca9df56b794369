"""What was handed to the SSH daemon, and what the daemon says of it.

Owns the link to the daemon. Never waits for it: PID 1 starts one when we connect, and what we
send waits in the socket.
"""

import asyncio
import enum
import logging
import os
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from run_agent.model import Layout
from run_agent.ssh import wire

HELLO_SECONDS = 30.0
"""How long a daemon may take to start and to greet; then the next one is tried."""

log = logging.getLogger("ssh")


def connect_to(layout: Layout) -> socket.socket:
    """Connect to where PID 1 starts the daemon; what is sent waits there. Raises `OSError`.

    Through the folder's descriptor: a socket's path may exceed 108 bytes (unix(7)).
    """
    path = layout.sshd_socket
    folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY)
    link = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        link.setblocking(False)  # where its queue is full that is an error, no reason to wait
        link.connect(f"/proc/self/fd/{folder}/{path.name}")
    except OSError:
        link.close()
        raise
    finally:
        os.close(folder)
    return link


@dataclass(slots=True, eq=False)
class Connection:
    """Somebody at the door or behind it, until they go."""

    number: int
    host: str
    since: float
    client: socket.socket | None = None
    """Closed once the daemon has it."""
    timer: asyncio.TimerHandle | None = None
    """When its silence is judged, while it is at the door."""
    spoke: bool = False
    """Before it was handed over."""
    dropped: bool = False
    resent: bool = False
    """To a second daemon, for the first was gone."""
    wrong_keys: int = 0
    logged_in: bool = False
    limit: str | None = None
    """Which one has ended it, as `wire` has them."""


class Event(enum.Enum):
    """What is told of a connection that was handed over."""

    ADOPTED = enum.auto()
    """A daemon that we did not know has it."""
    WRONG_KEY = enum.auto()
    SESSION_REFUSED = enum.auto()
    LOGGED_IN = enum.auto()
    CLOSED = enum.auto()
    LOST = enum.auto()
    """The daemon died, or none was reached."""


class Handover:
    """The connections that the daemon has, or is to get; `tell` hears what becomes of them."""

    def __init__(
        self,
        connect: Callable[[], socket.socket],
        tell: Callable[[Event, Connection], None],
        clock: Callable[[], float],
    ) -> None:
        self.connections: dict[int, Connection] = {}
        self.starts = 0
        self._connect, self._tell, self._clock = connect, tell, clock
        self._link: wire.Link | None = None
        self._keys: bytes | None = None
        self._greeting: asyncio.TimerHandle | None = None

    @property
    def runs(self) -> bool:
        """Whether there is a daemon, or will be in a moment."""
        return self._link is not None

    def resume(self) -> None:
        """Reach the daemon that a predecessor of ours has left; its greeting tells what it has."""
        if self._open() is not None:
            self.starts -= 1

    def hand_over(self, connection: Connection, grace: float) -> None:
        """Give it away, with the seconds that it still has to log in."""
        assert connection.client is not None
        self.connections[connection.number] = connection
        try:
            source = connection.client.getpeername()[:2]
            local = connection.client.getsockname()[:2]
        except OSError:  # gone just now
            self._lose(connection)
            return
        message = {"connection": connection.number, "source": source, "local": local}
        self._send(connection, message | {"grace": round(grace, 3)})

    def drop(self, connection: Connection) -> None:
        """Close it, or have the daemon do so."""
        assert self._link is not None
        connection.dropped = True
        if connection.client is not None and self._link.recall(connection.client):
            self._lose(connection)
        else:
            self._link.send({"drop": connection.number})

    def keys_changed(self, keys: bytes) -> None:
        """Give the daemon another list of keys, and every daemon to come."""
        self._keys = keys
        self._send_keys()

    def close(self) -> None:
        """Hang up. The daemon lives on, with what it has."""
        if self._link is not None:
            self._link.close()
            self._forget_link()

    def _send(self, connection: Connection, message: Mapping[str, Any]) -> None:
        link = self._link or self._open()
        if link is None:
            self._lose(connection)
        else:
            link.send(message, connection.client)

    def _open(self) -> wire.Link | None:
        try:
            peer = self._connect()
        except OSError as error:
            log.error("cannot reach the SSH daemon (%s); nobody can log in", error)
            return None
        self.starts += 1
        self._link = wire.Link(peer, heard=self._hear, lost=self._on_lost)
        self._greeting = asyncio.get_running_loop().call_later(
            HELLO_SECONDS, self._link.give_up, f"it has not greeted for {HELLO_SECONDS:g} s"
        )
        self._send_keys()
        return self._link

    def _send_keys(self) -> None:
        """Pass the list in memory: the volume may be full, or written to by others."""
        if self._link is not None and self._keys is not None:
            self._link.send({"keys": True}, wire.in_memory("ssh-keys", self._keys))

    def _forget_link(self) -> None:
        if self._greeting is not None:
            self._greeting.cancel()
        self._link = self._greeting = None

    def _lose(self, connection: Connection) -> None:
        if connection.client is not None:
            connection.client.close()
        del self.connections[connection.number]
        self._tell(Event.LOST, connection)

    def _on_lost(self, reason: str, undelivered: wire.Undelivered) -> None:
        """Forget what the daemon had; what it never got has one more try, with the next one."""
        self._forget_link()
        again = {m["connection"]: m for m, client in undelivered if client and "connection" in m}
        gone = [c for number, c in self.connections.items() if number not in again]
        if gone:
            log.warning("lost the SSH daemon (%s), and %d connections with it", reason, len(gone),
                        extra={"reason": reason, "count": len(gone)})  # fmt: skip
        for connection in gone:
            self._lose(connection)
        for number, message in again.items():
            waiting = self.connections.get(number)
            if waiting is None:
                continue  # the next daemon has gone as well
            if waiting.resent:
                self._lose(waiting)
            else:
                waiting.resent = True
                self._send(waiting, message)

    # -- what the daemon says -------------------------------------------------------------------

    def _hear(self, message: dict[str, Any], _: int | None) -> None:
        """Take a message; raise `ValueError` for what no daemon says.

        A number that we do not know is no error: a daemon outlives the link that it came over.
        """
        match message:
            case {"hello": {"unauthenticated": list(unauthenticated), "logged_in": list(inside)}}:
                self._on_hello(unauthenticated, inside)
            case {"failed": int(number)}:
                if (connection := self.connections.get(number)) is not None:
                    connection.wrong_keys += 1
                    self._tell(Event.WRONG_KEY, connection)
            case {"session_refused": int(number)}:
                if (connection := self.connections.get(number)) is not None:
                    self._tell(Event.SESSION_REFUSED, connection)
            case {"authenticated": int(number)}:
                self._on_authenticated(number)
            case {"closed": int(number)}:
                if (connection := self.connections.pop(number, None)) is not None:
                    connection.limit = message.get("limit")
                    self._tell(Event.CLOSED, connection)
            case {"idle": True}:
                self._on_idle()
            case _:
                raise ValueError(f"no message of a daemon: {', '.join(map(str, message))}")

    def _on_hello(self, unauthenticated: list[Any], inside: list[Any]) -> None:
        if self._greeting is not None:
            self._greeting.cancel()
        for number, host in unauthenticated + inside:
            if number not in self.connections:
                connection = Connection(number, host, self._clock(), spoke=True)
                self.connections[number] = connection
                self._tell(Event.ADOPTED, connection)
        for number, _ in inside:
            self._on_authenticated(number)

    def _on_authenticated(self, number: int) -> None:
        connection = self.connections.get(number)
        if connection is not None and not connection.logged_in:
            connection.logged_in = True
            self._tell(Event.LOGGED_IN, connection)

    def _on_idle(self) -> None:
        if self._link is not None and not self.connections:
            self._link.send({"bye": True})
            self.close()
