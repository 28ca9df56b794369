"""The daemon's life: takes connections from the door, judges those that live, and ends when idle.

Owns the link to the door (`run_agent.ssh.wire`) and the set of connections. Who may log in is
`admission`, how is `connection`. Without a door the connections that are there go on.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
import time
from typing import Any

import asyncssh

from run_agent.ssh import wire
from run_agent.ssh.daemon import algorithms
from run_agent.ssh.daemon.admission import Admission
from run_agent.ssh.daemon.connection import Arrival, Connection, Limit
from run_agent.ssh.daemon.requests import Requests
from run_agent.ssh.daemon.site import Site

BYE_SECONDS = 10.0
"""How often the door is asked whether we may go. No answer is a no: somebody is on the way."""

JUDGE_SECONDS = 60.0
"""At most so long after its key's expiry a session may live where the clock was set."""

PAUSE_SECONDS = 1.0
"""How long no door is let in where the kernel has no descriptor or no memory for it."""

END_SECONDS = 15.0
"""How long everything may take in the end: HUP, TERM and KILL for the last session fit in it."""

log = logging.getLogger("ssh")


def turn_away(listener: socket.socket) -> None:
    """Hang up on a door that waits, and with it on whom it hands over: we cannot serve.

    Left waiting, it would make PID 1 start us again and again.
    """
    listener.setblocking(False)
    with contextlib.suppress(OSError):  # nobody waits any more, or we have no descriptor for it
        while True:
            listener.accept()[0].close()


async def serve(site: Site, listener: socket.socket, host_key: asyncssh.SSHKey) -> None:
    """Serve whoever the door at `listener` hands over, until idle or told to end by TERM."""
    service = Service(site, listener, host_key)
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, service.stop)
    try:
        await service.run()
    finally:
        loop.remove_signal_handler(signal.SIGTERM)


