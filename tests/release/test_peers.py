"""Which nodes are connected to ours: seen on real nodes, counted, and shown."""

import asyncio
import contextlib
import os
import re
import shutil
import signal
import subprocess
import time

import psutil
import pytest

from entrypoint import ask as asking
from entrypoint import launch as launches
from entrypoint.commands.status import _nodes
from entrypoint.peers import Peers
from entrypoint.replica import Facts, Replica
from run_agent import node, settings
from run_agent.model import Launch, Secret
from run_agent.node import Node
from run_agent.release import identify
from support import by_hand, slugs
from support.platform import until_waits_for
from support.upgrading import NODE_SECONDS
from support.wait import until

HOST = "127.0.0.1"
QUICK_SECONDS = 5.0
"""More than any deadline of ours for an answer, less than what would have missed it."""

MANY = 300
LONG = "a-release-of-some-length"


class Hello:
    """A release that runs in a root as an agent finds it, and the nodes beside it."""

    def __init__(self, release, root):
        self.env, self.process, self.root = release.env, release.process, root
        self.name = release.env["RELEASE_NODE"]
        self.published, self.heard = 0, asyncio.Event()
        self.release = identify(release.tree, "hello")
        self._peers = contextlib.ExitStack()
        (root / "app").symlink_to(release.tree)
        self.options = self.settings()
        launches.save(self.options.layout, Launch(("bin/hello",), self.env, release.tree), None)

    def settings(self, **values):
        environ = {"RUN_AGENT_ROOT": str(self.root), "CONTROLLER_URL": "none"} | values
        return settings.load(environ, app="hello", needs_controller=True)

    def replica(self, **facts):
        release = {"state": "running", "pid": self.process.pid}
        return Replica(Facts("hello", **{"release": "hello"} | facts), release=release)

    def peers(self, replica=None, **values):
        replica = replica or self.replica()
        return Peers(self.settings(**values), replica, self.publish), replica

    def publish(self):
        self.published += 1
        self.heard.set()

    def node(self, *, by_tool=False):
        return Node(
            self.name, Secret(self.env["RELEASE_COOKIE"]), env=self.env, run=self.root,
            erl_call=None if by_tool else self.release.erl_call, by_tool=self.release.evaluate,
        )  # fmt: skip

    def connected(self, **options):
        return asyncio.run(self.node(**options).connected())

    def join(self, name, *options):
        """Start a node that connects to ours; returns its process."""
        process = join(name, self.name, self.env, self.env["RELEASE_COOKIE"], *options)
        self._peers.callback(process.wait)
        self._peers.callback(process.kill)
        return process

    def until_connected(self, *names):
        expected = tuple(f"{name}@{HOST}" for name in names)
        until(lambda: self.connected() == expected, lambda: f"{self.connected()} != {expected}")

    @contextlib.contextmanager
    def hung(self):
        self.process.send_signal(signal.SIGSTOP)
        vm = psutil.Process(self.process.pid)
        until(lambda: vm.status() == psutil.STATUS_STOPPED, "it goes on")
        try:
            yield
        finally:
            self.process.send_signal(signal.SIGCONT)

    def end(self):
        self._peers.close()


def join(name, node, environ, cookie, *options):
    """Start a node that connects to `node` of its own accord, as soon as that is there."""
    connect = f"net_kernel:connect_node('{node}'), timer:sleep(100)"
    connect = f"spawn(fun Again() -> {connect}, Again() end)"
    arguments = ("-name", f"{name}@{HOST}", "-setcookie", cookie, *options, "-eval", connect)
    return subprocess.Popen(
        (shutil.which("erl"), "-noinput", *arguments),
        env=environ, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
    )  # fmt: skip


@pytest.fixture
def start(environment, tmp_path):
    """Start a release of the kind that is named."""
    with contextlib.ExitStack() as stack:

        def start(kind):
            tree = by_hand.app(kind, tmp_path)
            release = stack.enter_context(by_hand.started(kind, tree, environment))
            root = tmp_path / "root"
            (root / "run" / "run-agent").mkdir(parents=True)
            hello = Hello(release, root)
            stack.callback(hello.end)
            return hello

        yield start


@pytest.fixture
def hello(start):
    return start("mix")


def refreshed(peers, replica):
    asyncio.run(peers.refresh())
    return replica.nodes


def test_what_is_connected_and_visible_is_told_in_order(hello):
    assert hello.connected() == ()
    hello.join("peer2")
    hello.join("peer1")
    hello.join("console", "-hidden")
    hello.until_connected("peer1", "peer2")
    until(lambda: "console" in asyncio.run(hello.node().evaluate("nodes(hidden)")), "not there")
    assert hello.connected() == (f"peer1@{HOST}", f"peer2@{HOST}")


