"""A cluster of real nodes, each on a host of its own: found, lost, cut off, upgraded.

The API allows what the example's Role allows, and nothing else.
"""

import logging
import os
import signal
import socket
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from support import load
from support.cluster import APP, DIST_PORT, EPMD_PORT, HEALTH_PORT, PORT, Cluster, Pod
from support.cluster_slugs import NEW, OLD
from support.platform import until_waits_for
from support.wait import until

FIXED = {"DIST_PORT": str(DIST_PORT)}
THREE = {"CLUSTER_MIN": "3"}

REQUESTS_PER_SECOND = 50.0

DROPPED_SECONDS = 1.0
"""How long a connection is tried that a firewall drops."""

log = logging.getLogger(__name__)


@pytest.fixture
def cluster(tmp_path, request) -> Iterator[Cluster]:
    """Give a cluster without pods, of releases of that kind."""
    with Cluster(tmp_path, getattr(request, "param", "relx")) as cluster:
        yield cluster


def assert_told(*pods: Pod) -> None:
    """Fail unless run-agent tells of each pod what is true of its node, everywhere."""
    for pod in pods:
        others = {other.node for other in pods if other is not pod}
        nodes = pod.status()["nodes"]
        assert (set(nodes["connected"]), nodes["count"]) == (others, len(others)), pod.log
        until(lambda pod=pod, others=others: pod.told() == others, f"{pod.node} in /readyz")


def assert_sound(cluster: Cluster, *pods: Pod) -> None:
    """Fail unless these, and nobody else, are connected, and hear all that they tell each other."""
    cluster.until_joined(*pods)
    for pod in pods:
        pod.until_ready()
    cluster.until_heard(*pods)
    assert cluster.faults(*pods) == {}
    assert_told(*pods)


def assert_upgrade_told(cluster: Cluster, pod: Pod) -> None:
    """Fail unless the API knows how the pod has got its version."""
    told, status = cluster.told(pod), pod.status()
    event = told.until_happened("UpgradeDone", lambda: pod.log)
    assert (event["type"], event["message"]) == ("Normal", f"{NEW} serves; it was {OLD}")
    assert told.annotations == {
        "version": NEW,
        "slug-digest": status["digest"],
        "hot-upgraded-at": status["hot_upgraded_at"],
        "last-operation": "upgrade",
        "last-verdict": "done",
        "last-operation-at": status["last_change"]["at"],
    }


def ready_since(pod: Pod) -> str:
    """Return since when it has been ready without a break."""
    answer = pod.get("/readyz")
    assert answer.status == 200, (answer, pod.log)
    return str(answer.body["since"])


def named_by_epmd(asked: Pod, by: Pod) -> str:
    """Return the names that one replica's epmd tells another one."""
    with (
        by.host.joined(),
        socket.create_connection((asked.host.address, EPMD_PORT), timeout=10) as connection,
    ):
        connection.sendall(b"\0\1n")
        with connection.makefile("rb") as answer:
            return answer.read()[4:].decode()


@pytest.mark.parametrize("cluster", ["relx", "mix"], indirect=True)
def test_replicas_find_each_other_through_a_firewall_with_two_ports(cluster):
    pods = cluster.boot(3, FIXED, firewall=(EPMD_PORT, DIST_PORT))
    assert_sound(cluster, *pods)
    for pod, other in zip(pods, pods[1:] + pods[:1], strict=True):
        names = {"MY_NODE_NAME": pod.node, "RELEASE_NODE": pod.node, "MY_POD_IP": pod.host.address}
        names |= {"LIBCLUSTER_KUBERNETES_SELECTOR": f"repo={APP}"}
        names |= {"LIBCLUSTER_KUBERNETES_NODE_BASENAME": APP}
        assert {name: pod.ask(f"/env/{name}") for name in names} == names
        assert named_by_epmd(pod, by=other) == f"name {APP} at port {DIST_PORT}\n"
        for port in PORT, HEALTH_PORT:
            with pytest.raises(TimeoutError), other.host.joined():
                socket.create_connection((pod.host.address, port), DROPPED_SECONDS)
    assert len({pod.ask("/env/ERLANG_COOKIE") for pod in pods}) == 1


