"""The far side of the scp protocol (as OpenSSH's scp.c speaks it; there is no standard).

Its clients: `scp -O`, scp before OpenSSH 9.0, pscp. One side sends records (`C` a file, `D` a
folder, `E` its end, `T` times) and contents, the other answers each with a zero byte, or with 1
(this failed, go on) or 2 (all is lost) and a line of text. Runs in a thread and blocks there.
"""

from __future__ import annotations

import errno
import glob
import os
import stat
from contextlib import closing
from typing import TYPE_CHECKING, NamedTuple

from run_agent.ssh.files.opened import LONGEST_READ, File, expand_home

if TYPE_CHECKING:
    from run_agent.ssh.files.ledger import Ledger
    from run_agent.ssh.files.scp_command import Command, Word
    from run_agent.ssh.files.stream import Stream

LONGEST_RECORD = 16 << 10
"""Longer than any name that a file system takes."""

DEEPEST = 200
"""Folders within folders; a client could otherwise send them until our stack ends."""


class Broken(Exception):  # noqa: N818 - what it is, and it never leaves the transfer
    """The client has gone, or does not speak the protocol: no more can be said to it."""


def serve(stream: Stream, command: Command, folder: bytes, home: bytes, ledger: Ledger) -> int:
    """Send or receive what `command` says; return the exit status: 1 where anything failed."""
    end = End(stream)
    try:
        if command.sends:
            end.need_answer()
            sender = Sender(end, command, folder, ledger)
            for word in command.paths:
                for path in expand(word, folder, home):
                    sender.send(path)
        else:
            targets = expand(command.paths[0], folder, home)
            Receiver(end, command, folder, ledger).receive(targets)
    except (Broken, ConnectionError):
        return 1
    except OSError as error:
        end.refuse(error)
    return int(end.failed)


def expand(word: Word, folder: bytes, home: bytes) -> list[bytes]:
    """Do what a shell does to a word: `~`, then wildcards; without a match it stays as it is.

    Raises `OSError` where `~` names nobody.
    """

    def expanded(text: str) -> bytes:
        return expand_home(os.fsencode(text), home) if word.home else os.fsencode(text)

    if word.pattern is not None:
        found = glob.glob(expanded(word.pattern), root_dir=folder)
        if found:
            return sorted(found)
    return [expanded(word.text)]


class End:
    """Our end of the conversation."""

    def __init__(self, stream: Stream) -> None:
        self._stream, self._rest = stream, b""
        self.failed = False

    def agree(self) -> None:
        """Say yes."""
        self.say(b"\0")

    def say(self, record: bytes) -> None:
        """Send a record, or a part of a file."""
        self._stream.send([record])

    def refuse(self, error: OSError, path: bytes = b"") -> None:
        """Say that this failed, and that the rest goes on."""
        self.failed = True
        reason = os.fsencode(error.strerror or str(error))
        self.say(b"\1scp: " + (_one_line(path) + b": " if path else b"") + reason + b"\n")

    def give_up(self, reason: bytes) -> Broken:
        """Say that nothing goes on; return what to raise."""
        self.say(b"\2scp: protocol error: " + reason + b"\n")
        return Broken(reason.decode(errors="replace"))

    def need_answer(self) -> bool:
        """Wait for the other end's answer; False where it could not do its part."""
        answer = self.take(1)
        if answer == b"\0":
            return True
        self.failed = True
        self.line()
        if answer == b"\1":
            return False
        raise Broken("the other end gave up")

    def line(self) -> bytes:
        """Take a record, without its newline; nothing where no more is sent."""
        while b"\n" not in self._rest:
            if len(self._rest) > LONGEST_RECORD:
                raise self.give_up(b"record too long")
            arrived = self._stream.receive()
            if not arrived:
                if self._rest:
                    raise Broken("cut off within a record")
                return b""
            self._rest += arrived
        line, _, self._rest = self._rest.partition(b"\n")
        return line

    def take(self, most: int) -> bytes:
        """Take up to `most` bytes, at least one. Raises `Broken` at the end."""
        taken = self._rest or self._stream.receive()
        if not taken:
            raise Broken("cut off")
        taken, self._rest = taken[:most], taken[most:]
        return taken


