"""Between the agent's door and the SSH daemon: one JSON object per packet, and descriptors.

A Unix socket of type SEQPACKET keeps messages whole, so that a descriptor belongs to the message
it came with. It is opened by PID 1, which starts the daemon when somebody connects there.

From the door:
- `{"connection": N, "source": [host, port], "local": [host, port], "grace": seconds}` and its
  descriptor: somebody who wants in, and how long logging in may still take. No number comes twice.
- `{"drop": N}`: close it if it has not logged in; others want in (MaxStartups).
- `{"keys": true}` and a descriptor of the list that is in force now (`kept`), in memory.
- `{"bye": true}`: the answer to `idle`. Nothing more comes over this link; whoever comes next
  waits at the listener, for the next daemon.

From the daemon:
- `{"hello": {"unauthenticated": [[N, host], …], "logged_in": [[N, host], …]}}`, first on each link:
  what it has already, for an agent that was started again.
- `{"authenticated": N}`, `{"failed": N}` (one wrong key), `{"session_refused": N}` (one more than
  it may have).
- `{"closed": N, "login": whether it had logged in, "reason": text, "limit": name}`: the limit that
  ended it (`too_many_attempts`, `too_slow`, `unresponsive`), null where it was something else.
- `{"idle": true}`: may I go? No answer: no, somebody is on the way; ask again later.
"""

import asyncio
import json
import os
import socket
import struct
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO

PACKET_BYTES = 64 << 10
"""Largest message; the kernel takes more, and none of ours comes near."""

_DESCRIPTOR = struct.Struct("i")  # unix(7), SCM_RIGHTS

STUCK_SECONDS = 10.0
"""How long the other end may take nothing while something waits; then it counts as gone."""


def send(link: socket.socket, message: Mapping[str, Any], descriptor: int | None = None) -> None:
    """Send one message, with a descriptor if given. Raises `OSError` where the other has gone."""
    descriptors = [] if descriptor is None else [descriptor]
    socket.send_fds(link, [json.dumps(message).encode()], descriptors)


def receive(link: socket.socket) -> tuple[dict[str, Any], int | None] | None:
    """Take one message and the descriptor it came with; None where the other has gone.

    Raises `BlockingIOError` where none is there, `OSError` and `ValueError` for a broken peer.
    """
    # not socket.recv_fds, which ignores its flags: what a session starts would inherit it
    room = socket.CMSG_LEN(_DESCRIPTOR.size)
    packet, ancillary, _, _ = link.recvmsg(PACKET_BYTES, room, socket.MSG_CMSG_CLOEXEC)
    if not packet:
        return None
    message: dict[str, Any] = json.loads(packet)
    descriptors = [_DESCRIPTOR.unpack(content)[0] for _, _, content in ancillary]
    return message, descriptors[0] if descriptors else None


Passed = socket.socket | BinaryIO
"""What goes over with a message; our copy is closed then."""

Undelivered = list[tuple[Mapping[str, Any], Passed | None]]


def in_memory(name: str, content: bytes) -> BinaryIO:
    """Return a file that lies on no volume, to be passed (memfd_create(2))."""
    file = os.fdopen(os.memfd_create(name), "w+b", buffering=0)
    file.write(content)
    return file


def read_passed(descriptor: int) -> bytes:
    """Return what such a file holds, and close it."""
    with os.fdopen(descriptor, "rb") as file:
        file.seek(0)  # the position came with it
        return file.read()


class Link:
    """One end in an event loop, which it never holds up: what the socket does not take waits.

    `heard` gets every message. `lost` is called once, unless we `close`: with the reason, and with
    what was not sent; its sockets are the callee's then.
    """

    def __init__(
        self,
        peer: socket.socket,
        *,
        heard: Callable[[dict[str, Any], int | None], None],
        lost: Callable[[str, Undelivered], None],
    ) -> None:
        peer.setblocking(False)
        self._peer, self._heard, self._lost = peer, heard, lost
        self._loop = asyncio.get_running_loop()
        self._outbox: deque[tuple[Mapping[str, Any], Passed | None]] = deque()
        self._stuck: asyncio.TimerHandle | None = None
        self._loop.add_reader(peer, self._read)

    def send(self, message: Mapping[str, Any], passed: Passed | None = None) -> None:
        """Send `message`, and with it a descriptor; our copy is closed once it is sent."""
        self._outbox.append((message, passed))
        if self._stuck is None:
            self._write()

    def recall(self, passed: socket.socket) -> bool:
        """Take a socket back, with its message; return whether it had not been sent yet."""
        for waiting in self._outbox:
            if waiting[1] is passed:
                self._outbox.remove(waiting)
                return True
        return False

    def close(self) -> None:
        """Hang up. What still waits is not sent."""
        self._hang_up()
        for _, passed in self._outbox:
            if passed is not None:
                passed.close()

    def give_up(self, reason: str) -> None:
        """Take the other end for gone."""
        self._hang_up()
        self._lost(reason, list(self._outbox))

    def _write(self) -> None:
        before = len(self._outbox)
        try:
            while self._outbox:
                message, passed = self._outbox[0]
                send(self._peer, message, None if passed is None else passed.fileno())
                self._outbox.popleft()
                if passed is not None:
                    passed.close()
        except BlockingIOError:
            self._wait(taken=before - len(self._outbox))
        except OSError as error:
            self.give_up(f"{error.strerror}")
        else:
            self._stop_waiting()

    def _wait(self, *, taken: int) -> None:
        if self._stuck is None:
            self._loop.add_writer(self._peer, self._write)
        elif taken:
            self._stuck.cancel()
        else:
            return  # it was woken for nothing
        self._stuck = self._loop.call_later(
            STUCK_SECONDS, self.give_up, f"it has taken nothing for {STUCK_SECONDS:g} s"
        )

    def _stop_waiting(self) -> None:
        if self._stuck is not None:
            self._stuck.cancel()
            self._stuck = None
            self._loop.remove_writer(self._peer)

    def _read(self) -> None:
        """Take one message; the loop calls again where there are more."""
        try:
            received = receive(self._peer)
            if received is None:
                self.give_up("it has gone")
            else:
                self._heard(*received)
        except BlockingIOError:
            return
        except (OSError, ValueError, KeyError, TypeError) as error:
            self.give_up(f"it is not understood: {error!r}")

    def _hang_up(self) -> None:
        self._stop_waiting()
        self._loop.remove_reader(self._peer)
        self._peer.close()
