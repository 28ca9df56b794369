"""examples/kubernetes: valid, restricted, without secrets, and easy to adapt."""

import copy
import os
import re
import subprocess
import tempfile
from dataclasses import fields
from pathlib import Path

import kubernetes_validate
import pytest
import yaml

from run_agent import settings
from run_agent.release.identity import COOKIE, KEY_BASE
from support import manifests
from support.manifests import container, example, only, pod

OLDEST = "1.27"
"""From here on `matchLabelKeys` and `unhealthyPodEvictionPolicy` need no feature gate."""

VERSIONS = (OLDEST, "1.30", "1.33", kubernetes_validate.latest_version())

KNOWN_TO_1_20 = {"apiVersion", "kind", "bases", "resources", "patchesStrategicMerge", "images"}
"""Of what a kustomization may hold, what the kubectl of Debian 12 and the newest both know."""

variant = pytest.mark.parametrize("variant", [*manifests.REPLICAS, "migrate"])
of_replicas = pytest.mark.parametrize("variant", manifests.REPLICAS)


# -- the published schemas ---------------------------------------------------------------------


@variant
@pytest.mark.parametrize("version", VERSIONS)
def test_every_document_is_valid(variant, version):
    for document in example(variant):
        assert kubernetes_validate.validate(document, version, strict=True) == version[:4]


