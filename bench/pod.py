"""What our pod costs: requests to the Kubernetes API at rest, and the short worker that asks.

A real release runs beside a replica in a pod; the API is a real server with TLS. Goal: at most 20
requests an hour at rest. Compared, in the same run, with the requests for the SSH keys. What tells
the pod the same again comes too rarely to be seen here: it is added by its constant. Printed
besides: how many requests a boot takes, how soon after readiness the pod says so, and what the
worker needs while it lives.
"""

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
from _figures import free_port, in_memory_folder, replica, report, wait_until

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from run_agent.cluster.backoff import JITTER, REST_SECONDS
from support.controller_server import ControllerServer
from support.kubernetes_api import KubernetesApi
from support.slugs import slug

GOAL = 20
SETTLE_SECONDS, WATCH_SECONDS = 5, 240
POD: dict[str, Any] = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {"name": "hello-0", "uid": "u-0"},
}


def main() -> None:
    """Boot, see what it takes until the pod says so, then watch the replica at rest."""
    with (
        in_memory_folder() as folder,
        ControllerServer(app="hello", key="bench") as controller,
        KubernetesApi() as api,
    ):
        api.add(POD)
        root, log = Path(folder), Path(folder) / "log"
        controller.release = {
            "slug_url": slug("relx").as_uri(),
            "customer_app_name": "hello",
            "version": "1",
            "config": {"PORT": str(free_port())},
        }
        with replica(root, ["init", "hello"], CONTROLLER_URL=controller.url, APP_KEY="bench",
                     MY_POD_IP="127.0.0.1", POD_NAME="hello-0", HEALTH_PORT=free_port(),
                     SSH_PORT=free_port(), **api.mount(root)) as process:  # fmt: skip
            wait_until(lambda: b'"ready"' in log.read_bytes(), "readiness", log)
            ready = time.monotonic()
            wait_until(_Worker(process.pid).has_told(api), "the pod", log)
            print(f"the pod says so {time.monotonic() - ready:.2f} s after readiness, "
                  f"with {len(api.requests)} request")  # fmt: skip
            time.sleep(SETTLE_SECONDS)
            pod, keys = len(api.requests), controller.count("ssh_keys")
            time.sleep(WATCH_SECONDS)
            pod, keys = len(api.requests) - pod, controller.count("ssh_keys") - keys
    hours = WATCH_SECONDS / 3600
    repeated = 3600 / (REST_SECONDS * (1 - JITTER))
    print(f"seen at rest: {pod} in {WATCH_SECONDS} s; repeated up to {repeated} times an hour")
    report("pod", pod / hours + repeated, "requests for the SSH keys", keys / hours,
           unit="requests an hour at rest", goal=f"<= {GOAL}")  # fmt: skip


class _Worker:
    """The process that holds the SDK, seen from outside."""

    def __init__(self, init: int) -> None:
        self._init = psutil.Process(init)
        self._peak, self._cpu = 0.0, 0.0

    def has_told(self, api: KubernetesApi) -> Callable[[], bool]:
        """Return whether the pod is told; each look measures."""

        def told() -> bool:
            self._look()
            done = bool((api.get("Pod", "hello-0") or POD)["metadata"].get("labels"))
            if done:
                print(f"the worker took up to {self._peak:.0f} MiB PSS, {self._cpu:.2f} s of CPU")
            return done

        return told

    def _look(self) -> None:
        for child in self._init.children(recursive=True):
            try:
                if "run_agent.cluster.worker" in child.cmdline():
                    self._peak = max(self._peak, child.memory_full_info().pss / (1 << 20))
                    times = child.cpu_times()
                    self._cpu = max(self._cpu, times.user + times.system)
            except psutil.Error:
                continue  # it has ended


if __name__ == "__main__":
    main()
