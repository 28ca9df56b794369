"""Two networks beside the machine's own, joined by a cable: a server's and a client's.

with network.pair() as (server, client):
    server.run("ip", "address", "add", "192.0.2.1/32", "dev", "lo")
    subprocess.run([*client.enter, "ssh", server.address])
"""

import contextlib
import ctypes
import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from support.need import need

CLONE_NEWNET = 0x40000000
OURS = Path("/proc/thread-self/ns/net")

IP_SECONDS = 20.0


@dataclass(frozen=True)
class Network:
    """A network namespace, with loopback and one end of the cable."""

    name: str
    address: str

    @property
    def enter(self) -> tuple[str, ...]:
        """What a command is prefixed with to run in it."""
        return ("ip", "netns", "exec", self.name)

    def run(self, *argv: str) -> None:
        run(*self.enter, *argv)

    @contextlib.contextmanager
    def joined(self) -> Iterator[None]:
        """Have the sockets and processes that this thread makes in the block be in it."""
        with OURS.open("rb") as ours, Path("/run/netns", self.name).open("rb") as other:
            _enter(other)
            try:
                yield
            finally:
                _enter(ours)

    def listen(self) -> socket.socket:
        """Open a listener on its loopback, for this process to serve."""
        with self.joined():
            return socket.create_server(("127.0.0.1", 0))


@contextlib.contextmanager
def pair() -> Iterator[tuple[Network, Network]]:
    """Make both; skips the test where that is not allowed."""
    names = [f"run-agent-{os.getpid()}-{side}" for side in "ab"]
    networks = [Network(name, f"10.213.97.{host}") for host, name in enumerate(names, 1)]
    try:
        for name in names:
            make(name)
        run("ip", "-n", names[0], "link", "add", "cable", "type", "veth",
            "peer", "name", "cable", "netns", names[1])  # fmt: skip
        for network in networks:
            network.run("ip", "address", "add", f"{network.address}/30", "dev", "cable")
            network.run("ip", "link", "set", "cable", "up")
        yield networks[0], networks[1]
    finally:
        for name in names:
            remove(name)


def make(name: str) -> None:
    """Make a network namespace with nothing in it; skips the test where that is not allowed."""
    need(os.geteuid() == 0 and shutil.which("ip"), "root and iproute2, for network namespaces")
    done = subprocess.run(
        ["ip", "netns", "add", name], capture_output=True, text=True,
        timeout=IP_SECONDS, check=False,
    )  # fmt: skip
    need(done.returncode == 0, f"network namespaces ({done.stderr.strip()})")
    run("ip", "-n", name, "link", "set", "lo", "up")


def remove(name: str) -> None:
    """Remove a namespace, if it is there, with the ends of cables in it."""
    argv = ["ip", "netns", "delete", name]
    subprocess.run(argv, capture_output=True, timeout=IP_SECONDS, check=False)


def run(*argv: str) -> None:
    subprocess.run(argv, check=True, capture_output=True, text=True, timeout=IP_SECONDS)


def _enter(namespace: IO[bytes]) -> None:
    """Enter it, with this thread alone (setns(2))."""
    if ctypes.CDLL(None, use_errno=True).setns(namespace.fileno(), CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "cannot enter a network namespace")