MISTAKES = {
    "a field that nobody knows": lambda spec: spec.update(restartpolicy="Always"),
    "a word where a number belongs": lambda spec: spec.update(terminationGracePeriodSeconds="30 s"),
    "a probe with a wrong field": lambda spec: spec["containers"][0]["livenessProbe"].update(x=1),
    "a container without a name": lambda spec: spec["containers"][0].pop("name"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_would_be_seen(mistake):
    deployment = copy.deepcopy(dict(only(example("."), "Deployment")))
    MISTAKES[mistake](deployment["spec"]["template"]["spec"])
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(deployment, OLDEST, strict=True)


def test_an_api_that_is_gone_would_be_seen():
    budget = {**only(example("."), "PodDisruptionBudget"), "apiVersion": "policy/v1beta1"}
    with pytest.raises(kubernetes_validate.utils.SchemaNotFoundError):
        kubernetes_validate.validate(budget, OLDEST, strict=True)


def test_the_examples_hold_what_they_promise():
    shared = [
        "Deployment", "NetworkPolicy", "NetworkPolicy", "PodDisruptionBudget", "Role",
        "RoleBinding", "Service", "Service", "ServiceAccount",
    ]  # fmt: skip
    kinds = {
        name: sorted(document["kind"] for document in example(name)) for name in manifests.REPLICAS
    }
    assert kinds == {".": ["ConfigMap", *shared], "controller": shared}
    assert {document["kind"] for document in example("migrate")} == {"Job", "NetworkPolicy"}


@pytest.mark.parametrize(
    "path",
    sorted(manifests.FOLDER.glob("**/kustomization.yaml")),
    ids=lambda path: path.parent.name,
)
def test_an_old_kubectl_understands_it_too(path):
    kustomization = yaml.safe_load(path.read_text())
    assert kustomization.keys() <= KNOWN_TO_1_20
    assert all(name.endswith(".yaml") for name in kustomization.get("resources", ()))


# -- Pod Security Standards --------------------------------------------------------------------

VOLUMES = {
    "configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim",
    "projected", "secret",
}  # fmt: skip


def violations(spec):
    """Yield what of a pod the profile "restricted" forbids.

    Source: Kubernetes documentation, "Pod Security Standards".
    """
    about = spec.get("securityContext", {})
    yield from (name for name in ("hostNetwork", "hostPID", "hostIPC") if spec.get(name))
    for volume in spec.get("volumes", ()):
        if not volume.keys() - {"name"} <= VOLUMES:
            yield f"volume {volume['name']}"
    for name in ("sysctls", "seLinuxOptions", "appArmorProfile", "windowsOptions"):
        if name in about:
            yield name
    if about.get("seccompProfile", {}).get("type") not in {"RuntimeDefault", "Localhost"}:
        yield "seccompProfile"
    for running in [*spec.get("initContainers", ()), *spec["containers"]]:
        own = running.get("securityContext", {})
        capabilities = own.get("capabilities", {})
        forbidden = {
            "privileged": own.get("privileged", False),
            "allowPrivilegeEscalation": own.get("allowPrivilegeEscalation", True),
            "capabilities.drop": capabilities.get("drop") != ["ALL"],
            "capabilities.add": capabilities.get("add"),
            "runAsNonRoot": not own.get("runAsNonRoot", about.get("runAsNonRoot")),
            "runAsUser": own.get("runAsUser", about.get("runAsUser")) == 0,
            "seccompProfile of its own": "seccompProfile" in own,
            "procMount": "procMount" in own,
            "seLinuxOptions": "seLinuxOptions" in own,
            "hostPort": any("hostPort" in port for port in running.get("ports", ())),
        }
        yield from (f"{running['name']}: {name}" for name, found in forbidden.items() if found)


@variant
def test_the_pods_are_restricted(variant):
    spec = pod(example(variant))["spec"]
    assert not list(violations(spec))
    assert spec["securityContext"]["runAsUser"] > 0
    for running in [*spec.get("initContainers", ()), *spec["containers"]]:
        assert running["securityContext"]["readOnlyRootFilesystem"] is True


@pytest.mark.parametrize(
    ("where", "change", "found"),
    [
        ("pod", {"hostNetwork": True}, "hostNetwork"),
        ("pod", {"volumes": [{"name": "docker", "hostPath": {"path": "/"}}]}, "volume docker"),
        ("pod", {"securityContext": {"runAsNonRoot": True}}, "seccompProfile"),
        ("container", {"securityContext": {}}, "hello: allowPrivilegeEscalation"),
        ("container", {"securityContext": {"runAsNonRoot": False}}, "hello: runAsNonRoot"),
        ("container", {"ports": [{"containerPort": 1, "hostPort": 1}]}, "hello: hostPort"),
    ],
)
def test_a_pod_that_is_not_restricted_would_be_seen(where, change, found):
    spec = copy.deepcopy(dict(pod(example("."))["spec"]))
    (spec if where == "pod" else spec["containers"][0]).update(change)
    assert found in list(violations(spec))


@variant
def test_what_run_agent_writes_to_is_writable(variant):
    volumes = dict(manifests.mounts(example(variant)))
    layout = settings.load({"CONTROLLER_URL": "none"}).layout
    writable = {str(layout.run), str(layout.volume), "/tmp"} | (
        {"/app"} if variant == "." else set()
    )
    assert {path for path, volume in volumes.items() if "emptyDir" in volume} == writable
    for volume in volumes.values():
        assert "emptyDir" not in volume or "sizeLimit" in volume["emptyDir"], volume
    assert volumes[str(layout.run)]["emptyDir"]["medium"] == "Memory", "it holds secrets"


@variant
def test_resources_are_asked_for_and_memory_is_limited(variant):
    spec = pod(example(variant))["spec"]
    for running in [*spec.get("initContainers", ()), *spec["containers"]]:
        asked, limit = running["resources"]["requests"], running["resources"]["limits"]
        assert asked.keys() == {"cpu", "memory"}
        assert limit == {"memory": asked["memory"]}


# -- secrets -----------------------------------------------------------------------------------


@variant
def test_no_document_holds_a_secret(variant):
    assert "Secret" not in {document["kind"] for document in example(variant)}
    hidden = {row.metadata["name"] for row in fields(settings.Settings)
              if row.metadata["parse"] in {settings._secret, settings._cookie}}  # fmt: skip
    assert {COOKIE.setting, KEY_BASE.setting, "APP_KEY"} <= hidden
    for entry in container(example(variant))["env"]:
        assert entry["name"] not in hidden or "value" not in entry


def test_the_example_of_the_secret_works_only_once_it_is_filled_in():
    text = (manifests.FOLDER / "secret.env.example").read_text()
    assert all(line.startswith("#") for line in text.splitlines() if line), (
        "a default would be used"
    )
    offered = set(re.findall(r"^#([A-Z_]+)=$", text, re.MULTILINE))
    wanted = {
        entry["valueFrom"]["secretKeyRef"]["key"]
        for entry in container(example("."))["env"]
        if "secretKeyRef" in entry.get("valueFrom", {})
    }
    assert wanted == {COOKIE.setting, KEY_BASE.setting}
    assert wanted <= offered


def test_nobody_gets_in_by_ssh_before_a_key_is_there():
    keys = only(example("."), "ConfigMap")["data"]["authorized_keys"]
    assert all(line.startswith("#") for line in keys.splitlines())
    path = Path(manifests.environment(example("."))["SSH_KEYS_FILE"])
    volume = dict(manifests.mounts(example(".")))[str(path.parent)]
    assert volume["configMap"]["name"] == only(example("."), "ConfigMap")["metadata"]["name"]
    assert path.name == "authorized_keys"


# -- the copy of the release -------------------------------------------------------------------


@pytest.mark.skipif(os.geteuid() != 0, reason="needs to become another user")
def test_the_release_is_copied_by_whoever_may_not_change_owners():
    """And again in the place of an upgraded copy; in a folder of root's, as the kubelet's are."""
    [copying] = pod(example("."))["spec"]["initContainers"]
    with tempfile.TemporaryDirectory() as name:  # pytest's own are root's alone
        Path(name).chmod(0o755)
        image, volume = Path(name, "app"), Path(name, "copy")
        (image / "bin").mkdir(parents=True)
        (image / "bin" / "hello").write_text("#!/bin/sh\n")
        (image / "bin" / "hello").chmod(0o555)
        (image / "bin" / "again").symlink_to("hello")
        volume.mkdir()
        volume.chmod(0o2777)
        *shell, script = copying["command"]
        argv = [*shell, script.replace("/app/", f"{image}/").replace("/copy", str(volume))]
        for upgraded in (volume / "bin" / "upgraded", volume / ".again"):
            subprocess.run(argv, user=10001, group=10001, extra_groups=[], check=True, timeout=20)
            assert not (volume / "bin" / "upgraded").exists()
            upgraded.touch()
        assert (volume / "bin" / "hello").read_text() == "#!/bin/sh\n"
        assert (volume / "bin" / "hello").stat().st_mode & 0o777 == 0o555
        assert (volume / "bin" / "again").readlink() == Path("hello")
