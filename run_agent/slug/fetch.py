"""Fetch a slug from the agent's side: start the worker, ask it, listen to it, end it.

Owns the worker process, which holds all that is heavy; only `process` and `messages` are needed
here. Must not read or write the volume.
"""

import asyncio
import contextlib
import logging
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path

from run_agent import process
from run_agent.errors import RunAgentError, UnavailableError
from run_agent.model import Slug
from run_agent.slug import messages
from run_agent.slug.messages import Progress, Request

__all__ = ["Fetcher", "Progress", "Request", "start"]

log = logging.getLogger(__name__)

ANSWER_SECONDS = 5.0
"""How much later than its deadline the worker may tell that it is over; then it is killed."""

LEAVE_SECONDS = 12.0
"""How long a worker may take to end once its stdin has: a little longer than it gives itself."""

ARGV = (sys.executable, "-I", "-X", "utf8", "-m", "run_agent.slug.worker")
"""Isolated (`-I`) from variables that are the app's: PYTHONPATH, PYTHONSTARTUP and the like."""

LAST_WORDS_BYTES = 4096
"""What is kept of the end of the worker's stderr."""


@contextlib.asynccontextmanager
async def start(environ: Mapping[str, str]) -> AsyncIterator["Fetcher"]:
    """Start a worker, so that it is ready when the URL is known, and yield what asks it.

    `environ` is what its libraries may need: proxies, authorities, Google's credentials. A worker
    that has fetched stays until the tree is durable, for as long as this loop runs; any other is
    ended with the block. Raises `RunAgentError` where it cannot be started.
    """
    fetcher = Fetcher(await process.spawn(ARGV, env=_with_authorities(environ), cwd=Path("/")))
    try:
        yield fetcher
    finally:
        if not fetcher.has_fetched:
            await fetcher.close()


class Fetcher:
    """A worker that waits for its one request."""

    def __init__(self, worker: asyncio.subprocess.Process) -> None:
        self._worker = worker
        self._last_words = asyncio.create_task(
            _end_of(worker.stderr), name="reads the stderr of the slug worker"
        )
        self._end: asyncio.Task[None] | None = None

    @property
    def has_fetched(self) -> bool:
        """Whether the slug's tree is there; making it durable may take longer."""
        return self._end is not None

    async def fetch(
        self, request: Request, progress: Callable[[Progress], None], deadline: float
    ) -> Slug:
        """Return the slug, unpacked, within `deadline` seconds.

        Raises `UnavailableError`, `DeniedError`, `SlugError`, or `RunAgentError` for trouble with
        the volume or the worker.
        """
        try:
            async with asyncio.timeout(deadline + ANSWER_SECONDS):
                await self._ask(request, deadline)
                slug = await self._listen(request, progress)
        except TimeoutError:
            raise UnavailableError(
                f"cannot fetch slug {request.label} within {deadline:.3g} s: the worker hangs, "
                f"most likely in the disk of {request.deploys}; check that"
            ) from None
        self._end = asyncio.create_task(self._see_off(), name="waits until the slug is durable")
        _seen_off.add(self._end)
        self._end.add_done_callback(_seen_off.discard)
        return slug

    async def finished(self) -> None:
        """Wait until the tree that was fetched is durable, and the worker has ended."""
        assert self._end is not None
        await asyncio.shield(self._end)

    async def close(self) -> None:
        """End the worker, whatever it does; what it had written is removed."""
        assert self._worker.stdin is not None
        self._worker.stdin.close()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LEAVE_SECONDS):
                await self._worker.wait()
        if self._worker.returncode is None:
            await process.end_group(self._worker)
        self._last_words.cancel()

    async def _ask(self, request: Request, deadline: float) -> None:
        assert self._worker.stdin is not None
        # A worker that is gone already is noticed, with its last words, by listening.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self._worker.stdin.write(messages.request_line(request, deadline))
            await self._worker.stdin.drain()

    async def _listen(self, request: Request, progress: Callable[[Progress], None]) -> Slug:
        assert self._worker.stdout is not None
        while line := await self._worker.stdout.readline():
            match messages.parse_event(line, request.deploys):
                case Progress() as made:
                    progress(made)
                case messages.Notice(text):
                    log.warning("%s", text)
                case Slug() as slug:
                    return slug
                case RunAgentError() as error:
                    raise error
        code = process.exit_code(await self._worker.wait())
        raise RunAgentError(
            f"cannot fetch slug {request.label}: the worker ended with {code} "
            f"({await self._last_words or 'without a word: it was killed, often for memory'}); "
            "start again",
        )

    async def _see_off(self) -> None:
        """Have the worker make the tree durable and end; end it when this loop does."""
        try:
            code = process.exit_code(await self._worker.wait())
            if code:
                log.warning(
                    "cannot make the slug durable (the worker ended with %d: %s); after a power "
                    "cut it is fetched again", code, await self._last_words
                )  # fmt: skip
        finally:
            await self.close()


_seen_off: set[asyncio.Task[None]] = set()
"""The loop itself keeps no hold of a task."""


async def _end_of(stream: asyncio.StreamReader | None) -> str:
    """Read all of `stream` and return the last line of it."""
    assert stream is not None
    end = b""
    while part := await stream.read(LAST_WORDS_BYTES):
        end = (end + part)[-LAST_WORDS_BYTES:]
    lines = end.decode(errors="replace").strip().splitlines()
    return lines[-1] if lines else ""


def _with_authorities(environ: Mapping[str, str]) -> Mapping[str, str]:
    """Let requests, which knows a name of its own only, use the authorities OpenSSL would."""
    authorities = environ.get("SSL_CERT_FILE") or environ.get("SSL_CERT_DIR")
    return {"REQUESTS_CA_BUNDLE": authorities, **environ} if authorities else environ