class Sender:
    """Sends files and folders to the client (-f)."""

    def __init__(self, end: End, command: Command, folder: bytes, ledger: Ledger) -> None:
        self._end, self._command = end, command
        self._folder, self._ledger = folder, ledger

    def send(self, path: bytes, depth: int = 0) -> None:
        """Send what is at `path`, or say why not."""
        path = path.rstrip(b"/") or path[:1]
        try:
            self._send(path, depth)
        except ConnectionError:
            raise
        except OSError as error:
            self._end.refuse(error, path)

    def _send(self, path: bytes, depth: int) -> None:
        place = os.path.join(self._folder, path)
        found = os.stat(place)
        if stat.S_ISREG(found.st_mode):
            self._send_file(path, place)
        elif not stat.S_ISDIR(found.st_mode) or not self._command.recursive:
            raise OSError(errno.EINVAL, "not a regular file")
        elif depth > DEEPEST:
            raise OSError(errno.ELOOP, "Folders too deep")
        else:
            self._send_folder(path, found, depth)

    def _send_folder(self, path: bytes, found: os.stat_result, depth: int) -> None:
        names = os.listdir(os.path.join(self._folder, path))
        if not self._record(b"D", found, 0, path):
            return
        for name in sorted(names):
            self.send(os.path.join(path, name), depth + 1)
        self._end.say(b"E\n")
        self._end.need_answer()

    def _send_file(self, path: bytes, place: bytes) -> None:
        line = self._ledger.opened(place, "read")
        try:
            descriptor = os.open(place, os.O_RDONLY | os.O_NONBLOCK)
        except OSError as error:
            line.close(error=error.strerror)
            raise
        with closing(File(descriptor, line)) as file:
            found = os.fstat(descriptor)
            if not self._record(b"C", found, found.st_size, path):
                return
            if failed := self._send_content(file, found.st_size):
                self._end.refuse(failed, path)
            else:
                self._end.agree()
        self._end.need_answer()

    def _send_content(self, file: File, size: int) -> OSError | None:
        """Send exactly `size` bytes, as announced: zeros once reading has failed."""
        at, failed = 0, None
        while at < size:
            length = min(LONGEST_READ, size - at)
            block = b""
            if failed is None:
                try:
                    block = file.read(length, at)
                except OSError as error:
                    failed = error
                if not block:
                    failed = failed or OSError(errno.EIO, "the file became shorter")
            self._end.say(block or bytes(length))
            at += len(block) or length
        return failed

    def _record(self, kind: bytes, found: os.stat_result, size: int, path: bytes) -> bool:
        """Announce a file or folder; False where the client does not want it."""
        if self._command.preserve:
            times = b"T%d 0 %d 0\n" % (max(int(found.st_mtime), 0), max(int(found.st_atime), 0))
            self._end.say(times)
            if not self._end.need_answer():
                return False
        mode = stat.S_IMODE(found.st_mode)
        self._end.say(b"%b%04o %d %b\n" % (kind, mode, size, _one_line(os.path.basename(path))))
        return self._end.need_answer()


class Announced(NamedTuple):
    """A file or folder that the client is about to send."""

    is_folder: bool
    mode: int
    size: int
    name: bytes


