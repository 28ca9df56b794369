"""The API that the tests speak to does what a real one does, as Kubernetes' own client sees it."""

import subprocess

import pytest
from kubernetes.client import ApiClient, ApiException, Configuration, CoreV1Api

from support import network
from support.kubernetes_api import KubernetesApi

SECONDS = 20
STRATEGIC = "application/strategic-merge-patch+json"
MERGE = "application/merge-patch+json"


@pytest.fixture(name="api")
def an_api():
    with KubernetesApi() as api:
        yield api


@pytest.fixture(name="core")
def the_core_api(api):
    configuration = Configuration(
        host=f"https://{api.host}:{api.port}",
        api_key={"BearerToken": f"Bearer {api.token}"},
        ca_cert_data=api.ca,
        proxy="",
        no_proxy="*",
        retries=False,
    )
    with ApiClient(configuration) as client:
        yield CoreV1Api(client)


def an_object(kind, name, **labels):
    return {"apiVersion": "v1", "kind": kind, "metadata": {"name": name, "labels": labels}}


def status_of(call, *arguments, **options):
    with pytest.raises(ApiException) as caught:
        call(*arguments, _request_timeout=SECONDS, **options)
    return caught.value.status


def test_endpoints_are_selected_by_label(api, core):
    for name in ("hello", "other"):
        api.add(an_object("Endpoints", name, repo=name) | {"subsets": []})

    def found(selector):
        listed = core.list_namespaced_endpoints(
            "default", label_selector=selector, _request_timeout=SECONDS
        )
        return [item.metadata.name for item in listed.items]

    assert found("repo=hello") == ["hello"]
    assert found("repo!=hello,repo") == ["other"]
    assert found("!repo") == []


@pytest.mark.parametrize(
    ("kind", "types"), [(STRATEGIC, ["Ready", "example.org/x"]), (MERGE, ["example.org/x"])]
)
def test_only_a_strategic_patch_keeps_the_other_conditions(api, core, kind, types):
    api.add(
        an_object("Pod", "p")
        | {
            "spec": {"nodeName": "a", "containers": []},
            "status": {"conditions": [{"type": "Ready", "status": "True"}]},
        }
    )
    patch = {
        "spec": {"nodeName": "b"},
        "status": {"conditions": [{"type": "example.org/x", "status": "True"}]},
    }
    core.patch_namespaced_pod_status(
        "p", "default", patch, _content_type=kind, _request_timeout=SECONDS
    )
    pod = api.get("Pod", "p")
    assert [condition["type"] for condition in pod["status"]["conditions"]] == types
    assert pod["spec"]["nodeName"] == "a"


def test_a_change_of_what_has_changed_is_a_conflict(api, core):
    api.add(an_object("Pod", "p"))
    stale = {"metadata": {"resourceVersion": "0"}}
    assert status_of(core.patch_namespaced_pod_status, "p", "default", stale) == 409


@pytest.mark.parametrize(
    "patch",
    [
        {"metadata": {"labels": {"a": "1.0+x"}}},
        {"metadata": {"labels": {"a": "x" * 64}}},
        {"metadata": {"annotations": {"a": "x" * (256 << 10)}}},
        {"status": {"conditions": [{"type": "x", "status": "yes"}]}},
    ],
)
def test_what_is_malformed_is_refused(api, core, patch):
    api.add(an_object("Pod", "p"))
    assert status_of(core.patch_namespaced_pod_status, "p", "default", patch) == 422


def test_only_what_a_rule_names_is_allowed(api, core):
    for name in ("p", "q"):
        api.add(an_object("ConfigMap", name))
    rule = {"apiGroups": [""], "resources": ["configmaps"], "verbs": ["get"]}
    api.rules = [rule | {"resourceNames": ["p"]}]
    assert core.read_namespaced_config_map("p", "default", _request_timeout=SECONDS).metadata.name
    assert status_of(core.read_namespaced_config_map, "q", "default") == 403
    assert status_of(core.list_namespaced_config_map, "default") == 403
    assert status_of(core.delete_namespaced_config_map, "p", "default") == 403
    api.rotate_token()
    assert status_of(core.read_namespaced_config_map, "p", "default") == 401


def test_it_may_be_in_a_network_of_its_own():
    with (
        network.pair() as (server, client),
        KubernetesApi(server.address, enter=server.enter) as api,
    ):
        argv = ["curl", "-sSk", f"https://{api.host}:{api.port}/version"]
        child = subprocess.run(
            [*client.enter, *argv], capture_output=True, timeout=SECONDS, check=True
        )
    assert b"gitVersion" in child.stdout
