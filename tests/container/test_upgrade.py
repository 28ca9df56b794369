"""A hot upgrade in a container, and what a container after it boots."""

import json

import pytest

from support import load
from support.platform import current
from support.ssh_replica import ssh
from support.upgrading import NODE_SECONDS, VERB_SECONDS, change, deploy, serves, status

CONNECTIONS = 20
PER_SECOND = 200.0


@pytest.mark.parametrize("kind", ["mix", "relx"])
def test_connections_stay_and_the_next_container_boots_the_new_version(host, kind):
    replica, key = host.boot_open(kind)
    pid, before = replica.pid, status(replica)["release_pid"]
    with (
        load.Http(int(replica.environ["PORT"]), PER_SECOND) as http,
        load.Connections(int(replica.environ["TCP_PORT"]), CONNECTIONS) as connections,
    ):
        deploy(host, kind, "0.2.0")
        assert change(replica, "upgrade").verdict == (0, "done", "0.2.0")
        assert connections.check() == {"0.2.0": CONNECTIONS}
        digest = deploy(host, kind, "0.3.0")
        done = ssh(replica, key, "--", "run-agent upgrade --json", timeout=VERB_SECONDS)
        assert json.loads(done.stdout)["serves"] == "0.3.0", done
        assert connections.check() == {"0.3.0": CONNECTIONS}
    assert http.report.failed == {}
    assert set(http.report.versions) == {"0.1.0", "0.2.0", "0.3.0"}
    assert (replica.pid, status(replica)["release_pid"]) == (pid, before)
    (host.controller / "release.json").unlink()
    again = host.boot_again(replica, settings=dict(replica.environ)).until_ready(NODE_SECONDS)
    assert (serves(again), status(again)["version"]) == ("0.3.0", "0.3.0")
    assert current(again.root) == digest
    assert again.term().wait() == 0


def test_a_restart_of_the_container_boots_the_new_version(host):
    replica = host.boot_release()
    deploy(host, "mix", "0.2.0")
    assert change(replica, "upgrade").verdict == (0, "done", "0.2.0")
    first = replica.pid
    replica.restart()
    replica.until_ready(NODE_SECONDS)
    assert serves(replica) == "0.2.0"
    assert replica.pid != first
    assert replica.verb("status").stdout.startswith("hello: ready since ")
