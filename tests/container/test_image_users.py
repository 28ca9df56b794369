"""It runs as anybody, where nothing can be written but two folders, and below another init."""

import json
import os
import stat

import pytest

from support import images, slugs, small_slugs
from support.containers import Container
from support.upgrading import NODE_SECONDS
from support.wait import until

ANYBODY = ["0", "1000", "1000:1000", "12345:54321"]
"""As --user has them; no account in the image has those numbers."""

SERVICES = {"SSH_PORT": "2222", "DRAIN_SECONDS": "0", "CONTROLLER_URL": "file:///etc/controller"}


@pytest.fixture
def controller(tmp_path):
    """Give a folder that is the controller, with a slug that anybody can run."""
    slug = small_slugs.running("echo $HOSTNAME as $(id -u):$(id -g); exec sleep 600")
    folder = tmp_path / "controller"
    folder.mkdir()
    (folder / "slug.tar.gz").write_bytes(slug)
    (folder / "ssh_keys").touch()
    (folder / "release.json").write_text(
        json.dumps({"slug_url": "slug.tar.gz", "customer_app_name": "hello", "version": "1"})
    )
    tmp_path.chmod(0o755)  # whoever runs in there
    return {folder: "/etc/controller:ro"}


@pytest.mark.parametrize("read_only", [False, True], ids=["", "read-only"])
@pytest.mark.parametrize("user", ANYBODY)
def test_anybody_can_run_it(image, controller, user, read_only):
    with Container("init", "hello", settings=SERVICES | {"READY_CHECK": "none"}, user=user,
                   read_only=read_only, volumes=controller,
                   options=("--hostname=replica-7",)) as container:  # fmt: skip
        container.until('"ready"')
        status = json.loads(container.exec("run-agent", "status", "--json").stdout)
        assert (status["ready"], status["release_state"]) == (True, "running")
        uid, _, gid = user.partition(":")
        # ready is what was started, whatever it has come to
        until(container.stdout.read_text, lambda: f"nothing is printed: {container.text()}")
        assert container.stdout.read_text() == f"replica-7 as {uid}:{gid or 0}\n"
        assert container.exec("sh", "-c", "echo x > /opt/run-agent/x").returncode or user == "0"
        assert (
            container.exec("test", "-e", "/var/lib/run-agent/running-replica-7.json").returncode
            == 0
        )
        assert container.exec("test", "-S", "/run/run-agent/control.sock").returncode == 0
        assert container.stop() == 143


def test_root_closes_both_folders_to_everybody_else(image, controller):
    with Container("exec", "sleep", "600") as container:
        container.until('"ready"')
        modes = container.exec("stat", "--format=%a", "/run/run-agent", "/var/lib/run-agent").stdout
        assert [int(mode, 8) & stat.S_IWOTH for mode in modes.split()] == [0, 0]
        assert container.exec("touch", "/run/run-agent/x", podman=("--user=1000",)).returncode == 1


def test_a_read_only_root_without_its_two_folders_says_what_to_mount(image):
    options = ("--read-only", "--read-only-tmpfs=false")
    with Container("exec", "sleep", "600", options=options) as container:
        assert container.wait() == os.EX_OSERR
        assert "cannot write /run/run-agent" in container.text()
        assert "mount a volume there that user 0 may write" in container.text()


def test_below_another_init_it_is_not_pid_1_and_all_the_same(image, controller):
    with Container("init", "hello", settings=SERVICES | {"READY_CHECK": "none"},
                   volumes=controller, options=("--init",)) as container:  # fmt: skip
        container.until('"ready"')
        assert container.exec("cat", "/proc/1/comm").stdout in {"catatonit\n", "podman-init\n"}
        assert json.loads(container.exec("run-agent", "status", "--json").stdout)["ready"]
        container.exec("run-agent", "shell", "sh", "-c", "sleep 600 & exit")  # an orphan
        assert container.stop() == 143


def test_an_image_with_a_release_of_its_own(image, tmp_path):
    """A Dockerfile of somebody who needs no controller: the link gives way to their release."""
    slugs.unpack(slugs.slug("mix"), tmp_path / "release")
    made = images.derive("release", "RUN rm /app\nCOPY release /app", tmp_path)
    settings = {"CONTROLLER_URL": "none", "MY_POD_IP": "127.0.0.1", "PORT": "4000"}
    try:
        for user in ("0", "12345:54321"):
            with Container("init", "hello", image=made, user=user, settings=settings) as container:
                container.until('"ready"', NODE_SECONDS)
                asked = container.exec("gigalixir_run", "distillery-eval", "--", "1 + 1")
                assert asked.stdout.splitlines()[-1] == "2", asked
                assert container.stop() == 0
    finally:
        images.remove(made)
