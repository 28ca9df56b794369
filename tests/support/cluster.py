"""Replicas of one app, each on a host of its own, whose nodes find each other through an API.

    with Cluster(tmp_path, "relx") as cluster:
        pods = cluster.boot(3)
        cluster.until_joined(*pods)

Each is PID 1 of its container, as far as a namespace is one. The test plays the part of Kubernetes:
it makes the pods, and lists them as endpoints. The app is `tests/release/cluster_app`.
"""

import http.client
import json
import re
import shutil
import signal
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing, suppress
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Self

import yaml

from support import cluster_network, cluster_slugs
from support.house import ROOT
from support.kubernetes_api import KubernetesApi
from support.network import Network
from support.ports import Ports
from support.replica import Replica
from support.told_pod import TELL_SECONDS, ToldPod
from support.wait import PATIENCE_SECONDS, until

ACCOUNT = ROOT / "examples" / "kubernetes" / "base" / "account.yaml"

APP = "shop"
"""Not the release's name, which is `chatter`."""

PORT, HEALTH_PORT, DIST_PORT, EPMD_PORT = 4000, 9000, 9100, 4369
"""The same on every host."""

SETTINGS = {
    "APP_KEY": "the-app-key-0123456789abcdef",
    "PORT": str(PORT),
    "HEALTH_PORT": str(HEALTH_PORT),
    "UPGRADE_SETTLE_SECONDS": "0.2",
}

JOIN_SECONDS = 60.0
"""How long three nodes may take to boot, and to find each other, on two busy cores."""


class Heard(NamedTuple):
    """What a node has heard from another: `faults` counts messages lost or out of turn."""

    connections: int = 0
    received: int = 0
    faults: int = 0