@pytest.mark.parametrize("kind", ["mix", "relx", "distillery1", "distillery2"])
def test_through_a_release_s_tool_hundreds_of_names_arrive(start, kind, monkeypatch):
    hello = start(kind)
    hello.join("peer1")
    hello.until_connected("peer1")
    assert hello.connected(by_tool=True) == (f"peer1@{HOST}",)
    names = [f"{LONG}@10.244.{n * 37 % 256}.{n * 101 % 251}" for n in range(MANY)]
    atoms = ",".join(f"'{name}'" for name in names)  # what nodes() is in a cluster of that size
    monkeypatch.setattr(node, "_CONNECTED", node._CONNECTED.replace("nodes()", f"[{atoms}]"))
    assert hello.connected(by_tool=True) == tuple(sorted(names))


def test_a_node_that_hangs_or_is_gone_is_said_within_the_deadline(hello):
    peers, replica = hello.peers()
    hello.join("peer1")
    hello.until_connected("peer1")
    before = refreshed(peers, replica)
    with hello.hung():
        asked = time.monotonic()
        hung = refreshed(peers, replica)
        assert time.monotonic() - asked < QUICK_SECONDS
    assert f"cannot wait longer than 2 s for the node {hello.name}: it hangs" in hung["problem"]
    assert hung == before | {"problem": hung["problem"]}
    assert _nodes(hung).startswith(
        f"1 connected (asked {before['asked_at']}): peer1@{HOST}; cannot"
    )
    until(lambda: refreshed(peers, replica)["problem"] is None, "the node does not go on")
    assert hello.process.poll() is None
    hello.process.kill()
    hello.process.wait()
    assert f"cannot reach the node {hello.name}" in refreshed(peers, replica)["problem"]


def test_nodes_that_come_and_go_are_logged_once(hello, caplog):
    caplog.set_level("INFO", "peers")
    peers, replica = hello.peers()
    assert refreshed(peers, replica)["connected"] == []
    peer = hello.join("peer1")
    hello.until_connected("peer1")
    for _ in range(3):
        assert refreshed(peers, replica)["connected"] == [f"peer1@{HOST}"]
    peer.kill()
    hello.until_connected()
    assert refreshed(peers, replica)["count"] == 0
    said = [f"node peer1@{HOST} connected", f"node peer1@{HOST} gone"]
    assert [record.message for record in caplog.records] == said
    assert hello.published == 5


def test_it_is_asked_again_and_again_until_the_release_ends(hello, monkeypatch):
    monkeypatch.setattr("entrypoint.peers.PEERS_SECONDS", 0.1)
    peers, replica = hello.peers()

    async def until_counted(count):
        while replica.nodes is None or replica.nodes["count"] != count:
            hello.heard = asyncio.Event()
            await hello.heard.wait()

    async def watch():
        async with asyncio.timeout(by_hand.READY_SECONDS), asyncio.TaskGroup() as tasks:
            task = tasks.create_task(peers.run())
            await until_counted(0)
            hello.join("peer1")
            await until_counted(1)
            replica.release = {"state": "restarting", "pid": None}
            peers.release_changed()
            assert replica.nodes is None
            task.cancel()

    asyncio.run(watch())


def test_the_gate_opens_when_so_many_have_been_there_and_stays_open(hello):
    peers, replica = hello.peers(CLUSTER_MIN="3")
    gate = peers.gate(ready)
    assert asyncio.run(gate()) == "2 more nodes to connect (1 of 3: CLUSTER_MIN)"
    first = hello.join("peer1")
    hello.until_connected("peer1")
    assert asyncio.run(gate()) == "1 more node to connect (2 of 3: CLUSTER_MIN)"
    assert not replica.nodes["gathered"]
    hello.join("peer2")
    hello.until_connected("peer1", "peer2")
    assert asyncio.run(gate()) is None
    assert replica.nodes["gathered"]
    first.kill()
    hello.until_connected("peer2")
    with hello.hung():
        assert asyncio.run(gate()) is None
    assert asyncio.run(peers.gate(unready)()) == "the app"
    # an agent that takes over knows that it was open
    heir = hello.replica()
    heir.nodes = replica.nodes
    assert asyncio.run(hello.peers(heir, CLUSTER_MIN="3")[0].gate(ready)()) is None
    # another start of the release gathers them again
    replica.release = replica.release | {"pid": os.getpid()}
    assert asyncio.run(gate()) == "1 more node to connect (2 of 3: CLUSTER_MIN)"


