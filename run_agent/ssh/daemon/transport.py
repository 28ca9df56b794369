"""What asyncssh's transport (RFC 4253) leaves to the embedder: flow, sign of life, and a guess.

What a client does not take is bounded, and who takes it slowly is told from who has gone.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Sequence
from typing import Protocol

import asyncssh
from asyncssh.constants import MSG_IGNORE
from asyncssh.packet import SSHPacket, SSHPacketLogger

from run_agent.ssh.daemon.progress import Progress

OUTGOING_BYTES = 256 << 10
"""Sent but not taken by the client: beyond this nothing more is read for it, nor from it."""

KEX_LISTS_AT, GUESS_AT = 17, -5
"""Where in a KEXINIT its lists begin, after type and cookie, and whether a guess follows it."""


class Flow(Protocol):
    """What sends to the client, and can be held back."""

    def congest(self, *, congested: bool) -> None:
        """Send no more, or go on."""


class Transport(asyncssh.SSHServerConnection):
    """One connection's packets; whoever is at the other end."""

    def __init__(self, options: asyncssh.SSHServerConnectionOptions) -> None:
        super().__init__(asyncio.get_running_loop(), options)
        self.flows: set[Flow] = set()
        self.congested = False
        self.unresponsive = False
        """Whether it was ended for no answer came to keepalive."""
        self._stream: asyncio.Transport | None = None
        self._progress: Progress | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        assert isinstance(transport, asyncio.Transport)
        transport.set_write_buffer_limits(high=OUTGOING_BYTES)
        self._stream = transport
        self._progress = Progress(transport)
        super().connection_made(transport)

    def acknowledge(self) -> None:
        """Have the kernel acknowledge at once what came (tcp(7), TCP_QUICKACK), this once.

        Until the login many clients have Nagle's algorithm on: they hold the second of two small
        packets back until the first is acknowledged, which the kernel puts off for 40 ms.
        """
        wire = self.get_extra_info("socket")
        if wire is not None:
            with contextlib.suppress(OSError):  # it is gone already
                wire.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)

    def send_packet(
        self, pkttype: int, *args: bytes, handler: SSHPacketLogger | None = None
    ) -> None:
        """Send, without an empty packet before each one: those are for CBC ciphers alone."""
        if pkttype != MSG_IGNORE:
            super().send_packet(pkttype, *args, handler=handler)

    def pause_writing(self) -> None:
        """Hold back: the client does not take what was sent.

        asyncssh would keep as much as the channels' windows allow, which are the client's choice,
        and the answers to any number of requests.
        """
        self._congest(congested=True)

    def resume_writing(self) -> None:
        """Go on."""
        self._congest(congested=False)

    def _congest(self, *, congested: bool) -> None:
        self.congested = congested
        if self._stream is not None and not self._stream.is_closing():
            (self._stream.pause_reading if congested else self._stream.resume_reading)()
        for flow in list(self.flows):
            flow.congest(congested=congested)

    def _keepalive_timer_callback(self) -> None:
        """Count a miss of asyncssh's, which has no hook for it; a client that is slow has none.

        Its answer is behind all that it has yet to take, and while it is congested we read nothing.
        """
        if self._progress is not None and self._progress.made():
            self._keepalive_count = 0
            self._set_keepalive_timer()
            return
        self.unresponsive = self._keepalive_count >= self._keepalive_count_max
        super()._keepalive_timer_callback()

    def choose_server_host_key(self, peer_host_key_algs: Sequence[bytes]) -> bool:
        """Choose it, and skip the client's guessed packet where the guess was wrong.

        It was unless both sides' first key exchange and first host key are the same (RFC 4253, 7).
        asyncssh compares with what was agreed on, and so fails with dbclient, which always guesses.
        """
        offer = SSHPacket(self._client_kexinit[KEX_LISTS_AT:])
        key_exchanges, host_keys = offer.get_namelist(), offer.get_namelist()
        theirs = [*key_exchanges[:1], *host_keys[:1]]
        is_right = theirs == [self._kex_algs[0], next(iter(self._server_host_keys))]
        has_guessed = self._client_kexinit[GUESS_AT] != 0
        self._ignore_first_kex = has_guessed and not is_right
        return super().choose_server_host_key(peer_host_key_algs)
