"""What the tests of real processes share."""

import itertools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from support.kubernetes_api import KubernetesApi
from support.platform import Platform
from support.ports import Ports
from support.replica import Replica, need_namespaces
from support.told_pod import POD

Start = Callable[..., Replica]


@pytest.fixture
def ports() -> Iterator[Ports]:
    """Free ports, ours until the test ends."""
    ports = Ports()
    yield ports
    ports.close()


@pytest.fixture
def start(tmp_path: Path, ports: Ports) -> Iterator[Start]:
    """Start `run-agent exec -- COMMAND…` as an ordinary process, or with `verb` something else.

    Every one gets a root of its own, unless `root` names one; it runs there. `programs` are bash
    scripts to put there, by name.
    """
    replicas: list[Replica] = []
    numbers = itertools.count()

    def start(
        *command, verb=("exec", "--"), root=None, programs=(), settings=None, **options
    ) -> Replica:
        root = root or tmp_path / f"replica-{next(numbers)}"
        for name, text in dict(programs).items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_text(f"#!/bin/bash\n{text}\n")
            (root / name).chmod(0o755)
        replica = Replica(root, [*verb, *command], ports=ports, settings=settings, **options)
        replicas.append(replica)
        return replica

    yield start
    for replica in replicas:
        replica.end()


@pytest.fixture
def api() -> Iterator[KubernetesApi]:
    """Give an API of Kubernetes that knows our pod."""
    with KubernetesApi() as api:
        api.add(POD)
        yield api


@pytest.fixture
def boot_in_pod(platform: Platform, api: KubernetesApi, tmp_path: Path) -> Start:
    """Boot `hello` in the pod, each time on the same volume; settings by name."""
    root = tmp_path / "pod"
    account = api.mount(root) | {"POD_NAME": POD["metadata"]["name"]}

    def boot(*, wrapper: Sequence[str] = (), **settings: str) -> Replica:
        return platform.boot(root=root, settings=account | settings, wrapper=wrapper)

    return boot


@pytest.fixture(params=["pid-1", "ordinary"])
def boot(request, start: Start) -> Start:
    """Do the same once as PID 1 of a namespace, and once as an ordinary process."""
    as_pid_1 = request.param == "pid-1"
    if as_pid_1:
        need_namespaces()

    def boot(*command, **options) -> Replica:
        return start(*command, as_pid_1=as_pid_1, **options)

    return boot


@pytest.fixture
def platform(tmp_path: Path, ports: Ports) -> Iterator[Platform]:
    """Give a controller and a storage, and `run-agent init hello` beside them."""
    with Platform(tmp_path, ports) as platform:
        yield platform
