"""examples/kubernetes: what the README has an operator change leaves them valid and of one mind."""

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from run_agent import settings
from run_agent.cluster import account
from support import manifests
from support.kubernetes_api import KubernetesApi
from support.manifests import adapted, container, only, pod, render, shown

OLDEST = "1.27"

EVERYTHING = (*manifests.REPLICAS, "migrate")

NAMING_SECONDS = 20.0
"""A few files in a hundredth of a second are usual."""


def _valid(folder: Path) -> list[manifests.Document]:
    """Render a folder; its documents fit the schemas, and an API accepts their names and labels."""
    documents = render(folder)
    with KubernetesApi() as api:
        for document in documents:
            kubernetes_validate.validate(document, OLDEST, strict=True)
            api.add({**document, "metadata": {**document["metadata"], "namespace": "shop"}})
    return documents


# -- the name of the app -----------------------------------------------------------------------


def _named(tmp_path: Path, app: str, name: str) -> list[manifests.Document]:
    """Paste at the root of a checkout what the README has for a name, and render all of it."""
    commands = shown("sh", "export APP=")
    assert "export APP=my_app NAME=my-app" in commands
    checkout = tmp_path / "checkout"
    examples = checkout / "examples" / "kubernetes"
    shutil.copytree(manifests.FOLDER, examples)
    before = _texts(checkout)
    subprocess.run(
        ["bash", "-euc", commands.replace("my_app", app, 1).replace("my-app", name, 1)],
        cwd=checkout, timeout=NAMING_SECONDS, check=True,
    )  # fmt: skip
    assert _texts(checkout) == before
    copy = tmp_path / "deploy"
    assert _texts(copy).keys() == _texts(examples).keys()
    return [document for folder in EVERYTHING for document in _valid(copy / folder)]


def _texts(folder: Path) -> dict[Path, str]:
    return {
        path.relative_to(folder): path.read_text() for path in folder.rglob("*") if path.is_file()
    }


def _strings(node: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Yield every text in a document, with the field that it is the value of."""
    match node:
        case dict():
            for name, value in node.items():
                yield from _strings(value, name)
        case list():
            for value in node:
                yield from _strings(value, key)
        case str():
            yield key, node


@pytest.mark.parametrize(
    ("app", "name"), [("my_app", "my-app"), ("hello_world", "hello-world"), ("MyApp", "my-app")]
)
def test_an_app_with_an_underscore_keeps_it_where_run_agent_and_the_release_read_it(
    tmp_path, app, name
):
    strings = set(_strings(_named(tmp_path, app, name)))
    assert {(key, text) for key, text in strings if app in text} == {
        ("repo", app), ("args", app), ("args", f"bin/{app}"),
    }  # fmt: skip
    named = {key for key, text in strings if name in text}
    assert {"name", "serviceAccountName", "image"} <= named
    assert not named & {"repo", "args"}


def test_an_app_with_a_plain_name_has_it_everywhere(tmp_path):
    documents = _named(tmp_path, "shop", "shop")
    assert "hello" not in yaml.safe_dump_all(documents)
    assert {text for key, text in _strings(documents) if key == "repo"} == {"shop"}


def test_where_a_copy_cannot_be_made_nothing_is_renamed(tmp_path):
    (tmp_path / "deploy").mkdir()
    with pytest.raises(subprocess.CalledProcessError):
        _named(tmp_path, "shop", "shop")
    checkout = tmp_path / "checkout" / "examples" / "kubernetes"
    assert _texts(checkout) == _texts(manifests.FOLDER)
    assert not _texts(tmp_path / "deploy")


def test_the_name_of_an_app_with_an_underscore_would_not_be_taken(tmp_path):
    copy = adapted(tmp_path, "hello", "my_app")
    with pytest.raises(Exception, match="my_app"):
        _valid(copy)


# -- what is to be had by a `#` less -----------------------------------------------------------


def test_a_host_key_can_be_had(tmp_path):
    documents = _valid(adapted(tmp_path, "  # - ssh-host-key.yaml", "  - ssh-host-key.yaml"))
    path = Path(manifests.environment(documents)["SSH_HOST_KEY"])
    volume = dict(manifests.mounts(documents))[str(path.parent)]
    assert volume["secret"] == {"secretName": "hello-ssh-host-key", "defaultMode": 0o440}
    assert pod(documents)["spec"]["securityContext"]["fsGroup"] > 0, "who else could read it"


@pytest.mark.parametrize("variant", manifests.REPLICAS)
def test_who_wants_no_reports_has_no_right_to_them_and_no_gate(tmp_path, variant):
    lines = "patchesStrategicMerge:\n#   - no-reports.yaml"
    copy = adapted(tmp_path, f"# {lines}", lines.replace("#", " "))
    documents = _valid(copy / variant)
    [rule] = only(documents, "Role")["rules"]
    assert rule == {"apiGroups": [""], "resources": ["endpoints"], "verbs": ["list"]}
    assert not pod(documents)["spec"].get("readinessGates")
    given = settings.load(manifests.environment(documents), app="hello")
    assert given.kubernetes_reports == "none"
    assert account.find(given) is None
    assert len(container(documents)["env"]) > 10, "the patch has taken the others away"


def test_the_image_is_named_in_one_place(tmp_path):
    copy = adapted(tmp_path, "newTag: 0.1.0", "newTag: 0.2.0", files="kustomization.yaml")
    spec = pod(render(copy))["spec"]
    assert {c["image"] for c in spec["containers"] + spec["initContainers"]} == {"hello:0.2.0"}
