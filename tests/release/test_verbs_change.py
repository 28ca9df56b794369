"""`migrate` and `reconfigure` of a whole replica, by kubectl exec, SSH and the public client."""

import json
import os
import signal
import socket
import subprocess

import psutil
import pytest

from support import slugs, upgrade_slugs
from support.gigalixir_api import Client, GigalixirApi
from support.platform import ask, current
from support.replica import RUN_AGENT
from support.ssh_replica import key_and_settings, ssh, until_open
from support.wait import PATIENCE_SECONDS, until

NODE_SECONDS = 60.0
VERB_SECONDS = 60.0
KINDS = ("mix", "relx")
SECRET = "the-value-that-nobody-sees"


@pytest.fixture
def migrating(platform):
    """Boot the release that has migrations; its configuration tells how they go."""

    def migrating(kind="mix", settings=None, **config):
        slug = upgrade_slugs.slug(kind, "0.1.0", "migrating").read_bytes()
        platform.deploy(slug, config=config)
        return platform.boot(settings=settings).until_ready(NODE_SECONDS)

    return migrating


@pytest.fixture
def configured(platform):
    """Boot the example with a configuration; the platform's `controller.release` changes it."""

    def configured(kind="mix", settings=None, **config):
        platform.deploy(slugs.slug(kind).read_bytes(), config=config)
        return platform.boot(settings=settings).until_ready(NODE_SECONDS)

    return configured


def verb(replica, *arguments):
    return replica.verb(*arguments, timeout=VERB_SECONDS)


# -- migrate --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_a_migration_runs_on_the_node_and_shows_what_it_prints(migrating, kind):
    replica = migrating(kind)
    done = verb(replica, "migrate")
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 2
    assert "migrated hello: 2 migrations" in done.stderr
    assert json.loads(verb(replica, "migrate", "--json").stdout)["versions"] == [1, 2]
    assert b" node=hello@127.0.0.1 " in ask(replica, "/")[1]


def test_a_migration_that_fails_ends_with_1_and_the_reason(migrating):
    done = verb(migrating(HELLO_MIGRATE="raise"), "migrate")
    assert done.returncode == 1
    assert "cannot migrate hello" in done.stderr


def test_the_controllers_expression_is_used_where_there_is_one(platform, migrating):
    platform.controller.migrate = 'IO.puts("as the controller says")'
    done = verb(migrating(), "migrate", "-m", "hello")
    assert (done.returncode, done.stdout) == (0, "as the controller says\n")


def test_nothing_else_changes_during_a_migration(migrating):
    replica = migrating(HELLO_MIGRATE_SECONDS="4")
    node = psutil.Process(replica.release_pid)
    with under_way(replica) as migration:
        node.suspend()  # it migrates no further until all have asked
        for other in (("upgrade",), ("reconfigure",), ("migrate",)):
            refused = verb(replica, *other)
            assert refused.returncode == 14
            assert "the migration of hello is under way since" in refused.stderr
            assert f"asked for by process {migration.pid} (uid {os.getuid()})" in refused.stderr
        assert json.loads(verb(replica, "status", "--json").stdout)["change"]["what"] == (
            "migration of hello"
        )
        node.resume()
        assert migration.wait(VERB_SECONDS) == 0


def test_a_stop_lets_a_migration_end_within_the_grace(migrating):
    replica = migrating(HELLO_MIGRATE_SECONDS="3", settings={"GRACE_SECONDS": "25"})
    with under_way(replica) as migration:
        replica.term()
        assert migration.wait(VERB_SECONDS) == 0
    assert replica.wait() == 0
    assert replica.events("waiting for the migration of hello to end")
    assert replica.events("migrated hello: 2 migrations")


def test_a_migration_that_takes_longer_than_the_grace_is_said_to_be_cut(migrating):
    replica = migrating(HELLO_MIGRATE_SECONDS="600", settings={"GRACE_SECONDS": "12"})
    with under_way(replica) as migration:
        replica.term()
        assert migration.wait(VERB_SECONDS) != 0
        assert b"may have been done by half" in migration.stderr.read()
    assert replica.wait() == 0
    assert replica.events("not waiting longer for the migration of hello")


def test_who_goes_away_does_not_end_a_migration(migrating):
    replica = migrating(HELLO_MIGRATE_SECONDS="2")
    with under_way(replica) as migration:
        migration.send_signal(signal.SIGKILL)
        migration.wait(PATIENCE_SECONDS)
    until(lambda: replica.events("migrated hello: 2 migrations"), lambda: replica.log)


