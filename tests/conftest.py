"""What holds for every test: nothing that it started is left behind."""

import contextlib
from collections.abc import Iterator

import psutil
import pytest

LEAVE_SECONDS = 5.0
"""How long a process that was told to end may take, once all tests of a worker are done."""


@pytest.fixture(scope="session", autouse=True)
def no_process_left() -> Iterator[None]:
    """Fail, and end it, where a process of this test worker outlives the tests."""
    yield
    _, left = psutil.wait_procs(psutil.Process().children(recursive=True), LEAVE_SECONDS)
    names = [_command(process) for process in left]
    for process in left:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(left, LEAVE_SECONDS)
    assert not names, f"tests left processes behind: {'; '.join(names)}"


def _command(process: psutil.Process) -> str:
    try:
        return f"{process.pid} {process.status()} {' '.join(process.cmdline())}"
    except psutil.NoSuchProcess:
        return f"{process.pid} gone"
