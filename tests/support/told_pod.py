"""What the API knows of a pod of ours, and the Events on it, as run-agent has told them.

told = ToldPod(api, "hello-7f9-x2k")
told.annotations["last-verdict"], told.condition, told.reasons
told.until_happened("UpgradeDone")     # the Event that has come since the last look
"""

from collections.abc import Callable
from typing import Any

from support.kubernetes_api import KubernetesApi
from support.wait import until

OURS = "run-agent.dev/"

POD: dict[str, Any] = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {"name": "hello-7f9-x2k", "uid": "u-1"},
}
"""What the API knows of a pod before run-agent says anything."""

TELL_SECONDS = 60.0
"""How long a state or an Event may take to be told on two busy cores: a worker starts for it, at
most every 5 s."""


class ToldPod:
    """One pod, which the API has. Names are without our prefix."""

    def __init__(self, api: KubernetesApi, name: str) -> None:
        self._api, self._name = api, name
        self._seen = 0

    @property
    def labels(self) -> dict[str, str]:
        return self._ours("labels")

    @property
    def annotations(self) -> dict[str, str]:
        return self._ours("annotations")

    @property
    def condition(self) -> tuple[str, str] | None:
        """Status and reason of our condition; none before it was told."""
        for condition in self._stored().get("status", {}).get("conditions", ()):
            if condition["type"] == f"{OURS}release":
                return condition["status"], condition["reason"]
        return None

    @property
    def events(self) -> list[dict[str, Any]]:
        """The Events on this pod, in the order in which they were created."""
        return [
            event
            for event in self._api.events()
            if event["involvedObject"]["uid"] == self._stored()["metadata"]["uid"]
        ]

    @property
    def reasons(self) -> list[str]:
        return [event["reason"] for event in self.events]

    def until_ready(self, log: Callable[[], str]) -> None:
        """Wait until the pod says that its release takes requests."""
        until(
            lambda: self.condition == ("True", "Ready"),
            lambda: f"not ready: {self._stored()}, {log()}",
            TELL_SECONDS,
        )

    def until_happened(self, reason: str, log: Callable[[], str]) -> dict[str, Any]:
        """Wait for the one Event that comes next, which must be of this `reason`; return it."""
        until(lambda: len(self.events) > self._seen, lambda: f"no {reason}: {log()}", TELL_SECONDS)
        new = self.events[self._seen :]
        self._seen += len(new)
        assert [event["reason"] for event in new] == [reason], (new, log())
        return new[0]

    def _ours(self, kind: str) -> dict[str, str]:
        found = self._stored()["metadata"].get(kind) or {}
        return {
            name.removeprefix(OURS): value for name, value in found.items() if name.startswith(OURS)
        }

    def _stored(self) -> dict[str, Any]:
        stored = self._api.get("Pod", self._name)
        assert stored is not None, f"there is no pod {self._name}"
        return stored
