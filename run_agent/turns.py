"""Turns at the release's start script: two calls at once disturb each other with some tools.

Owns the one lock for all of them, `RUN/release_script.lock` (flock(2)), which the kernel takes
back from whoever dies. Runs no script itself.
"""

import contextlib
import fcntl
import os
import time
from collections.abc import AsyncIterator
from pathlib import Path

from run_agent import files
from run_agent.errors import RunAgentError

TURN_SECONDS = 60.0
"""How long a call waits for another one: longer than the slowest upgrade by a script."""

POLL_SECONDS = 0.05
"""Between two looks at the lock: flock(2) can wait, but not until a deadline."""


@contextlib.asynccontextmanager
async def take(run: Path, what: str, deadline: float = TURN_SECONDS) -> AsyncIterator[int]:
    """Have the script for ourselves within the block, waiting up to `deadline` seconds.

    Yields the descriptor that holds the turn: a script that inherits it keeps the turn as long as
    it lives. Where we are killed that is until PID 1, which kills what we leave in our session,
    has ended it; so long our successor waits for its turn. `what` names the call to people
    (`hello upgrade`). Not re-entrant. Raises `RunAgentError`: 75 past the deadline, 74 where the
    run folder cannot be written.
    """
    import asyncio  # noqa: PLC0415 - the verbs that become a script do without

    descriptor = _opened(run)
    try:
        end = time.monotonic() + deadline
        while not _locked(descriptor):
            _refuse_past(end, run, what, deadline)
            await asyncio.sleep(POLL_SECONDS)
        yield descriptor
    finally:
        os.close(descriptor)


def take_for_good(run: Path, what: str, deadline: float = TURN_SECONDS) -> None:
    """Have the script for ourselves until this process ends, whatever program it becomes.

    Blocks; otherwise as `take`.
    """
    descriptor = _opened(run)
    try:
        end = time.monotonic() + deadline
        while not _locked(descriptor):
            _refuse_past(end, run, what, deadline)
            time.sleep(POLL_SECONDS)
    except BaseException:
        os.close(descriptor)
        raise
    os.set_inheritable(descriptor, True)


def _opened(run: Path) -> int:
    with files.writing_run_folder(run):
        return os.open(_path(run), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)


def _path(run: Path) -> Path:
    return run / "release_script.lock"


def _locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _refuse_past(end: float, run: Path, what: str, deadline: float) -> None:
    if time.monotonic() >= end:
        raise RunAgentError(
            f"cannot run {what}: another call of this script has not ended within "
            f"{deadline:g} s, and two at once disturb each other; try again, or see who holds "
            f"{_path(run)}",
            exit_code=os.EX_TEMPFAIL,
        )
