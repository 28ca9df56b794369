"""A client's close, kept back until the exit status is out.

A client that has sent and received the end of file has nothing left to say and closes its channel
at once (RFC 4254, 5.3), but still wants the exit status. asyncssh answers the close by its own,
after which nothing can be sent.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import asyncssh
from asyncssh.constants import MSG_CHANNEL_CLOSE
from asyncssh.packet import SSHPacket


class Closing:
    """Keeps a close of this channel while `wanted`, until `release`."""

    def __init__(
        self, channel: asyncssh.SSHServerChannel[bytes], wanted: Callable[[], bool]
    ) -> None:
        self._wanted = wanted
        self._kept: tuple[int, SSHPacket] | None = None
        self._process = channel.process_packet
        channel.process_packet = self._look  # type: ignore[method-assign] # there is no hook

    def release(self) -> None:
        """Let the channel have it."""
        if self._kept is not None:
            self._process(MSG_CHANNEL_CLOSE, *self._kept)
            self._kept = None

    def _look(self, pkttype: int, pktid: int, packet: SSHPacket) -> bool | Awaitable[None]:
        if pkttype == MSG_CHANNEL_CLOSE and self._kept is None and self._wanted():
            self._kept = pktid, packet
            return True
        return self._process(pkttype, pktid, packet)
