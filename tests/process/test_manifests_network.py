"""examples/kubernetes: whom the NetworkPolicies let talk, taken together as clusters do."""

from collections.abc import Mapping, Sequence

import kubernetes_validate
import pytest
import yaml

from support import manifests
from support.manifests import Document, adapted, container, example, pod, render, shown

of_replicas = pytest.mark.parametrize("variant", manifests.REPLICAS)


def _allowed(
    documents: Sequence[Document], labels: Mapping[str, str], direction: str
) -> list[Document] | None:
    """Return the rules for a pod with these labels; None: no policy is for it, all is allowed.

    Source: Kubernetes documentation, "Network Policies", "The two sorts of pod isolation".
    """
    specs = [document["spec"] for document in documents if document["kind"] == "NetworkPolicy"]
    ours = [
        spec
        for spec in specs
        if direction in spec["policyTypes"]
        and spec["podSelector"].get("matchLabels", {}).items() <= labels.items()
    ]
    return [rule for spec in ours for rule in spec.get(direction.lower(), ())] if ours else None


def _ingress(documents, labels):
    return [(rule.get("from"), _ports(rule)) for rule in _allowed(documents, labels, "Ingress")]


def _egress(documents, labels):
    return [(rule.get("to"), _ports(rule)) for rule in _allowed(documents, labels, "Egress")]


def _ports(rule):
    return {port["port"] for port in rule["ports"]}


def _labels(variant):
    return pod(example(variant))["metadata"]["labels"]


@of_replicas
def test_a_replica_lets_in_who_should_come_and_reaches_what_it_needs(variant):
    ports = {port["name"]: port["containerPort"] for port in container(example(variant))["ports"]}
    own = [{"podSelector": {"matchLabels": {"repo": "hello"}}}]
    bastion = [{"namespaceSelector": {"matchLabels": {"run-agent.dev/ssh": "allowed"}}}]
    assert _ingress(example(variant), _labels(variant)) == [
        (None, {ports["http"]}),
        (bastion, {ports["ssh"]}),
        (own, {ports["epmd"], ports["dist"]}),
    ]
    assert _egress(example(variant), _labels(variant)) == [
        (own, {ports["epmd"], ports["dist"]}),
        (None, {53}),
        (None, {443, 6443}),
    ]


@of_replicas
@pytest.mark.parametrize("repo", [{}, {"repo": "other"}])
def test_a_pod_that_has_left_the_replicas_is_refused_everything(variant, repo):
    """Its account may change its labels: base/account.yaml."""
    labels = {name: value for name, value in _labels(variant).items() if name != "repo"} | repo
    assert _ingress(example(variant), labels) == []
    assert _egress(example(variant), labels) == []


def test_a_job_asks_for_names_and_https_and_is_asked_nothing():
    documents = [*example("."), *example("migrate")]
    assert _ingress(documents, _labels("migrate")) == []
    assert _egress(documents, _labels("migrate")) == [(None, {53}), (None, {443})]


def test_the_database_is_reached_by_the_replicas_and_the_job():
    policy = yaml.safe_load(shown("yaml", "kind: NetworkPolicy"))
    kubernetes_validate.validate(policy, "1.27", strict=True)
    for variant in (*manifests.REPLICAS, "migrate"):
        documents = [*example("."), *example("migrate"), policy]
        assert ([{"ipBlock": {"cidr": "10.0.0.5/32"}}], {5432}) in _egress(
            documents, _labels(variant)
        )


METADATA = [
    ([{"ipBlock": {"cidr": "169.254.169.254/32"}}], {80}),
    ([{"ipBlock": {"cidr": "169.254.169.252/32"}}], {988}),
]


def test_the_metadata_server_is_reached_where_slugs_come_from_gs(tmp_path):
    lines = "resources:\n#   - metadata-server.yaml"
    copy = adapted(tmp_path, f"# {lines}", lines.replace("#", " "))
    documents = render(copy / "controller")
    for document in documents:
        kubernetes_validate.validate(document, "1.27", strict=True)
    usual = _egress(example("controller"), _labels("controller"))
    assert _egress(documents, _labels("controller")) == [*usual, *METADATA]
    assert not [rule for rule in usual if rule in METADATA]
