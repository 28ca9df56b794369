"""examples/kubernetes: what its pods ask for is enough to run in, next to a kubelet's volumes."""

import json
import os
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from support import images, manifests, podman, slugs, upgrading
from support.container_replica import CONTROLLER
from support.containers import Container
from support.manifests import container, example, pod
from support.ssh import OPTIONS, Key, client_environ, make_key
from support.terminal import on_terminal
from support.upgrading import NODE_SECONDS, VERB_SECONDS
from support.wait import PATIENCE_SECONDS

MESSAGE_BYTES = 2048
"""How much of the end of a log becomes a termination message (Kubernetes documentation)."""


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

    def __init__(
        self, variant: str, image: str, folder: Path, *, mounted: Mapping[Path | str, str] = {}
    ) -> None:
        self._documents, self._image, self._folder = example(variant), image, folder
        self._spec = pod(self._documents)["spec"]
        self._mounted = mounted
        folder.chmod(0o755)

    def initialize(self) -> None:
        """Run the init containers, each to its end."""
        for spec in self._spec["initContainers"]:
            entrypoint = f"--entrypoint={json.dumps(spec['command'])}"
            with Container(**self._options(spec, entrypoint)) as running:
                assert running.wait() == 0, running.text()

    def run(self, *arguments: str, **settings: str) -> Container:
        """Return the container, with other arguments and settings where some are given."""
        spec = container(self._documents)
        environ = manifests.environment(self._documents) | {"MY_POD_IP": "127.0.0.1"} | settings
        return Container(*arguments or spec["args"], settings=environ, **self._options(spec))

    def admit(self, key: Key) -> None:
        """Let that key in, as the ConfigMap does."""
        (self._volume("ssh-keys") / "authorized_keys").write_text(f"{key.line}\n")

    def _options(self, spec, *more):
        about = self._spec["securityContext"]
        assert spec["securityContext"]["readOnlyRootFilesystem"]
        return {
            "image": self._image,
            "user": f"{about['runAsUser']}:{about['runAsGroup']}",
            "memory": spec["resources"]["limits"]["memory"].replace("Mi", "m"),
            "volumes": {
                self._volume(mount["name"]): mount["mountPath"] for mount in spec["volumeMounts"]
            }
            | dict(self._mounted),
            "options": (
                "--read-only",
                "--read-only-tmpfs=false",
                "--cap-drop=all",
                "--security-opt=no-new-privileges",
                "--passwd=false",  # podman makes an account for the uid, containerd does not
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


def _ssh(running: Container, key: Key, user: str, *words: str) -> list[str]:
    """Return the argv of a client in the pod's own network, as after `kubectl port-forward`."""
    known = OPTIONS | {"UserKnownHostsFile": str(running.folder / "known_hosts")}
    told = [word for name, value in known.items() for word in ("-o", f"{name}={value}")]
    return [
        "nsenter", f"--net=/proc/{running.pid}/ns/net",
        "ssh", "-F", "none", *told, "-p", "2222", "-i", str(key.path), f"{user}@127.0.0.1", *words,
    ]  # fmt: skip


def test_a_uid_without_an_account_has_shells_consoles_and_logins(release_image, tmp_path):
    key = make_key(tmp_path / "key")
    replica = Pod(".", release_image, tmp_path)
    replica.initialize()
    replica.admit(key)
    exec_console = ("exec", "--interactive", "--tty")
    with replica.run() as running:
        running.until('"ready"', NODE_SECONDS)
        nobody = running.exec("sh", "-c", "! whoami && cd ~ && id -u")
        assert (nobody.returncode, nobody.stdout) == (0, "10001\n"), nobody
        for user in ("root", "hello"):
            asked = "id -u; tty; bin/hello eval 'IO.puts(System.user_home!())'"
            done = subprocess.run(
                _ssh(running, key, user, "-tt", asked), env=client_environ(), check=False,
                stdin=subprocess.DEVNULL, capture_output=True, timeout=PATIENCE_SECONDS,
            )  # fmt: skip
            assert done.stdout.split() == [b"10001", b"/dev/pts/0", b"/"], done
        for argv in (
            podman.argv(*exec_console, running.name, "run-agent", "remote_console"),
            _ssh(running, key, "root", "-tt", "gigalixir_run remote_console"),
        ):
            with on_terminal(argv, env=os.environ) as console:
                console.until_shown(r"iex\(hello@127\.0\.0\.1\)1> ", NODE_SECONDS)
                console.type("6 * 7\n")
                console.until_shown(r"(?m)^42")
        assert running.stop() == 0


def test_a_wrong_setting_is_in_the_termination_message(release_image, tmp_path):
    with Pod(".", release_image, tmp_path).run(HEALTH_PORT="4000") as running:
        assert running.wait() == 78
        assert "HEALTH_PORT=4000 is the app's PORT as well" in running.text()[-MESSAGE_BYTES:]


def test_a_controllers_replica_is_upgraded_in_place(image, tmp_path):
    told = tmp_path / "controller"
    told.mkdir()

    def deploy(version: str) -> None:
        slug = upgrading.upgrade_slugs.slug("mix", version).read_bytes()
        (told / f"{version}.tar.gz").write_bytes(slug)
        release = {"slug_url": f"{version}.tar.gz", "customer_app_name": "hello"}
        (told / "release.json").write_text(json.dumps(release | {"version": version}))

    deploy("0.1.0")
    (told / "ssh_keys").touch()
    replica = Pod("controller", image, tmp_path, mounted={told: f"{CONTROLLER}:ro"})
    settings = {"CONTROLLER_URL": f"file://{CONTROLLER}"} | upgrading.QUICK
    with replica.run(**settings) as running:
        running.until('"ready"', NODE_SECONDS)
        deploy("0.2.0")
        upgraded = running.exec("run-agent", "upgrade", "--json", timeout=VERB_SECONDS)
        assert upgraded.returncode == 0, upgraded
        assert json.loads(upgraded.stdout)["serves"] == "0.2.0"
        assert running.stop() == 0
