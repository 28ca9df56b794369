"""A control group of our own (cgroup v1, where a test can set limits without being systemd)."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from support.need import need
from support.wait import until

ROOT = Path("/sys/fs/cgroup")


@contextmanager
def group(controller: str) -> Iterator[Path]:
    """Make a group below ours; in the end kill whoever is left in it, and remove it."""
    folder = _own(controller) / f"run-agent-test-{os.getpid()}-{os.urandom(4).hex()}"
    try:
        folder.mkdir()
    except OSError as error:
        need(condition=False, reason=f"a writable cgroup v1 of {controller} ({error.strerror})")
        pytest.skip("no such group")
    try:
        yield folder
    finally:
        until(lambda: _is_emptied(folder), f"somebody is left in {folder}")
        folder.rmdir()


def entered(folder: Path) -> tuple[str, ...]:
    """Return a wrapper: whatever follows runs in the group from its start."""
    return ("sh", "-c", f'echo $$ > "{folder}/cgroup.procs" && exec "$@"', "sh")


def _is_emptied(folder: Path) -> bool:
    left = (folder / "cgroup.procs").read_text().split()
    for pid in left:
        with suppress(ProcessLookupError):
            os.kill(int(pid), signal.SIGKILL)
    return not left


def _own(controller: str) -> Path:
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if controller in controllers.split(","):
            return ROOT / controller / path.lstrip("/")
    return ROOT / controller