class Receiver:
    """Receives files and folders from the client (-t)."""

    def __init__(self, end: End, command: Command, folder: bytes, ledger: Ledger) -> None:
        self._end, self._command = end, command
        self._folder, self._ledger = folder, ledger

    def receive(self, targets: list[bytes]) -> None:
        """Receive all that the client sends into the one target."""
        if len(targets) != 1:
            raise OSError(errno.EINVAL, "ambiguous target")
        target = os.path.join(self._folder, targets[0])
        if self._command.to_folder and not os.path.isdir(target):
            raise OSError(errno.ENOTDIR, f"{os.fsdecode(targets[0])}: Not a directory")
        self._receive_into(target, 0)

    def _receive_into(self, target: bytes, depth: int) -> None:
        self._end.agree()
        into_folder = os.path.isdir(target)
        times = None
        while (record := self._end.line()) and record != b"E":
            if record[:1] in (b"\1", b"\2"):
                self._end.failed = True
                if record[:1] == b"\2":
                    raise Broken("the other end gave up")
            elif record[:1] == b"T":
                times = self._times(record)
                self._end.agree()
            else:
                announced = self._announced(record)
                place = os.path.join(target, announced.name) if into_folder else target
                self._receive(announced, place, times, depth)
                times = None
        if record:
            self._end.agree()
        elif depth:
            raise Broken("cut off within a folder")

    def _receive(
        self, announced: Announced, place: bytes, times: tuple[int, int] | None, depth: int
    ) -> None:
        try:
            if announced.is_folder:
                self._receive_folder(announced, place, depth)
                if times and self._command.preserve:
                    os.utime(place, times)
            else:
                self._receive_file(announced, place, times)
        except ConnectionError:
            raise
        except OSError as error:
            self._end.refuse(error, place)

    def _receive_folder(self, announced: Announced, place: bytes, depth: int) -> None:
        if not self._command.recursive or depth > DEEPEST:
            raise self._end.give_up(b"a folder that was not asked for")
        existed = os.path.isdir(place)
        if not existed:
            with self._ledger.change("make folder", place):
                # until it is full, its owner must be able to write into it
                os.mkdir(place, announced.mode | stat.S_IRWXU)
        self._receive_into(place, depth + 1)
        if self._command.preserve:
            os.chmod(place, announced.mode)
        elif not existed and announced.mode & stat.S_IRWXU != stat.S_IRWXU:
            os.chmod(place, stat.S_IMODE(os.stat(place).st_mode) & announced.mode)

    def _receive_file(
        self, announced: Announced, place: bytes, times: tuple[int, int] | None
    ) -> None:
        line = self._ledger.opened(place, "write")
        try:
            descriptor = os.open(
                place, os.O_WRONLY | os.O_CREAT | os.O_NONBLOCK, announced.mode | stat.S_IWUSR
            )
        except OSError as error:
            line.close(error=error.strerror)
            raise
        with closing(File(descriptor, line)) as file:
            failed = self._receive_content(file, announced.size)
            if failed is None:
                failed = self._finish(file, announced, times)
        if not self._end.need_answer():
            return
        if failed is not None:
            raise failed
        self._end.agree()

    def _receive_content(self, file: File, size: int) -> OSError | None:
        """Take exactly `size` bytes, also once writing has failed."""
        self._end.agree()
        at, failed = 0, None
        while at < size:
            block = self._end.take(min(LONGEST_READ, size - at))
            if failed is None:
                try:
                    file.write(memoryview(block), at)
                except OSError as error:
                    failed = error
            at += len(block)
        return failed

    def _finish(
        self, file: File, announced: Announced, times: tuple[int, int] | None
    ) -> OSError | None:
        """Cut off what an older, longer file had; set what is to be preserved."""
        try:
            if stat.S_ISREG(os.fstat(file.descriptor).st_mode):
                os.ftruncate(file.descriptor, announced.size)
            if self._command.preserve:
                os.fchmod(file.descriptor, announced.mode)
                if times:
                    os.utime(file.descriptor, times)
        except OSError as error:
            file.error = error.strerror
            return error
        return None

    def _times(self, record: bytes) -> tuple[int, int]:
        fields = record[1:].split(b" ")
        if len(fields) != 4 or not all(field.isdigit() for field in fields):
            raise self._end.give_up(b"times")
        return int(fields[2]), int(fields[0])

    def _announced(self, record: bytes) -> Announced:
        fields = record[1:].split(b" ", 2)
        if record[:1] not in (b"C", b"D") or len(fields) != 3:
            raise self._end.give_up(b"unexpected record")
        mode, size, name = fields
        if not (size.isdigit() and mode.isdigit() and not set(mode) - set(b"01234567")):
            raise self._end.give_up(b"mode or size")
        if name in (b"", b".", b"..") or b"/" in name or b"\0" in name:
            raise self._end.give_up(b"unexpected filename")
        return Announced(record[:1] == b"D", int(mode, 8) & 0o7777, int(size), name)


def _one_line(name: bytes) -> bytes:
    """Write a name so that it cannot end a record: as OpenSSH does (vis(3), VIS_NL)."""
    return name.replace(b"\n", b"\\^J")
