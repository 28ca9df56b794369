"""Load on a release while it changes: HTTP requests, and connections whose state must survive.

    with load.Http(port, per_second=500) as http, load.Connections(tcp_port, 50) as connections:
        …                              # upgrade it
        versions = connections.check()
    assert http.report.failed == {}

The requests come from a process of their own. Talks to 127.0.0.1 only. Nothing is ever tried
again: what fails is reported, or fails the test.
"""

import asyncio
import contextlib
import json
import socket
import subprocess
import sys
import time
from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Self

HOST = "127.0.0.1"

LONGEST_SECONDS = 900.0
"""A load ends by itself after so long, whatever becomes of the test."""

MOST_PER_SECOND = 2000.0

MOST_IN_FLIGHT = 1000
"""Requests for which there is no answer yet; one more is not sent, and counts as failed."""

ANSWER_SECONDS = 10.0
"""A request, or line, without an answer for so long has failed."""

REPORT_SECONDS = 30.0
"""How long the process may take to finish what is in flight, and to report."""

NEW_EVERY = 5
"""Each request of so many opens a connection of its own; the others use those kept alive."""


@dataclass(frozen=True)
class Report:
    """What became of the requests; `failed` counts reasons, `versions` the versions that answered.

    `slowest_ms` is from sending a request (with a new connection, from opening it) to the end of
    its answer, `longest_gap_ms` from one answer to the next, whichever requests they belong to.
    """

    sent: int = 0
    answered: int = 0
    failed: dict[str, int] = field(default_factory=dict)
    versions: dict[str, int] = field(default_factory=dict)
    slowest_ms: float = 0.0
    longest_gap_ms: float = 0.0


class Http:
    """Sends `GET /` so often, from when the first was answered until the block's end."""

    def __init__(self, port: int, per_second: float = 500.0) -> None:
        assert 0 < per_second <= MOST_PER_SECOND
        self.report = Report()
        self._argv = (sys.executable, __file__, str(port), str(per_second))

    def __enter__(self) -> Self:
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(self._argv, stdin=pipe, stdout=pipe, text=True)
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if line != "started\n":  # the report is all that it says
            with self._process:
                self._process.kill()
            self.report = Report(**json.loads(line))
            raise AssertionError(f"the first request failed: {self.report.failed}")
        return self

    def __exit__(self, *_: object) -> None:
        """Take the report; closing its stdin ends the process, as our own end would."""
        try:
            said = self._process.communicate(timeout=REPORT_SECONDS)[0]
            self.report = Report(**json.loads(said))
        finally:
            self._process.kill()
            self._process.wait()


class Connections:
    """So many connections of the line protocol, opened once and never again."""

    def __init__(self, port: int, count: int) -> None:
        self._open = [socket.create_connection((HOST, port), ANSWER_SECONDS) for _ in range(count)]
        self._lines = 0

    def __enter__(self) -> Self:
        self.check()
        return self

    def __exit__(self, *_: object) -> None:
        for connection in self._open:
            connection.close()

    def check(self) -> dict[str, int]:
        """Send a line on each, and return how many answered as which version.

        Raises AssertionError with what is wrong with which of them: closed, silent, or a state
        that has not gone on from the line before.
        """
        self._lines += 1
        broken = {}
        versions: Counter[str] = Counter()
        for number, connection in enumerate(self._open):
            with contextlib.suppress(OSError):  # told by what is read
                connection.sendall(f"line {self._lines} of {number}\n".encode())
        for number, connection in enumerate(self._open):
            answer = _answer(connection)
            version, _node, count, text = (*answer.split(" ", 3), "", "", "", "")[:4]
            if count == str(self._lines) and text.startswith(f"line {self._lines} of {number}"):
                versions[version] += 1
            else:
                broken[number] = answer
        assert not broken, f"{len(broken)} of {len(self._open)} connections lost: {broken}"
        return dict(versions)