class Service:
    """All connections of one daemon."""

    def __init__(self, site: Site, listener: socket.socket, host_key: asyncssh.SSHKey) -> None:
        self._site, self._listener = site, listener
        self._options = algorithms.options(site.options, host_key, Requests)
        self._admission = Admission(site.app, site.options)
        self._loop = asyncio.get_running_loop()
        self._connections: dict[int, Connection] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._link: wire.Link | None = None
        self._starved = False
        self._retry: asyncio.TimerHandle | None = None
        self._used_at = time.monotonic()
        self._judging: asyncio.TimerHandle | None = None
        self._changed = asyncio.Event()
        """A connection or the link has come or gone, or we are to stop."""
        self._stopping = False

    async def run(self) -> None:
        """Live."""
        self._listener.setblocking(False)
        self._listen()
        self._open_link()  # whoever made PID 1 start us
        self._judge()
        try:
            while not await self._may_go():
                pass
        finally:
            self._listen_no_more()
            if self._link is not None:
                self._link.close()
            await self._end()

    def stop(self) -> None:
        """End soon, and everybody's sessions in order."""
        self._stopping = True
        self._changed.set()

    # -- its end ----------------------------------------------------------------------------------

    async def _may_go(self) -> bool:
        """Wait until we have been idle; then ask the door. Whoever came meanwhile is served."""
        while not self._stopping and (wait := self._seconds_in_use()) != 0:
            await self._change(wait)
        if self._link is not None and not self._stopping:
            self._link.send({"idle": True})
            await self._change(BYE_SECONDS)
        return self._stopping or (self._link is None and self._seconds_in_use() == 0)

    def _seconds_in_use(self) -> float | None:
        """Return how long we are to stay at least, None while a connection is there.

        Only a login counts as use; who never logs in keeps us for as long as it is here.
        """
        if self._connections or self._tasks:
            return None
        return max(0.0, self._used_at + self._site.options.ssh_idle_seconds - time.monotonic())

    async def _change(self, seconds: float | None) -> None:
        """Wait until something has changed, or for so many seconds."""
        self._changed.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._changed.wait()

    async def _end(self) -> None:
        """End the connections that are left, and wait for their sessions' processes."""
        for connection in list(self._connections.values()):
            connection.end("the SSH daemon is stopping")
        try:
            async with asyncio.timeout(END_SECONDS):
                if self._connections:
                    await asyncio.wait(
                        [self._loop.create_task(connection.wait_closed(), name="closes")
                         for connection in self._connections.values()]
                    )  # fmt: skip
                await self._site.children.settle()
        except TimeoutError:
            log.warning("cannot wait longer than %g s for what sessions have left", END_SECONDS)

    # -- the door ---------------------------------------------------------------------------------

    def _listen(self) -> None:
        self._loop.add_reader(self._listener, self._open_link)

    def _listen_no_more(self) -> None:
        self._loop.remove_reader(self._listener)
        if self._retry is not None:
            self._retry.cancel()

    def _open_link(self) -> None:
        """Take a door's connection, in place of the one before: there is one agent."""
        try:
            peer, _ = self._listener.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return
        except OSError as error:
            self._pause(error)
            return
        self._starved = False
        if self._link is not None:
            self._link.close()
        self._link = wire.Link(peer, heard=self._heard, lost=self._link_lost)
        known: dict[str, list[list[Any]]] = {"unauthenticated": [], "logged_in": []}
        for number, connection in self._connections.items():
            state = "unauthenticated" if connection.login is None else "logged_in"
            known[state].append([number, connection.arrival.source[0]])
        self._tell({"hello": known})
        self._changed.set()

    def _pause(self, error: OSError) -> None:
        """Look away for a while, as it stays ready: we would do nothing else."""
        if not self._starved:
            log.error("cannot let the agent in now (%s), and try again every %g s",
                      error.strerror, PAUSE_SECONDS)  # fmt: skip
        self._starved = True
        self._listen_no_more()
        self._retry = self._loop.call_later(PAUSE_SECONDS, self._listen)

    def _link_lost(self, reason: str, _unsent: wire.Undelivered) -> None:
        log.info("the agent has hung up (%s); sessions go on", reason)
        self._link = None
        self._changed.set()

    def _tell(self, message: dict[str, Any]) -> None:
        if self._link is not None:
            self._link.send(message)

    def _heard(self, message: dict[str, Any], descriptor: int | None) -> None:
        if "connection" in message:
            stream = None if descriptor is None else socket.socket(fileno=descriptor)
            self._receive(_arrival(message), stream)
        elif "drop" in message:
            connection = self._connections.get(message["drop"])
            if connection is not None and connection.login is None:
                connection.end("too many connections; try again later")
        elif "keys" in message:
            if descriptor is None:  # the agent sends the list again with its next link
                raise ValueError("the keys did not come with it: too many files are open")
            self._admission.take(wire.read_passed(descriptor))
            self._judge()
        elif "bye" in message and self._link is not None:
            self._link.close()
            self._link = None
            self._changed.set()

    # -- connections ------------------------------------------------------------------------------

    def _receive(self, arrival: Arrival, stream: socket.socket | None) -> None:
        if stream is None:
            # the kernel drops it where we have no descriptor free
            log.warning("cannot take a connection from %s: too many files are open",
                        arrival.source[0])  # fmt: skip
            self._tell(_closed(arrival.number, "too many files are open", login=False))
            return
        stream.setblocking(False)
        task = self._loop.create_task(self._connect(arrival, stream), name="begins a connection")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _connect(self, arrival: Arrival, stream: socket.socket) -> None:
        connection = Connection(self._options, arrival, self._site, self._admission, self)
        self._connections[arrival.number] = connection
        try:
            await self._loop.connect_accepted_socket(lambda: connection, sock=stream)
        except OSError as error:  # it is gone already
            stream.close()
            connection.lost(error)

    def authenticated(self, connection: Connection) -> None:
        """Tell the door; it forgives the source."""
        self._used_at = time.monotonic()
        self._tell({"authenticated": connection.arrival.number})

    def failed(self, connection: Connection) -> None:
        """Tell the door; it counts."""
        self._tell({"failed": connection.arrival.number})

    def session_refused(self, connection: Connection) -> None:
        """Tell the door; it counts."""
        self._tell({"session_refused": connection.arrival.number})

    def closed(self, connection: Connection, reason: str) -> None:
        """Forget it."""
        number, login = connection.arrival.number, connection.login is not None
        if self._connections.pop(number, None) is None:
            return
        if login:
            self._used_at = time.monotonic()
        self._tell(_closed(number, reason, login=login, limit=connection.limit))
        self._changed.set()

    # -- judging those that live ------------------------------------------------------------------

    def _judge(self) -> None:
        """End every login that would not be admitted now, and look again when a key expires."""
        if self._judging is not None:
            self._judging.cancel()
        for connection in list(self._connections.values()):
            if connection.login is not None:
                objection = self._admission.objection(connection.login)
                if objection is not None:
                    connection.end(objection)
        expiry = self._admission.seconds_to_expiry()
        wait = JUDGE_SECONDS if expiry is None else min(expiry, JUDGE_SECONDS)
        self._judging = self._loop.call_later(wait, self._judge)


def _arrival(message: dict[str, Any]) -> Arrival:
    """Parse a connection's message; raises `KeyError`, `TypeError` or `ValueError`."""
    (host, port), (here, local_port) = message["source"], message["local"]
    return Arrival(
        int(message["connection"]),
        (str(host), int(port)),
        (str(here), int(local_port)),
        float(message["grace"]),
    )


def _closed(number: int, reason: str, *, login: bool, limit: Limit | None = None) -> dict[str, Any]:
    return {"closed": number, "login": login, "reason": reason, "limit": limit}
