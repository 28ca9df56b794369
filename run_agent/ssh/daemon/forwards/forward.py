"""Forwarded ports: bytes between a channel and a TCP connection to this replica's own ports.

`Forwards` are those of one SSH connection; `destination` says where they may lead. A slow side
holds the other one back: of what was read, no more is kept than one buffer's worth.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable
from typing import cast

import asyncssh

from run_agent.ssh.daemon.audit import Entry
from run_agent.ssh.daemon.forwards import destination
from run_agent.ssh.daemon.forwards.destination import Endpoint
from run_agent.ssh.daemon.forwards.look_ups import LookUps
from run_agent.ssh.daemon.site import Login, Site

MOST = 256
"""Forwards of one connection at once: a browser behind `-D` opens many."""

CONNECT_SECONDS = 5.0
"""What one of our own addresses may take to answer; longer only with a full backlog."""

LINGER_SECONDS = 5.0
"""How long the near end may take for what is still buffered when the client has gone."""


class Forwards:
    """All forwards of one connection, whose owner tells us when it is `congested` and closed.

    `refuse` tells whoever is to know that something was refused: what, why, and further fields.
    """

    def __init__(self, site: Site, login: Login, refuse: Callable[..., None]) -> None:
        self._site = site
        self._login = login
        self._refuse = refuse
        self._look_ups = LookUps()
        self._waiting = 0
        self._open: set[Forward] = set()
        self._closed = False
        self.congested = False

    async def request(self, host: str, port: int) -> Forward:
        """Connect to `host` and `port`: what a `direct-tcpip` request (RFC 4254, 7.2) asks for.

        Raises `asyncssh.ChannelOpenError`, which tells the client why not; so does the audit.
        """
        try:
            return await self._connect(host, port)
        except asyncssh.ChannelOpenError as refusal:
            self._refuse("forward", refusal.reason, destination=_spell(host, port))
            raise

    async def _connect(self, host: str, port: int) -> Forward:
        if self._waiting + len(self._open) >= MOST:
            raise asyncssh.ChannelOpenError(
                asyncssh.OPEN_RESOURCE_SHORTAGE, f"{MOST} forwards are open already"
            )
        self._waiting += 1
        try:
            look_up = self._look_ups.look_up
            endpoints = await destination.find(self._login.key, host, port, look_up)
            stream = await _connect(endpoints)
            entry = self._site.audit.open("forward", self._login, destination=_spell(host, port))
            forward = Forward(self, entry)
            await asyncio.get_running_loop().create_connection(forward.near_end, sock=stream)
        finally:
            self._waiting -= 1
        if self._closed:  # while we were connecting
            forward.abort()
            raise asyncssh.ChannelOpenError(
                asyncssh.OPEN_CONNECT_FAILED, "the connection has closed"
            )
        self._open.add(forward)
        return forward

    def congest(self, *, congested: bool) -> None:
        """Hold back what goes to the client, or let it go on.

        For when the SSH connection itself takes no more: a channel's window may be larger than
        our memory, and is the client's choice.
        """
        self.congested = congested
        for forward in self._open:
            forward.adjust_flow()

    def close(self) -> None:
        """End all of them, and those that are still connecting: the connection has gone."""
        self._closed = True
        for forward in list(self._open):
            forward.abort()

    def forget(self, forward: Forward) -> None:
        """Count it no more: it has closed."""
        self._open.discard(forward)


class Forward(asyncssh.SSHTCPSession[bytes]):
    """One of them: the channel's end. Each direction ends by itself; after both, so does this."""

    def __init__(self, owner: Forwards, entry: Entry) -> None:
        self._owner = owner
        self._entry = entry
        self._channel: asyncssh.SSHTCPChannel[bytes] | None = None
        self._near: asyncio.Transport
        self._held_back = False
        self._ended_directions = 0
        self._closed = False
        self._bytes_in = 0
        self._bytes_out = 0

    # The channel's events

    def connection_made(self, chan: asyncssh.SSHTCPChannel[bytes]) -> None:
        """Start: the client knows now that we have connected."""
        self._channel = chan
        self.adjust_flow()

    def data_received(self, data: bytes, _datatype: int | None) -> None:
        """Pass on what the client sent."""
        self._bytes_in += len(data)
        self._near.write(data)

    def eof_received(self) -> bool:
        """Pass on that the client has ended its direction; the other one stays open."""
        if self._near.can_write_eof() and not self._near.is_closing():
            self._near.write_eof()
        self._end_direction()
        return True

    def pause_writing(self) -> None:
        """Read no more for a client that does not take it."""
        self._held_back = True
        self.adjust_flow()

    def resume_writing(self) -> None:
        """Go on reading."""
        self._held_back = False
        self.adjust_flow()

    def connection_lost(self, exc: Exception | None) -> None:
        """End: the channel has gone."""
        self._close("closed by the client" if exc is None else str(exc))

    # The near end's events

    def near_end(self) -> asyncio.Protocol:
        """Return what listens to the TCP connection."""
        return _NearEnd(self)

    def near_made(self, near: asyncio.Transport) -> None:
        """Keep the connection; nothing is read before the client knows of it."""
        self._near = near
        near.pause_reading()

    def near_data(self, data: bytes) -> None:
        """Pass on what the near end sent."""
        if self._channel is not None and not self._channel.is_closing():
            self._bytes_out += len(data)
            self._channel.write(data)

    def near_eof(self) -> None:
        """Pass on that the near end has ended its direction."""
        if self._channel is not None:
            self._channel.write_eof()
        self._end_direction()

    def near_lost(self, error: Exception | None) -> None:
        """End: the TCP connection has gone; a reset is an end like another."""
        self._close("closed by the near end" if error is None else _reason(error))

    def near_full(self, *, full: bool) -> None:
        """Take no more from the client than the near end takes."""
        if self._channel is not None:
            (self._channel.pause_reading if full else self._channel.resume_reading)()

    # Both

    def adjust_flow(self) -> None:
        """Read from the near end exactly while client and connection take it."""
        if self._channel is None or self._held_back or self._owner.congested:
            self._near.pause_reading()
        else:
            self._near.resume_reading()

    def abort(self) -> None:
        """End at once, and drop what is buffered."""
        self._near.abort()
        self._close("the connection has closed")

    def _end_direction(self) -> None:
        self._ended_directions += 1
        if self._ended_directions == 2:
            self._close("")

    def _close(self, reason: str) -> None:
        if self._closed:
            return
        self._closed = True
        self._owner.forget(self)
        if self._channel is not None:
            self._channel.close()
        self._near.close()
        asyncio.get_running_loop().call_later(LINGER_SECONDS, self._near.abort)
        self._entry.close(bytes_in=self._bytes_in, bytes_out=self._bytes_out, reason=reason)


