"""A whole replica without root, without a writable image, as whoever the platform chooses."""

from contextlib import suppress

import psutil
import pytest

from support import load
from support.platform import ask
from support.ssh_replica import ssh
from support.upgrading import change, deploy, serves

NOBODY_KNOWS = "1000730000:0"
"""A uid without an account, in the group root, as OpenShift gives."""

UNPRIVILEGED = ("--cap-drop=all", "--security-opt=no-new-privileges")
"""What Kubernetes' restricted profile leaves."""


@pytest.mark.parametrize("user", ["65534:65534", NOBODY_KNOWS, "0:0"])
def test_it_boots_serves_changes_and_stops_in_order(host, user):
    replica, key = host.boot_open(user=user, read_only=True, options=UNPRIVILEGED, volume=False)
    uid = user.partition(":")[0]
    assert ask(replica, "/")[1].startswith(b"version=0.1.0 node=hello@127.0.0.1 ")
    assert uids(replica) == {uid}
    done = ssh(replica, key, "--", "id -u; pwd; touch /usr/x; echo ok > /tmp/x && cat /tmp/x")
    assert done.stdout.decode().split("\n")[:3] == [uid, "/app", "ok"]
    assert b"Read-only file system" in done.stderr
    assert ssh(replica, key, "-tt", "--", "tty").stdout == b"/dev/pts/0\r\n"
    deploy(host, "mix", "0.2.0")
    with load.Connections(int(replica.environ["TCP_PORT"]), 3) as connections:
        assert change(replica, "upgrade").verdict == (0, "done", "0.2.0")
        assert connections.check() == {"0.2.0": 3}
    assert serves(replica) == "0.2.0"
    assert replica.container.stop(20) == 0


def uids(replica):
    """Return whom the processes in it run as; one may end while it is looked at."""
    found = set()
    for process in replica.alive():
        with suppress(psutil.NoSuchProcess):
            found.add(str(process.uids().effective))
    return found


def test_a_volume_on_which_nothing_may_be_executed_is_named(host):
    """As `--tmpfs` is by default, and as hardened nodes mount what they lend."""
    deploy(host, "mix", "0.1.0")
    options = ("--tmpfs=/var/lib/run-agent:noexec,mode=1777",)
    replica = host.boot(network="none", volume=False, options=options)
    assert replica.wait() == 78, replica.log
    assert replica.events("is mounted noexec; mount it with exec")
