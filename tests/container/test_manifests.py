"""examples/kubernetes: what its pods ask for is enough to run in, next to a kubelet's volumes."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from support import images, manifests, slugs
from support.containers import Container
from support.manifests import container, example, pod
from support.upgrading import NODE_SECONDS


@pytest.fixture(scope="module")
def release_image(tmp_path_factory) -> Iterator[str]:
    """Build what the README has an operator build."""
    folder = tmp_path_factory.mktemp("image")
    slugs.unpack(slugs.slug("mix"), folder / "release")
    made = images.derive(f"manifests-{os.getpid()}", "RUN rm /app\nCOPY release /app", folder)
    yield made
    images.remove(made)


class Pod:
    """A pod of the manifests: its containers, in the order and on the volumes that it has."""

    def __init__(self, variant: str, image: str, folder: Path) -> None:
        self._documents, self._image, self._folder = example(variant), image, folder
        self._spec = pod(self._documents)["spec"]
        folder.chmod(0o755)

    def initialize(self) -> None:
        """Run the init containers, each to its end."""
        for spec in self._spec["initContainers"]:
            entrypoint = f"--entrypoint={json.dumps(spec['command'])}"
            with Container(**self._options(spec, entrypoint)) as running:
                assert running.wait() == 0, running.text()

    def run(self, *arguments: str) -> Container:
        """Return the container, with other arguments where some are given."""
        spec = container(self._documents)
        settings = manifests.environment(self._documents) | {"MY_POD_IP": "127.0.0.1"}
        return Container(*arguments or spec["args"], settings=settings, **self._options(spec))

    def _options(self, spec, *more):
        about = self._spec["securityContext"]
        assert spec["securityContext"]["readOnlyRootFilesystem"]
        return {
            "image": self._image,
            "user": f"{about['runAsUser']}:{about['runAsGroup']}",
            "memory": spec["resources"]["limits"]["memory"].replace("Mi", "m"),
            "volumes": {
                self._volume(mount["name"]): mount["mountPath"] for mount in spec["volumeMounts"]
            },
            "options": (
                "--read-only",
                "--read-only-tmpfs=false",
                "--cap-drop=all",
                "--security-opt=no-new-privileges",
                *more,
            ),
        }

    def _volume(self, name: str) -> Path:
        """Make a volume as the kubelet makes it: root's, and open to everybody."""
        folder = self._folder / name
        if not folder.exists():
            folder.mkdir()
            folder.chmod(0o2777)
            if name == "ssh-keys":
                for file, text in manifests.only(self._documents, "ConfigMap")["data"].items():
                    (folder / file).write_text(text)
        return folder


def test_a_replica_becomes_ready_and_stops(release_image, tmp_path):
    replica = Pod(".", release_image, tmp_path)
    replica.initialize()
    with replica.run() as running:
        running.until('"ready"', NODE_SECONDS)
        status = json.loads(running.exec("run-agent", "status", "--json").stdout)
        assert status["ready"] is True
        assert running.exec("touch", "/app/writable", "/tmp/writable").returncode == 0
        assert running.exec("touch", "/etc/writable").returncode == 1
        assert running.exec("run-agent", "distillery_eval", "1 + 1").stdout.splitlines()[-1] == "2"
        assert running.stop() == 0


def test_a_job_runs_a_command_of_the_release(release_image, tmp_path):
    *words, expression = container(example("migrate"))["args"]
    assert expression == "Hello.Release.migrate()"
    job = Pod("migrate", release_image, tmp_path)
    with job.run(*words, 'IO.puts(System.fetch_env!("RELEASE_NAME"))') as running:
        assert running.wait(NODE_SECONDS) == 0, running.text()
        assert running.stdout.read_text() == "hello\n"