class _NearEnd(asyncio.Protocol):
    """Tells a forward what happens at its TCP connection."""

    def __init__(self, forward: Forward) -> None:
        self._forward = forward

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._forward.near_made(cast(asyncio.Transport, transport))

    def data_received(self, data: bytes) -> None:
        self._forward.near_data(data)

    def eof_received(self) -> bool:
        self._forward.near_eof()
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        self._forward.near_lost(exc)

    def pause_writing(self) -> None:
        self._forward.near_full(full=True)

    def resume_writing(self) -> None:
        self._forward.near_full(full=False)


async def _connect(endpoints: list[Endpoint]) -> socket.socket:
    """Connect to the first that answers: an app may listen on IPv4 or on IPv6 alone."""
    failure: OSError | None = None
    for endpoint in endpoints:
        try:
            return await _connect_to(endpoint)
        except OSError as error:  # a deadline is one too
            failure = failure or error
    raise asyncssh.ChannelOpenError(asyncssh.OPEN_CONNECT_FAILED, _reason(failure))


async def _connect_to(endpoint: Endpoint) -> socket.socket:
    stream = socket.socket(destination.family(endpoint), socket.SOCK_STREAM)
    try:
        stream.setblocking(False)
        stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        async with asyncio.timeout(CONNECT_SECONDS):
            await asyncio.get_running_loop().sock_connect(stream, endpoint)
    except BaseException:
        stream.close()
        raise
    return stream


def _reason(error: Exception | None) -> str:
    if isinstance(error, TimeoutError) and error.errno is None:
        return f"no answer within {CONNECT_SECONDS:g} s"
    number = error.errno if isinstance(error, OSError) else None
    return os.strerror(number) if number is not None else str(error)


def _spell(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
