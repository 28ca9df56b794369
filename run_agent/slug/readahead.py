"""Let a source of chunks work ahead in a thread of its own, so that the stages overlap.

Owns the thread and the bound on what waits between two stages.
"""

import contextlib
import queue
import threading
from collections.abc import Generator, Iterator

Chunk = bytes | memoryview

SLOTS = 16
"""Chunks that may wait: a few megabytes, which ride out a stage that is slow for a moment."""


@contextlib.contextmanager
def ahead(source: Generator[Chunk], name: str) -> Iterator[Iterator[Chunk]]:
    """Yield an iterator over what `source`, run in the thread `name`, has produced.

    What `source` raises is raised by the iterator. In the end the source is closed, in its own
    thread, once it has produced the chunk it is at.
    """
    waiting: queue.Queue[Chunk | BaseException | None] = queue.Queue(SLOTS)
    given_up = threading.Event()

    def produce() -> None:
        outcome: BaseException | None = None
        try:
            with contextlib.closing(source):
                for chunk in source:
                    waiting.put(chunk)
                    if given_up.is_set():
                        return
        except BaseException as error:  # noqa: BLE001 - raised again where it is waited for
            outcome = error
        waiting.put(outcome)

    def consume() -> Iterator[Chunk]:
        while isinstance(chunk := waiting.get(), Chunk):
            yield chunk
        if chunk is not None:
            raise chunk

    threading.Thread(target=produce, name=name, daemon=True).start()
    try:
        yield consume()
    finally:
        given_up.set()
        with contextlib.suppress(queue.Empty):
            while True:  # makes room for what the thread may be waiting to put
                waiting.get_nowait()
        waiting.put(None)  # for a consumer in another thread, which may be waiting
