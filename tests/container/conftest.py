"""What the tests in containers share. The first one of a machine waits until the image is built."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from support import images
from support.container_replica import Host
from support.ports import Ports

HERE = Path(__file__).parent

BUILD_AND_TEST_SECONDS = 900
"""For one test: each worker's first one may wait for the base, the wheels and the image."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give the tests of this folder the time that a first build takes."""
    for item in items:
        if HERE in item.path.parents and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(BUILD_AND_TEST_SECONDS))


@pytest.fixture
def image() -> str:
    """Return the tag of the image, built where it is not there yet."""
    return images.image()


@pytest.fixture
def ports() -> Iterator[Ports]:
    """Free ports of this machine, ours until the test ends."""
    ports = Ports()
    yield ports
    ports.close()


@pytest.fixture
def host(image: str, tmp_path: Path, ports: Ports) -> Iterator[Host]:
    """Give a folder that is the controller, and containers that boot from it."""
    with Host(tmp_path, ports) as host:
        yield host
