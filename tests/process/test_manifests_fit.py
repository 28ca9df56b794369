"""examples/kubernetes: of one mind with itself, and with the settings of run-agent."""

from dataclasses import fields

import pytest

from run_agent import settings
from run_agent.cluster.report import CONDITION
from run_agent.epmd import DEFAULT_PORT
from run_agent.errors import SettingsError
from support import manifests
from support.manifests import container, example, only, pod

variant = pytest.mark.parametrize("variant", [*manifests.REPLICAS, "migrate"])
of_replicas = pytest.mark.parametrize("variant", manifests.REPLICAS)


# -- who selects whom --------------------------------------------------------------------------


@of_replicas
def test_selectors_fit_the_replicas_and_nothing_else(variant):
    documents = example(variant)
    labels = pod(documents)["metadata"]["labels"]
    for document in documents:
        spec = document.get("spec", {})
        for selector in (
            spec.get("selector", {}) if document["kind"] == "Service" else None,
            spec.get("selector", {}).get("matchLabels"),
            spec.get("podSelector", {}).get("matchLabels"),
        ):
            assert selector is None or selector.items() <= labels.items(), document["metadata"]
            assert selector is None or not selector.items() <= _labels_of_a_job().items()
    for spread in pod(documents)["spec"]["topologySpreadConstraints"]:
        assert spread["labelSelector"]["matchLabels"].items() <= labels.items()
    budget = only(documents, "PodDisruptionBudget")["spec"]
    assert budget["selector"]["matchLabels"].items() <= labels.items()
    assert budget["maxUnavailable"] < only(documents, "Deployment")["spec"]["replicas"]


def _labels_of_a_job():
    return pod(example("migrate"))["metadata"]["labels"]


@of_replicas
def test_the_role_is_bound_to_the_account_of_the_pods(variant):
    documents = example(variant)
    account = only(documents, "ServiceAccount")
    spec = pod(documents)["spec"]
    binding = only(documents, "RoleBinding")
    name = account["metadata"]["name"]
    assert spec["serviceAccountName"] == name
    assert spec["automountServiceAccountToken"] is True
    assert account["automountServiceAccountToken"] is False
    assert binding["subjects"] == [{"kind": "ServiceAccount", "name": name}]
    assert binding["roleRef"]["kind"] == "Role"
    assert binding["roleRef"]["name"] == only(documents, "Role")["metadata"]["name"]


def test_a_job_has_no_account():
    spec = pod(example("migrate"))["spec"]
    assert spec["automountServiceAccountToken"] is False
    assert "serviceAccountName" not in spec


@of_replicas
def test_requests_go_to_ready_replicas_and_nodes_find_all(variant):
    services = {
        document["metadata"]["name"]: document
        for document in example(variant)
        if document["kind"] == "Service"
    }
    serving, finding = services["hello"], services["hello-nodes"]
    assert "publishNotReadyAddresses" not in serving["spec"]
    assert finding["spec"]["publishNotReadyAddresses"] is True
    assert finding["spec"]["clusterIP"] == "None"
    selector = "repo=hello"  # what release.environment tells libcluster
    name, _, value = selector.partition("=")
    assert [s for s in services.values() if s["metadata"]["labels"].get(name) == value] == [finding]


# -- ports, settings and times -----------------------------------------------------------------


def _ports(variant):
    return {port["name"]: port["containerPort"] for port in container(example(variant))["ports"]}


def _settings(variant):
    return settings.load(manifests.environment(example(variant)), app="hello")


@of_replicas
def test_ports_are_those_of_the_settings(variant):
    given = _settings(variant)
    assert _ports(variant) == {
        "http": given.port,
        "health": given.health_port,
        "ssh": given.ssh_port,
        "epmd": DEFAULT_PORT,
        "dist": given.dist_port,
    }


@of_replicas
def test_services_lead_to_ports_of_the_container(variant):
    ports = _ports(variant)
    for document in example(variant):
        if document["kind"] == "Service":
            for port in document["spec"]["ports"]:
                assert port["targetPort"] in ports
                if document["spec"].get("clusterIP") == "None":
                    assert port["port"] == ports[port["targetPort"]], "a name moves no port"


@of_replicas
def test_probes_ask_what_pid_1_answers(variant):
    replica = container(example(variant))
    for probe, path in ("startup", "/livez"), ("liveness", "/livez"), ("readiness", "/readyz"):
        assert replica[f"{probe}Probe"]["httpGet"] == {"path": path, "port": "health"}
    assert pod(example(variant))["spec"]["readinessGates"] == [{"conditionType": CONDITION}]
    assert _settings(variant).kubernetes_reports == "auto", "a gate that nobody would open"


@of_replicas
def test_the_stop_fits_into_the_grace_of_the_kubelet(variant):
    given, spec = _settings(variant), pod(example(variant))["spec"]
    assert given.grace_seconds + 5 <= spec["terminationGracePeriodSeconds"]
    assert 0 < given.drain_seconds <= given.grace_seconds * settings.DRAIN_SHARE
    assert "lifecycle" not in container(example(variant)), "a hook would take of the same grace"


def test_a_job_is_ended_by_run_agent_before_kubernetes_ends_it():
    job, given = only(example("migrate"), "Job")["spec"], _settings("migrate")
    assert given.job_timeout_seconds is not None
    longest = given.boot_deadline_seconds + given.job_timeout_seconds + given.grace_seconds
    assert longest < job["activeDeadlineSeconds"]
    assert given.grace_seconds < pod(example("migrate"))["spec"]["terminationGracePeriodSeconds"]


@of_replicas
def test_no_replica_waits_for_more_nodes_than_there_are(variant):
    assert (
        1
        <= _settings(variant).cluster_min
        <= only(example(variant), "Deployment")["spec"]["replicas"]
    )


@variant
def test_the_environment_is_made_of_settings(variant):
    ours = {row.metadata["name"] for row in fields(settings.Settings)}
    named = {entry["name"] for entry in container(example(variant))["env"]}
    assert named <= ours


@variant
def test_every_setting_is_accepted(variant):
    given = _settings(variant)
    assert (given.controller_url == settings.NO_CONTROLLER) == (variant != "controller")
    if variant != "migrate":
        assert (given.pod_ip, given.pod_name, given.pod_namespace) == (
            "10.0.0.7",
            "hello-5d",
            "shop",
        )
        assert given.serves_ssh(has_controller=variant == "controller")


def test_a_controller_without_its_key_is_refused():
    environ = manifests.environment(example("controller")) | {"APP_KEY": ""}
    with pytest.raises(SettingsError, match="APP_KEY is missing"):
        settings.load(environ, app="hello")


@variant
def test_the_container_runs_a_verb_for_the_app(variant):
    replica, app = container(example(variant)), "hello"
    assert "command" not in replica, "the image's own entry point is PID 1"
    wanted = ["job", "--app", app, "--"] if variant == "migrate" else ["init", app]
    assert replica["args"][: len(wanted)] == wanted
    assert replica["terminationMessagePolicy"] == "FallbackToLogsOnError"
    assert pod(example(variant))["spec"]["enableServiceLinks"] is False