def _answer(connection: socket.socket) -> str:
    """Return one line, or in its place why there is none."""
    answer = b""
    try:
        while not answer.endswith(b"\n"):
            piece = connection.recv(1 << 16)
            if not piece:
                return f"closed after {answer!r}"
            answer += piece
    except OSError as error:
        return f"{type(error).__name__} after {answer!r}"
    return answer.decode()


class _Load:
    """The requests of the process, and their count."""

    def __init__(self, port: int, per_second: float) -> None:
        self._port = port
        self._pause = 1 / per_second
        self._idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
        self._in_flight: set[asyncio.Task[None]] = set()
        self._sent = 1  # the first, by which we know that the release answers
        self._failed: Counter[str] = Counter()
        self._versions: Counter[str] = Counter()
        self._slowest = 0.0
        self._gap = 0.0
        self._last = time.monotonic()

    async def run(self, ended: asyncio.Event) -> Report:
        """Send until `ended`, then wait for what is in flight; only once where that fails."""
        await self._request(new=True)
        if self._failed:
            return self._report()
        self._slowest = self._gap = 0.0
        print("started", flush=True)  # noqa: T201
        start = time.monotonic()
        while not ended.is_set() and time.monotonic() < start + LONGEST_SECONDS:
            due = start + (self._sent - 1) * self._pause
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(ended.wait(), max(0.0, due - time.monotonic()))
            self._send()
        await asyncio.gather(*self._in_flight)
        for _, writer in self._idle:
            writer.close()
        return self._report()

    def _send(self) -> None:
        self._sent += 1
        if len(self._in_flight) >= MOST_IN_FLIGHT:
            self._failed[f"{MOST_IN_FLIGHT} in flight"] += 1
            return
        task = asyncio.create_task(self._request(new=self._sent % NEW_EVERY == 0))
        self._in_flight.add(task)
        task.add_done_callback(self._in_flight.discard)

    async def _request(self, *, new: bool) -> None:
        begun = time.monotonic()
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                version = await self._exchange(new=new)
        except (OSError, EOFError, ValueError) as error:  # EOFError: cut in the middle of an answer
            self._failed[f"{type(error).__name__}: {error}"] += 1
            return
        now = time.monotonic()
        self._versions[version] += 1
        self._slowest = max(self._slowest, now - begun)
        self._gap = max(self._gap, now - self._last)
        self._last = now

    async def _exchange(self, *, new: bool) -> str:
        """Return the version that answered; raises ValueError where that is no success."""
        if new or not self._idle:
            reader, writer = await asyncio.open_connection(HOST, self._port)
        else:
            reader, writer = self._idle.pop()
        try:
            how = "close" if new else "keep-alive"
            writer.write(f"GET / HTTP/1.1\r\nHost: x\r\nConnection: {how}\r\n\r\n".encode())
            version = await _version_in_answer(reader)
        except BaseException:
            writer.close()
            raise
        if new:
            writer.close()
        else:
            self._idle.append((reader, writer))
        return version

    def _report(self) -> Report:
        return Report(
            self._sent,
            self._versions.total(),
            dict(self._failed),
            dict(self._versions),
            round(self._slowest * 1000, 1),
            round(self._gap * 1000, 1),
        )


async def _version_in_answer(reader: asyncio.StreamReader) -> str:
    head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
    length = int(head.split("content-length:", 1)[1].split("\r\n", 1)[0])
    body = (await reader.readexactly(length)).decode()
    status = head.split(" ", 2)[1]
    if status != "200":
        raise ValueError(f"status {status}")
    return body.split(" ", 1)[0].removeprefix("version=")


async def _main(port: int, per_second: float) -> None:
    ended = asyncio.Event()
    asyncio.get_running_loop().add_reader(sys.stdin, ended.set)
    report = await _Load(port, per_second).run(ended)
    print(json.dumps(asdict(report)))  # noqa: T201


if __name__ == "__main__":
    asyncio.run(_main(int(sys.argv[1]), float(sys.argv[2])))
