"""Whether a client takes what was sent to it, as its kernel acknowledges that (tcp(7))."""

from __future__ import annotations

import asyncio
import fcntl
import socket
import struct
import termios

TCP_INFO_BYTES = 256
"""More than the kernel has to tell."""

ACKNOWLEDGED = struct.Struct("=120xQ")
"""`tcpi_bytes_acked` of its answer (linux/tcp.h, since Linux 4.2)."""

UNTAKEN = struct.Struct("=i")


class Progress:
    """What a client takes from one look to the next."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._stream: socket.socket = transport.get_extra_info("socket")
        self._acknowledged, self._waited = 0, False

    def made(self) -> bool:
        """Whether the client has taken some of what waited for it when this was last asked.

        Where nothing had to wait that says nothing: what fits into its kernel's buffer, as our
        questions do, is acknowledged for a program that has stopped.
        """
        before, waited = self._acknowledged, self._waited
        try:
            self._acknowledged, self._waited = _acknowledged(self._stream), self._waits()
        except (OSError, struct.error):  # it has gone, or this kernel does not tell
            return False
        return waited and self._acknowledged > before

    def _waits(self) -> bool:
        if self._transport.get_write_buffer_size():
            return True
        answer = fcntl.ioctl(self._stream.fileno(), termios.TIOCOUTQ, bytes(UNTAKEN.size))
        return bool(UNTAKEN.unpack(answer)[0])


def _acknowledged(stream: socket.socket) -> int:
    told = stream.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, TCP_INFO_BYTES)
    acknowledged: int = ACKNOWLEDGED.unpack_from(told)[0]
    return acknowledged
