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
import threading
from collections.abc import Iterator
from dataclasses import dataclass

from support.need import need

CLONE_NEWNET = 0x40000000

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
        _run(*self.enter, *argv)

    def listen(self) -> socket.socket:
        """Open a listener on its loopback, for this process to serve."""
        opened: list[socket.socket] = []

        def enter_and_open() -> None:  # setns(2) is for the thread alone
            libc = ctypes.CDLL(None, use_errno=True)
            folder = os.open(f"/run/netns/{self.name}", os.O_RDONLY)
            if libc.setns(folder, CLONE_NEWNET) == 0:
                opened.append(socket.create_server(("127.0.0.1", 0)))
            os.close(folder)

        thread = threading.Thread(target=enter_and_open)
        thread.start()
        thread.join()
        return opened[0]


@contextlib.contextmanager
def pair() -> Iterator[tuple[Network, Network]]:
    """Make both; skips the test where that is not allowed."""
    need(os.geteuid() == 0 and shutil.which("ip"), "root and iproute2, for network namespaces")
    names = [f"run-agent-{os.getpid()}-{side}" for side in "ab"]
    networks = [Network(name, f"10.213.97.{host}") for host, name in enumerate(names, 1)]
    try:
        for name in names:
            done = subprocess.run(
                ["ip", "netns", "add", name], capture_output=True, text=True,
                timeout=IP_SECONDS, check=False,
            )  # fmt: skip
            need(done.returncode == 0, f"network namespaces ({done.stderr.strip()})")
        _run("ip", "-n", names[0], "link", "add", "cable", "type", "veth",
             "peer", "name", "cable", "netns", names[1])  # fmt: skip
        for network in networks:
            network.run("ip", "link", "set", "lo", "up")
            network.run("ip", "address", "add", f"{network.address}/30", "dev", "cable")
            network.run("ip", "link", "set", "cable", "up")
        yield networks[0], networks[1]
    finally:
        for name in names:
            subprocess.run(
                ["ip", "netns", "delete", name],
                capture_output=True,
                timeout=IP_SECONDS,
                check=False,
            )


def _run(*argv: str) -> None:
    subprocess.run(argv, check=True, capture_output=True, text=True, timeout=IP_SECONDS)
