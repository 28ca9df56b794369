"""examples/kubernetes: the Role allows what run-agent and libcluster ask for, and nothing else."""

import asyncio
import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlencode

import pytest
import requests

from run_agent import settings
from run_agent.cluster import account
from run_agent.cluster.report import CONDITION, Condition, Event, Report
from support import manifests
from support.brisk_teller import brisk_teller
from support.kubernetes_api import KubernetesApi
from support.manifests import example, only, pod, shown
from support.wait import PATIENCE_SECONDS, until

NAMESPACE, POD = "shop", "hello-5d"

CORE = f"/api/v1/namespaces/{NAMESPACE}"
STATUS, EVENTS, ENDPOINTS = f"{CORE}/pods/{POD}/status", f"{CORE}/events", f"{CORE}/endpoints"

RULES = only(example("."), "Role")["rules"]

of_replicas = pytest.mark.parametrize("variant", manifests.REPLICAS)


@pytest.fixture
def api() -> Iterator[KubernetesApi]:
    """Give an API that holds the Deployment's pod and knows its account by the Role."""
    with KubernetesApi() as api:
        template = pod(example("."))
        about = {"name": POD, "namespace": NAMESPACE, **template["metadata"]}
        api.add({"apiVersion": "v1", "kind": "Pod", "metadata": about, "spec": template["spec"]})
        api.rules = RULES
        yield api


@pytest.mark.parametrize("variant", [*manifests.REPLICAS, "migrate"])
def test_an_api_takes_every_document(variant):
    with KubernetesApi() as api:
        for document in example(variant):
            stored = api.add(
                {**document, "metadata": {**document["metadata"], "namespace": "shop"}}
            )
            assert api.get(document["kind"], stored["metadata"]["name"], "shop") == stored


@of_replicas
def test_all_variants_have_the_same_role(variant):
    assert only(example(variant), "Role")["rules"] == RULES


def test_the_role_names_single_verbs_on_single_resources():
    rights = [
        (group, resource, verb)
        for rule in RULES
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    ]
    assert rights == [
        ("", "pods/status", "patch"), ("", "events", "create"), ("", "endpoints", "list"),
    ]  # fmt: skip
    assert len(RULES) == len(rights)


# -- run-agent ---------------------------------------------------------------------------------


def _tell(api, root):
    """Report and tell an Event as an agent does; return the answers that the API gave."""
    environ = manifests.environment(example(".")) | api.mount(root, NAMESPACE)
    ours = account.find(settings.load(environ | {"RUN_AGENT_ROOT": str(root)}, app="hello"))
    assert ours is not None
    teller = brisk_teller(ours)
    teller.report(Report({"version": "0.1.0"}, {"last-verdict": "done"}, Condition(True, "Ready")))
    teller.event(Event("UpgradeDone", "0.1.0 serves", time.time()))

    def told():
        return {STATUS, EVENTS} <= _answers(api).keys()

    async def tell():
        telling = asyncio.create_task(teller.run())
        await asyncio.to_thread(until, told, lambda: f"the agent asked only {api.requests}")
        telling.cancel()
        await asyncio.gather(telling, return_exceptions=True)

    asyncio.run(tell())
    return _answers(api)


def _answers(api) -> dict[str, int]:
    return {request.path: request.status for request in api.requests if request.status}


def test_run_agent_may_report(api, tmp_path):
    assert _tell(api, tmp_path) == {STATUS: 200, EVENTS: 201}
    told = api.get("Pod", POD, NAMESPACE)
    assert told["metadata"]["labels"]["repo"] == "hello"
    [condition] = told["status"]["conditions"]
    [gate] = told["spec"]["readinessGates"]
    assert (condition["type"], condition["status"]) == (gate["conditionType"], "True")
    assert [event["reason"] for event in api.events()] == ["UpgradeDone"]


@pytest.mark.parametrize(("resource", "path"), [("pods/status", STATUS), ("events", EVENTS)])
def test_run_agent_needs_every_rule(api, tmp_path, resource, path):
    api.rules = _without(resource)
    answers = _tell(api, tmp_path)
    assert answers.pop(path) == 403
    assert set(answers.values()) <= {200, 201}


