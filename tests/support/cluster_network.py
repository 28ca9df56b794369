"""A network of its own for a cluster: one bridge, and hosts with addresses of their own on it.

    with cluster_network.bridge() as bridge:      # itself a host, with the address to route by
        host = bridge.host()
        bridge.unplug(host)
        host.run("iptables", …)                   # `firewall` keeps others away

No machine's own network is touched: the bridge is in a namespace as well. So the same addresses
can be used by several tests at a time.
"""

import contextlib
import itertools
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field

from support import network
from support.need import need
from support.network import Network

SUBNET = "10.213.98"
FIRST_HOST = 11


@dataclass
class Bridge:
    """The namespace with the bridge in it; what its hosts route by."""

    network: Network
    _hosts: list[Network] = field(default_factory=list)
    _numbers: Iterator[int] = field(default_factory=lambda: itertools.count(FIRST_HOST))

    def host(self) -> Network:
        """Make a host with an address that none had before, and plug it in."""
        number = next(self._numbers)
        host = Network(f"{self.network.name}-{number}", f"{SUBNET}.{number}")
        network.make(host.name)
        self._hosts.append(host)
        port = _port(host)
        self.network.run("ip", "link", "add", port, "type", "veth",
                         "peer", "name", "eth0", "netns", host.name)  # fmt: skip
        self.network.run("ip", "link", "set", port, "master", "bridge")
        host.run("ip", "address", "add", f"{host.address}/24", "dev", "eth0")
        host.run("ip", "link", "set", "eth0", "up")
        self.plug(host)
        host.run("ip", "route", "add", "default", "via", self.network.address)
        return host

    def plug(self, host: Network) -> None:
        """Connect a host (again)."""
        self.network.run("ip", "link", "set", _port(host), "up")

    def unplug(self, host: Network) -> None:
        """Cut a host off: what it sends, and what is sent to it, is lost without a word."""
        self.network.run("ip", "link", "set", _port(host), "down")


@contextlib.contextmanager
def bridge() -> Iterator[Bridge]:
    """Make the bridge; skips the test where that is not allowed."""
    made = Bridge(Network(f"run-agent-{os.getpid()}-bridge", f"{SUBNET}.1"))
    try:
        network.make(made.network.name)
        made.network.run("ip", "link", "add", "bridge", "type", "bridge")
        made.network.run("ip", "address", "add", f"{SUBNET}.1/24", "dev", "bridge")
        made.network.run("ip", "link", "set", "bridge", "up")
        yield made
    finally:
        for each in (*made._hosts, made.network):
            network.remove(each.name)


def firewall(host: Network, *ports: int) -> None:
    """Let others open connections to these TCP ports of the host alone; skips without iptables."""
    need(shutil.which("iptables"), "iptables, for a firewall")
    rules = [("-i", "lo"), ("-p", "tcp", "!", "--syn")]
    rules += [("-p", "tcp", "--dport", str(port)) for port in ports]
    for rule in rules:
        host.run("iptables", "-A", "INPUT", *rule, "-j", "ACCEPT")
    host.run("iptables", "-A", "INPUT", "-j", "DROP")


def _port(host: Network) -> str:
    return f"to-{host.address.rpartition('.')[2]}"
