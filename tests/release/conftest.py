"""What tests with real releases share."""

import contextlib
import os
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from support import by_hand
from support.need import need
from support.platform import Platform
from support.ports import Ports
from support.wait import until

EPMD_SECONDS = 10.0
"""How long epmd may take for one answer."""


@pytest.fixture
def reserved() -> Iterator[Ports]:
    """Free ports, ours until the test ends."""
    ports = Ports()
    yield ports
    ports.close()


@pytest.fixture
def epmd(reserved: Ports) -> Iterator[dict[str, str]]:
    """Run an epmd of this test's own; yields the variables by which a VM finds it.

    A VM that finds none starts a daemon, which would be left behind; and with one epmd for all,
    no node name could be used twice at a time.
    """
    program = shutil.which("epmd")
    need(program, "no epmd on the PATH (`make system` installs it)")
    port = reserved.free()
    with subprocess.Popen((program, "-port", str(port), "-address", "127.0.0.1")) as process:
        try:
            until(lambda: _answers(port), f"epmd does not answer on {port}")
            yield {"ERL_EPMD_PORT": str(port)}
        finally:
            process.terminate()


@pytest.fixture
def ports(reserved: Ports) -> tuple[int, int]:
    """Return two free ports, for PORT and TCP_PORT."""
    return reserved.free(), reserved.free()


@pytest.fixture
def environment(epmd: dict[str, str], ports: tuple[int, int], tmp_path: Path) -> dict[str, str]:
    """Give a release its environment, with a node name and ports of this test's own."""
    return epmd | by_hand.environment(ports, tmp_path)


@pytest.fixture
def read_only(request: pytest.FixtureRequest) -> Callable[[Path], None]:
    """Return what makes a folder read-only, as the root of a container may be."""

    def remount(folder: Path) -> None:
        need(os.geteuid() == 0, "root, to mount")
        bound = subprocess.run(
            ("mount", "--bind", folder, folder), capture_output=True, check=False
        )
        need(bound.returncode == 0, f"no folder can be mounted here: {bound.stderr.decode()}")
        request.addfinalizer(lambda: subprocess.run(("umount", "--lazy", folder), check=True))
        subprocess.run(("mount", "-o", "remount,bind,ro", folder), check=True)

    return remount


def _answers(port: int) -> bool:
    """Ask for the names; epmd complains on stderr of a connection that asks nothing."""
    with (
        contextlib.suppress(OSError),
        socket.create_connection(("127.0.0.1", port), timeout=EPMD_SECONDS) as connection,
    ):
        connection.sendall(b"\0\1n")
        return bool(connection.recv(4))
    return False


@pytest.fixture
def platform(reserved: Ports, tmp_path: Path) -> Iterator[Platform]:
    """Give a controller and a storage, and `run-agent init hello` beside them.

    Every replica starts, and must end, an epmd of its own.
    """
    settings = {name: str(reserved.free()) for name in ("ERL_EPMD_PORT", "TCP_PORT")}
    with Platform(tmp_path, reserved, **settings) as platform:
        yield platform