def test_the_gate_says_why_it_cannot_count(hello):
    peers, _ = hello.peers(CLUSTER_MIN="2")
    with hello.hung():
        asked = time.monotonic()
        waits_for = asyncio.run(peers.gate(ready)())
        assert time.monotonic() - asked < QUICK_SECONDS
    assert waits_for.startswith(
        "2 connected nodes (CLUSTER_MIN), which nobody can count: cannot wait"
    )
    assert asyncio.run(hello.peers()[0].gate(ready)()) is None


async def ready():
    return None


async def unready():
    return "the app"


# -- in a replica ---------------------------------------------------------------------------------


@pytest.fixture
def replica(platform):
    """Boot a replica that waits for one other node."""
    platform.deploy(slugs.slug("mix").read_bytes())
    return platform.boot(settings={"CLUSTER_MIN": "2"})


@contextlib.contextmanager
def joined(replica, name):
    """Have a node connect to the replica's; yields its process."""
    replica.until_said("release started", NODE_SECONDS)
    cookie = replica.verb("shell", "--", "printenv", "RELEASE_COOKIE").stdout.strip()
    process = join(name, "hello@127.0.0.1", replica.environ, cookie)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def nodes(replica):
    """Return what `status` tells of them; asked for without a process, as that is slow."""
    socket = replica.root / "run" / "run-agent" / "control.sock"
    *_, last = asking.call(socket, "status")
    return last["result"]["nodes"]


def until_probe_shows(replica, *names):
    def shown():
        return (replica.get("/readyz").body["nodes"] or {}).get("connected")

    until(lambda: shown() == [f"{name}@{HOST}" for name in names], shown, NODE_SECONDS)


def test_a_replica_waits_for_its_peers_once_and_shows_them(replica):
    until_waits_for(replica, "1 more node to connect (1 of 2: CLUSTER_MIN)")
    assert replica.get("/readyz").status == 503
    with joined(replica, "peer1") as peer:
        replica.until_ready(NODE_SECONDS)
        until_probe_shows(replica, "peer1")
        shown = nodes(replica)
        assert (shown["count"], shown["connected"]) == (1, [f"peer1@{HOST}"])
        line = rf"^  nodes    1 connected \(asked \d{{4}}-.*Z\): peer1@{re.escape(HOST)}"
        assert re.search(line, replica.verb("status").stdout, re.MULTILINE)
        replica.until_said(f"node peer1@{HOST} connected")
        before = replica.agent_pid
        psutil.Process(before).kill()
        until(lambda: replica.agent() not in {None, before}, "no agent came after it")
        until(lambda: nodes(replica)["asked_at"] > shown["asked_at"], "it does not ask again")
        assert len(replica.events(f"node peer1@{HOST} connected")) == 1
        peer.kill()
        until_probe_shows(replica)
    replica.until_said(f"node peer1@{HOST} gone")
    assert replica.is_ready()


def test_a_node_that_hangs_delays_neither_status_nor_the_stop(replica):
    with joined(replica, "peer1"):
        replica.until_ready(NODE_SECONDS)
        release = psutil.Process(replica.release_pid)
        release.suspend()
        until(lambda: release.status() == psutil.STATUS_STOPPED, "it goes on")
        try:
            asked = time.monotonic()
            assert "cannot wait longer than 2 s" in nodes(replica)["problem"]
            assert time.monotonic() - asked < QUICK_SECONDS
        finally:
            release.resume()
    assert replica.term().wait() == 0


def test_another_start_of_the_release_waits_again(platform):
    platform.deploy(slugs.slug("mix").read_bytes())
    replica = platform.boot(settings={"CLUSTER_MIN": "2", "RESTART": "on-failure"})
    until_waits_for(replica, "1 more node to connect")
    with joined(replica, "peer1"):
        replica.until_ready(NODE_SECONDS)
    psutil.Process(replica.release_pid).kill()
    until_waits_for(replica, "1 more node to connect")
    with joined(replica, "peer2"):
        replica.until_ready(NODE_SECONDS)


def test_where_there_is_no_node_nobody_is_asked_and_none_can_be_waited_for(platform):
    command = ("exec", "--", "sleep", "60")
    replica = platform.boot(verb=command, settings={"CLUSTER_MIN": "2"})
    assert replica.wait() == os.EX_CONFIG
    assert "CLUSTER_MIN=2 counts" in replica.log
    replica = platform.boot(verb=command, settings={"READY_CHECK": "none"}).until_ready()
    assert replica.get("/readyz").body["nodes"] is None
    assert "nodes" not in replica.verb("status").stdout
