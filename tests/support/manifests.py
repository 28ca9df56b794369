"""The example manifests, as `kubectl kustomize` renders them for an operator."""

import functools
import re
import shutil
import subprocess
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from support.house import ROOT
from support.need import need

FOLDER = ROOT / "examples" / "kubernetes"

REPLICAS = (".", "controller")
"""The folders, below `FOLDER`, that hold replicas; `migrate` holds a Job."""

RENDER_SECONDS = 60.0
"""A quarter of a second is usual."""

SECRET = {"ERLANG_COOKIE": "c" * 64, "SECRET_KEY_BASE": "b" * 96, "APP_KEY": "a" * 64}
"""What an operator puts into the Secret."""

TOLD = {
    "status.podIP": "10.0.0.7",
    "metadata.name": "hello-5d",
    "metadata.namespace": "shop",
    "metadata.uid": "6b7c5f0e-1f1c-4c3e-9d0b-0a1b2c3d4e5f",
}
"""What the kubelet says of the pod."""

Document = Mapping[str, Any]


def render(folder: Path) -> list[Document]:
    """Return the documents of a folder; a kustomization that is wrong fails the test."""
    kubectl = shutil.which("kubectl")
    need(kubectl, "kubectl, to render manifests")
    rendered = subprocess.run(
        [str(kubectl), "kustomize", str(folder)],
        capture_output=True, text=True, timeout=RENDER_SECONDS, check=False,
    )  # fmt: skip
    assert rendered.returncode == 0, rendered.stderr
    return list(yaml.safe_load_all(rendered.stdout))


@functools.cache
def example(variant: str) -> Sequence[Document]:
    """Return the documents of the folder `variant` below the examples."""
    return tuple(render(FOLDER / variant))


def adapted(tmp_path: Path, old: str, new: str, *, files: str = "**/*.yaml") -> Path:
    """Copy the examples, as an operator does, with `old` replaced by `new` in `files`."""
    copy = tmp_path / "kubernetes"
    shutil.copytree(FOLDER, copy)
    changed = [path for path in copy.glob(files) if old in path.read_text()]
    assert changed, f"nobody says {old!r}"
    for path in changed:
        path.write_text(path.read_text().replace(old, new))
    return copy


def shown(language: str, saying: str) -> str:
    """Return the block of the README that says that, as it is there to be pasted."""
    text = (FOLDER / "README.md").read_text()
    fenced = re.compile(rf"^( *)```{language}\n(.*?)^\1```$", re.DOTALL | re.MULTILINE)
    [block] = [textwrap.dedent(body) for _, body in fenced.findall(text) if saying in body]
    return block


def only(documents: Sequence[Document], kind: str, name: str | None = None) -> Document:
    """Return the one document of that kind (and name)."""
    [found] = [
        document
        for document in documents
        if document["kind"] == kind and name in {None, document["metadata"]["name"]}
    ]
    return found


def pod(documents: Sequence[Document]) -> Document:
    """Return the pod template of the one Deployment or Job."""
    [workload] = [document for document in documents if document["kind"] in {"Deployment", "Job"}]
    return workload["spec"]["template"]


def container(documents: Sequence[Document]) -> Document:
    """Return the container that runs run-agent."""
    [running] = pod(documents)["spec"]["containers"]
    return running


def environment(documents: Sequence[Document]) -> dict[str, str]:
    """Return the container's environment, with what the kubelet and the Secret tell made up."""
    environ = dict(SECRET) if "envFrom" in container(documents) else {}
    for entry in container(documents)["env"]:
        match entry:
            case {"name": name, "value": value}:
                environ[name] = value
            case {"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}}:
                environ[name] = TOLD[path]
            case {"name": name, "valueFrom": {"secretKeyRef": {"name": "hello", "key": key}}}:
                environ[name] = SECRET[key]
            case _:
                raise AssertionError(f"where does this come from: {entry}")
    return environ


def mounts(documents: Sequence[Document]) -> Iterator[tuple[str, Document]]:
    """Yield every folder that is mounted in the container, with its volume."""
    volumes = {volume["name"]: volume for volume in pod(documents)["spec"]["volumes"]}
    for mount in container(documents)["volumeMounts"]:
        yield mount["mountPath"], volumes[mount["name"]]