def test_one_is_killed_and_another_takes_its_place(cluster):
    *left, lost = cluster.boot(3)
    assert_sound(cluster, *left, lost)
    since = [ready_since(pod) for pod in left]
    cluster.kill(lost)
    assert_sound(cluster, *left)
    [another] = cluster.boot()
    assert another.host.address != lost.host.address
    assert_sound(cluster, *left, another)
    assert [ready_since(pod) for pod in left] == since
    for pod, other in zip(left, reversed(left), strict=True):
        assert pod.heard()[other.node].connections == 1, "they have lost each other"


def test_both_sides_of_a_partition_stay_ready_and_join_again(cluster):
    *many, one = pods = cluster.boot(3, THREE)
    assert_sound(cluster, *pods)
    since = [ready_since(pod) for pod in pods]
    cluster.bridge.unplug(one.host)
    assert_sound(cluster, *many)
    os.kill(one.agent_pid, signal.SIGKILL)  # its successor knows that three have been there
    assert_sound(cluster, one)
    assert all(pod.status()["ready"] for pod in pods)
    cluster.bridge.plug(one.host)
    assert_sound(cluster, *pods)
    assert [ready_since(pod) for pod in pods] == since


@pytest.mark.parametrize("cluster", ["relx", "mix"], indirect=True)
def test_a_rolling_hot_upgrade_loses_neither_message_nor_connection_nor_request(cluster, caplog):
    caplog.set_level(logging.INFO)
    pods = cluster.boot(3)
    assert_sound(cluster, *pods)
    cluster.deploy(NEW)
    loads = [load.Http(PORT, REQUESTS_PER_SECOND) for _ in pods]
    with ExitStack() as stack:
        for pod, http in zip(pods, loads, strict=True):
            with pod.host.joined():
                stack.enter_context(http)
        for pod in pods:
            done = pod.verb("upgrade", "--json", timeout=60)
            assert (done.returncode, pod.serves()) == (0, NEW), (done, pod.log)
            cluster.until_reported(pod, NEW)
            assert_upgrade_told(cluster, pod)
            assert_sound(cluster, *pods)
    assert {pod.name: cluster.told(pod).reasons for pod in pods} == {
        pod.name: ["UpgradeDone"] for pod in pods
    }
    for pod, http in zip(pods, loads, strict=True):
        heard = pod.heard()
        assert set(heard) == {other.node for other in pods} - {pod.node}
        assert {told.connections for told in heard.values()} == {1}
        assert (http.report.failed, set(http.report.versions)) == ({}, {OLD, NEW})
        log.info("%s: %s, slowest request %.1f ms", pod.node, heard, http.report.slowest_ms)


def test_readiness_waits_once_for_as_many_as_cluster_min_says(cluster):
    pods = cluster.boot(2, THREE)
    cluster.until_joined(*pods)
    for pod in pods:
        until_waits_for(pod, "1 more node to connect (2 of 3: CLUSTER_MIN)")
        assert pod.get("/readyz").status == 503
    pods += cluster.boot(1, THREE)
    for pod in pods:
        pod.until_ready()
    assert_sound(cluster, *pods)
    since = [ready_since(pod) for pod in pods[1:]]
    cluster.kill(pods[0])
    assert_sound(cluster, *pods[1:])
    assert [ready_since(pod) for pod in pods[1:]] == since


def test_an_api_that_fails_delays_no_boot_and_is_asked_until_it_answers(cluster):
    cluster.api.refuse()
    pods = cluster.boot(2)
    for pod in pods:
        pod.until_ready()
        assert pod.serves() == OLD
    until_failed(pods, "econnrefused")
    allowed = cluster.api.rules
    cluster.api.rules = [rule for rule in allowed if "endpoints" not in rule["resources"]]
    cluster.api.listen()
    until_failed(pods, "{status,403}")
    assert_told(pods[0])
    cluster.api.rules = allowed
    assert_sound(cluster, *pods)
    cluster.api.rotate_token(remount=False)
    until_failed(pods, "{status,401}")
    cluster.api.remount()
    pods += cluster.boot()
    assert_sound(cluster, *pods)
    for pod in pods:
        cluster.until_reported(pod, OLD)


def until_failed(pods: list[Pod], why: str) -> None:
    """Wait until each app has looked for its peers in vain, for that reason."""
    for pod in pods:
        until(lambda pod=pod: why in pod.found(), lambda pod=pod: f"{why!r}, {pod.found()}")