class under_way:  # noqa: N801 - reads as a context
    """A `run-agent migrate` that has begun to print."""

    def __init__(self, replica):
        self._replica = replica

    def __enter__(self):
        self._process = subprocess.Popen(
            [*RUN_AGENT, "migrate"],
            env=self._replica.environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        assert self._process.stdout.readline()
        return self._process

    def __exit__(self, *_):
        with self._process as process:
            process.kill()


# -- reconfigure ----------------------------------------------------------------------------------


def reconfigured(platform, **config):
    platform.controller.release = platform.controller.release | {"config": config}


@pytest.mark.parametrize("kind", KINDS)
def test_a_new_configuration_is_in_force_everywhere(platform, configured, kind):
    replica = configured(kind, {"RESTART": "on-failure"}, GREETING="before", GONE="x")
    pid = replica.release_pid
    reconfigured(platform, GREETING=SECRET, NEW="y")
    dry = verb(replica, "reconfigure", "--dry-run")
    assert dry.returncode == 0, dry.stderr
    assert dry.stdout.splitlines()[:2] == ["would be set: GREETING, NEW", "would be unset: GONE"]
    assert b"greeting=before" in ask(replica, "/")[1]
    done = verb(replica, "reconfigure")
    assert done.returncode == 0, done.stderr
    assert "changed in hello: greeting" in done.stdout
    assert f"greeting={SECRET}".encode() in ask(replica, "/")[1]
    assert replica.release_pid == pid
    seen = verb(replica, "shell", "--", "env").stdout.splitlines()
    assert {f"GREETING={SECRET}", "NEW=y"} <= set(seen)
    assert not any(line.startswith("GONE=") for line in seen)
    assert SECRET not in dry.stdout + dry.stderr + done.stdout + done.stderr + replica.log
    os.kill(pid, signal.SIGKILL)
    until(lambda: replica.release_pid not in {None, pid}, lambda: replica.log)
    replica.until_ready(NODE_SECONDS)
    assert f"greeting={SECRET}".encode() in ask(replica, "/")[1]
    assert verb(replica, "reconfigure").stdout.startswith("nothing to do")


def test_a_restart_in_place_is_asked_at_the_port_that_it_was_given(platform, configured, reserved):
    replica = configured("mix", {"RESTART": "on-failure"})
    pid, port = replica.release_pid, reserved.free()
    reconfigured(platform, PORT=str(port))
    done = verb(replica, "reconfigure")
    assert done.returncode == 0, done.stderr
    os.kill(pid, signal.SIGKILL)
    until(lambda: replica.release_pid not in {None, pid}, lambda: replica.log)
    replica.until_ready(NODE_SECONDS)
    with socket.create_connection(("127.0.0.1", port), PATIENCE_SECONDS):
        pass


def test_without_a_controller_there_is_nothing_to_take(boot_image):
    done = verb(boot_image(), "reconfigure")
    assert done.returncode == 10
    assert "its configuration is the container's environment; change that" in done.stderr


@pytest.fixture
def boot_image(platform, tmp_path):
    """Boot the release that an image holds itself."""

    def boot_image():
        root = tmp_path / "image"
        root.mkdir()
        slugs.unpack(slugs.slug("mix"), root / "app")
        settings = {"CONTROLLER_URL": "none"}
        return platform.boot(root=root, settings=settings).until_ready(NODE_SECONDS)

    return boot_image


# -- the ways to them -----------------------------------------------------------------------------


def test_the_same_over_ssh_and_by_the_public_client(platform, migrating, reserved, tmp_path):
    key, settings = key_and_settings(tmp_path, reserved)
    replica = until_open(migrating(settings=settings), key)
    done = ssh(replica, key, "--", "run-agent migrate", timeout=VERB_SECONDS)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 2
    done = ssh(replica, key, "--", "gigalixir_run reconfigure --json", timeout=VERB_SECONDS)
    assert json.loads(done.stdout)["set"] == []
    done = ssh(replica, key, "--", "run-agent upgrade", timeout=VERB_SECONDS)
    assert (done.returncode, done.stdout) == (0, b"already there: 0.1.0 serves already\n")
    assert current(replica.root)
    with GigalixirApi(ssh_host="127.0.0.1", language="elixir") as api:
        client = Client(
            tmp_path, api, "-F none", f"-p {replica.environ['SSH_PORT']}", f"-i {key.path}",
            "-o StrictHostKeyChecking=no", "-o UserKnownHostsFile=/dev/null",
            "-o IdentitiesOnly=yes", "-o LogLevel=ERROR",
        )  # fmt: skip
        done = client.run("ps:migrate")
        assert done.returncode == 0, done.stderr
        assert "migrated hello: 2 migrations" in done.stdout + done.stderr
        assert client.run("ps:migrate", "-m", "no_such_app").returncode != 0
