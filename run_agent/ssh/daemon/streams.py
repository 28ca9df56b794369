"""Bytes between a channel and a descriptor, each direction with its own back-pressure.

Nothing is kept beyond one packet in either direction: a slow client leaves the output in the
pipe, whose writer then waits; a slow process leaves the input with the client, whose window closes.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
from collections.abc import Callable
from contextlib import ExitStack, suppress

import asyncssh

READ_BYTES = 64 << 10
"""Read at once: two packets of the usual 32 KiB."""

PIPE_BYTES = 1 << 20
"""What a pipe holds. With the usual 64 KiB the process and we would wait for each other at every
turn. An unprivileged account has a limit for all its pipes (pipe(7)); past it they stay small."""

STALL_LOOK_SECONDS = 1.0
"""How often a channel is looked at while a process does not take its input: asyncssh tells of the
channel's end only when all that it holds has been taken."""


def pipe(reader: ExitStack, writer: ExitStack) -> tuple[int, int]:
    """Return the two ends of a roomy pipe; each stack closes its own. Raises `OSError`."""
    read, write = os.pipe2(os.O_CLOEXEC)
    reader.callback(os.close, read)
    writer.callback(os.close, write)
    with suppress(OSError):
        fcntl.fcntl(write, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
    return read, write


class Output:
    """What a process writes, on its way to the client.

    Owns the descriptor. `kind` is asyncssh's: None for stdout, EXTENDED_DATA_STDERR for stderr.
    `ended` is called once, when all has been taken.
    """

    def __init__(
        self,
        channel: asyncssh.SSHServerChannel[bytes],
        descriptor: int,
        *,
        ended: Callable[[], None],
        kind: int | None = None,
    ) -> None:
        self.bytes = 0
        self.closed = False
        self._channel, self._descriptor, self._kind = channel, descriptor, kind
        self._ended = ended
        self._loop = asyncio.get_running_loop()
        self._held_back = False
        self._at_most: int | None = None
        os.set_blocking(descriptor, False)
        self._loop.add_reader(descriptor, self._read)

    def hold_back(self, *, back: bool) -> None:
        """Stop reading, or go on."""
        if self.closed or back is self._held_back:
            return
        self._held_back = back
        if back:
            self._loop.remove_reader(self._descriptor)
        elif self._at_most is None:
            self._loop.add_reader(self._descriptor, self._read)
        else:
            self._loop.call_soon(self._drain)

    def finish(self) -> None:
        """End when what is there now has been taken, whoever else might go on writing."""
        if self.closed or self._at_most is not None:
            return
        self._at_most = PIPE_BYTES  # neither a pipe nor a terminal holds more
        self._loop.remove_reader(self._descriptor)
        self._drain()

    def close(self) -> None:
        """End at once."""
        if not self.closed:
            self.closed = True
            self._loop.remove_reader(self._descriptor)
            os.close(self._descriptor)
            self._ended()

    def _drain(self) -> None:
        if self.closed or self._held_back or self._at_most is None:
            return
        if self._at_most <= 0 or not self._read():
            self.close()
        else:
            self._loop.call_soon(self._drain)  # others have their turn too

    def _read(self) -> bool:
        """Pass on what is there; return whether there was something."""
        try:
            content = os.read(self._descriptor, READ_BYTES)
        except BlockingIOError:
            return False
        except OSError as error:
            if error.errno != errno.EIO:  # nobody has the terminal open any more
                raise
            content = b""
        if not content:
            self.close()
            return False
        self.bytes += len(content)
        if self._at_most is not None:
            self._at_most -= len(content)
        try:
            self._channel.write(content, self._kind)
        except BrokenPipeError:  # the client has closed the channel
            self.close()
        return True


class Input:
    """What the client sends, on its way to a process. Owns the descriptor.

    `abandoned` tells whether the client has closed the channel.
    """

    def __init__(
        self,
        channel: asyncssh.SSHServerChannel[bytes],
        descriptor: int,
        *,
        abandoned: Callable[[], bool],
    ) -> None:
        self.bytes = 0
        self.last = b""
        """The last byte that came."""
        self._channel, self._descriptor, self._abandoned = channel, descriptor, abandoned
        self._loop = asyncio.get_running_loop()
        self._rest = memoryview(b"")
        self._ends = self._closed = False
        self._waiting: asyncio.TimerHandle | None = None
        os.set_blocking(descriptor, False)

    def write(self, content: bytes) -> None:
        """Pass it on; what the process does not take yet holds the client back."""
        self.bytes += len(content)
        self.last = content[-1:]
        self._add(content)

    def end(self, mark: bytes = b"") -> None:
        """Close it after all that came; with a `mark` (a terminal's), write that instead."""
        self._ends = not mark
        self._add(mark)

    def close(self) -> None:
        """End it at once."""
        if not self._closed:
            self._closed = True
            self._stop_waiting()
            os.close(self._descriptor)

    def _add(self, content: bytes) -> None:
        if self._closed:
            return  # the process has closed its stdin
        self._rest = memoryview(bytes(self._rest) + content if self._rest else content)
        self._flush()

    def _flush(self) -> None:
        try:
            self._write()
        except BlockingIOError:
            self._wait()
        except OSError as error:
            if error.errno not in {errno.EPIPE, errno.EIO}:
                raise
            self.close()  # whoever read it has gone
            self._channel.resume_reading()
        else:
            if self._stop_waiting():
                self._channel.resume_reading()  # brings more at once, so it comes last

    def _write(self) -> None:
        while self._rest:
            self._rest = self._rest[os.write(self._descriptor, self._rest) :]
        if self._ends:
            self.close()

    def _wait(self) -> None:
        if self._waiting is None:
            self._channel.pause_reading()
            self._loop.add_writer(self._descriptor, self._flush)
            self._look()

    def _look(self) -> None:
        self._waiting = self._loop.call_later(STALL_LOOK_SECONDS, self._look)
        if self._abandoned():
            self._channel.abort()

    def _stop_waiting(self) -> bool:
        """Return whether it waited."""
        if self._waiting is None:
            return False
        self._waiting.cancel()
        self._waiting = None
        self._loop.remove_writer(self._descriptor)
        return True