def _without(resource):
    rules = [rule for rule in RULES if rule["resources"] != [resource]]
    assert len(rules) == len(RULES) - 1
    return rules


def test_an_operator_opens_the_gate_of_a_pod_that_nobody_tells(api, tmp_path):
    kubelet = {"type": "ContainersReady", "status": "True"}
    _operate(api, tmp_path, {"status": {"conditions": [kubelet]}})
    said = shown("sh", "kubectl patch pod POD --subresource=status")
    [patch] = re.findall(r"--patch '(.*)'", said, re.DOTALL)
    _operate(api, tmp_path, json.loads(patch))
    opened = {"type": CONDITION, "status": "True", "reason": "OpenedByHand"}
    assert sorted(_conditions(api), key=lambda found: found["type"]) == [kubelet, opened]
    api.rules = RULES
    api.requests.clear()
    assert _tell(api, tmp_path)[STATUS] == 200
    [told] = [found for found in _conditions(api) if found["type"] == CONDITION]
    assert (told["status"], told["reason"]) == ("True", "Ready"), "run-agent has the last word"


def _operate(api, root, patch):
    """Patch the pod's status with rights of one's own."""
    api.rules = None
    answer = _ask(api, root, "PATCH", STATUS, json.dumps(patch).encode())
    assert answer.status_code == 200, answer.text


def _conditions(api):
    return api.get("Pod", POD, NAMESPACE)["status"]["conditions"]


# -- libcluster --------------------------------------------------------------------------------


def _ask(api, root: Path, method: str, path: str, data: bytes = b"{}") -> requests.Response:
    api.mount(root, NAMESPACE)
    folder = root / "var/run/secrets/kubernetes.io/serviceaccount"
    return requests.request(
        method,
        f"https://{api.host}:{api.port}{path}",
        headers={
            "Authorization": f"Bearer {(folder / 'token').read_text()}",
            "Content-Type": "application/strategic-merge-patch+json",
        },
        data=data if method in {"PATCH", "POST", "PUT"} else None,
        verify=str(folder / "ca.crt"),
        timeout=PATIENCE_SECONDS,
    )


def _peers(api, root):
    """Ask as libcluster's Kubernetes strategy does by default."""
    return _ask(api, root, "GET", f"{ENDPOINTS}?{urlencode({'labelSelector': 'repo=hello'})}")


def test_libcluster_finds_the_nodes(api, tmp_path):
    """An endpoints object has the name and the labels of its Service."""
    for document in example("."):
        if document["kind"] == "Service":
            about = {**document["metadata"], "namespace": NAMESPACE}
            subsets = [{"addresses": [{"ip": "10.0.0.7"}]}]
            api.add(
                {"apiVersion": "v1", "kind": "Endpoints", "metadata": about, "subsets": subsets}
            )
    answer = _peers(api, tmp_path)
    assert answer.status_code == 200
    assert [found["metadata"]["name"] for found in answer.json()["items"]] == ["hello-nodes"]


def test_libcluster_needs_its_rule(api, tmp_path):
    api.rules = _without("endpoints")
    assert _peers(api, tmp_path).status_code == 403


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", f"{CORE}/secrets"),
        ("GET", f"{CORE}/secrets/hello"),
        ("GET", f"{CORE}/configmaps/hello-ssh-keys"),
        ("GET", f"{CORE}/pods"),
        ("GET", f"{CORE}/pods/{POD}"),
        ("PATCH", f"{CORE}/pods/{POD}"),
        ("DELETE", f"{CORE}/pods/{POD}"),
        ("POST", f"{CORE}/pods/{POD}/exec"),
        ("GET", f"{CORE}/events"),
        ("GET", f"{CORE}/endpoints?watch=true"),
        ("PATCH", f"{CORE}/endpoints/hello-nodes"),
        ("PATCH", f"/apis/apps/v1/namespaces/{NAMESPACE}/deployments/hello"),
        ("POST", f"/apis/rbac.authorization.k8s.io/v1/namespaces/{NAMESPACE}/rolebindings"),
    ],
)
def test_nothing_else_is_allowed(api, tmp_path, method, path):
    answer = _ask(api, tmp_path, method, path)
    assert answer.status_code == 403, answer.text
    assert api.get("Pod", POD, NAMESPACE) is not None