class Pod(Replica):
    """One replica. Whoever asks it something does so on its own host, as the kubelet does."""

    def __init__(self, host: Network, root: Path, settings: Mapping[str, str]) -> None:
        self.host = host
        super().__init__(
            root, ("init", APP), ports=Ports(), as_pid_1=True, wrapper=host.enter,
            settings=SETTINGS | settings,
        )  # fmt: skip

    @property
    def name(self) -> str:
        return self.environ["POD_NAME"]

    @property
    def node(self) -> str:
        return f"{APP}@{self.host.address}"

    def get(self, path: str) -> Any:
        with self.host.joined():
            return super().get(path)

    def verb(self, *arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
        with self.host.joined():
            return super().verb(*arguments, **options)

    def ask(self, path: str) -> str:
        """Ask the app; raises what the connection raises."""
        with self.host.joined():
            connection = http.client.HTTPConnection("127.0.0.1", PORT, timeout=PATIENCE_SECONDS)
            with closing(connection):
                connection.request("GET", path)
                response = connection.getresponse()
                text = response.read().decode()
                assert response.status == 200, (path, response.status, text)
                return text

    def serves(self) -> str:
        """Return the version that answers."""
        return self.ask("/").split()[0].removeprefix("version=")

    def connected(self) -> set[str]:
        """Return the nodes that its node is connected to, by its own word; none while it boots."""
        with suppress(OSError, http.client.HTTPException):
            return set(filter(None, self.ask("/").split("nodes=")[1].strip().split(",")))
        return set()

    def found(self) -> str:
        """Return what came of its last look for peers; a failure where nobody answers."""
        try:
            return self.ask("/peers").strip()
        except (OSError, http.client.HTTPException) as error:
            return f"failed {error!r}"

    def heard(self) -> dict[str, Heard]:
        """Return what it has heard, by node."""
        pattern = r"(\S+) connections=(\d+) received=(\d+) faults=(\d+)"
        lines = re.findall(pattern, self.ask("/tally"))
        return {node: Heard(*map(int, counts)) for node, *counts in lines}

    def status(self) -> dict[str, Any]:
        said: dict[str, Any] = json.loads(self.verb("status", "--json").stdout)
        return said

    def told(self) -> set[str]:
        """Return the nodes that it is connected to, by run-agent's word."""
        return set((self.get("/readyz").body.get("nodes") or {}).get("connected") or ())


class Cluster:
    """The network, the API and the pods of a test."""

    def __init__(self, folder: Path, kind: str) -> None:
        self._kind, self._folder = kind, folder
        self._pods: list[Pod] = []
        self._controller = folder / "controller"
        self._controller.mkdir()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self.bridge = stack.enter_context(cluster_network.bridge())
            hub = self.bridge.network
            self.api = stack.enter_context(KubernetesApi(hub.address, enter=hub.enter))
            self.api.rules = example_rules()
            self.deploy(cluster_slugs.OLD)
            stack.callback(self._end)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def deploy(self, version: str) -> None:
        """Make that version the current deploy."""
        slug = cluster_slugs.slug(self._kind, version)
        shutil.copy(slug, self._controller / slug.name)
        release = {"slug_url": slug.name, "customer_app_name": "chatter", "version": version}
        written = self._controller / "release.json.new"
        written.write_text(json.dumps(release))
        written.replace(self._controller / "release.json")

    def boot(
        self,
        count: int = 1,
        settings: Mapping[str, str] | None = None,
        firewall: Sequence[int] = (),
    ) -> list[Pod]:
        """Start so many pods, each with an address that none had before.

        Where a firewall is asked for, others can reach them on these ports alone.
        """
        pods = [self._boot(settings or {}, firewall) for _ in range(count)]
        self._publish()
        return pods

    def _boot(self, settings: Mapping[str, str], firewall: Sequence[int]) -> Pod:
        name = f"{APP}-{len(self._pods)}"
        host, root = self.bridge.host(), self._folder / name
        if firewall:
            cluster_network.firewall(host, *firewall)
        self.api.add(
            {
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": {"name": name, "labels": {"repo": APP}},
                "spec": {"containers": [{"name": "app", "image": "app"}]},
                "status": {"phase": "Running", "podIP": host.address},
            }
        )
        known = {"CONTROLLER_URL": self._controller.as_uri(), "POD_NAME": name, "HOSTNAME": name}
        self._pods.append(Pod(host, root, known | self.api.mount(root) | settings))
        return self._pods[-1]

    def kill(self, pod: Pod) -> None:
        """End a container at once, with all that is in it."""
        pod.signal(signal.SIGKILL)
        pod.wait()
        self._publish()

    def until_joined(self, *pods: Pod) -> None:
        """Wait until each of these is connected to all others of these, and to nobody else."""
        for pod in pods:
            others = {other.node for other in pods if other is not pod}
            until(
                lambda pod=pod, others=others: pod.connected() == others,
                lambda pod=pod: (
                    f"{pod.node} has {pod.connected()}, {pod.found()}: {pod.log} {pod.stdout}"
                ),
                JOIN_SECONDS,
                every=0.05,
            )

    def until_heard(self, *pods: Pod) -> None:
        """Wait until each of these has heard anew from all others of these."""
        for pod in pods:
            others = {other.node for other in pods if other is not pod}
            until(partial(_has_heard, pod, others, pod.heard()), pod.found)

    def until_reported(self, pod: Pod, version: str) -> None:
        """Wait until the API knows of the pod that this version takes requests in it."""
        told = self.told(pod)
        until(
            lambda: (told.labels.get("version"), told.condition) == (version, ("True", "Ready")),
            lambda: f"{self.api.get('Pod', pod.name)}: {pod.log}",
            TELL_SECONDS,
        )

    def told(self, pod: Pod) -> ToldPod:
        """Return what the API knows of the pod by run-agent's word."""
        return ToldPod(self.api, pod.name)

    def faults(self, *pods: Pod) -> dict[str, dict[str, Heard]]:
        """Return what was lost or came out of turn at any of these."""
        return {
            pod.node: {node: heard for node, heard in pod.heard().items() if heard.faults}
            for pod in pods
            if any(heard.faults for heard in pod.heard().values())
        }

    def _publish(self) -> None:
        """List the pods that run as endpoints, ready or not, as the example's Service has it."""
        addresses = [
            {"ip": pod.host.address, "targetRef": {"kind": "Pod", "name": pod.name}}
            for pod in self._pods
            if pod.process.poll() is None
        ]
        subset = {"addresses": addresses, "ports": [{"port": EPMD_PORT}]}
        put(
            self.api,
            {
                "apiVersion": "v1",
                "kind": "Endpoints",
                "metadata": {"name": APP, "labels": {"repo": APP}},
                "subsets": [subset] if addresses else [],
            },
        )

    def _end(self) -> None:
        for pod in self._pods:
            pod.end()


def _has_heard(pod: Pod, nodes: set[str], before: Mapping[str, Heard]) -> bool:
    now = pod.heard()
    return all(
        now.get(node, Heard()).received > before.get(node, Heard()).received for node in nodes
    )


def example_rules() -> list[dict[str, Any]]:
    """Return what the example lets its replicas do."""
    objects = yaml.safe_load_all(ACCOUNT.read_text())
    [rules] = [each["rules"] for each in objects if each["kind"] == "Role"]
    return rules


def put(api: KubernetesApi, obj: dict[str, Any]) -> None:
    """Store an object, in the place of one with its name."""

    def store() -> None:
        objects = api._objects
        key = (objects._resource_of(obj), "default", obj["metadata"]["name"])
        if key in objects.objects:
            del objects.objects[key]
        objects.add(obj)

    api._call(store)
