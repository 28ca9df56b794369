"""A real release over its whole life: not ready, ready, drained, stopped; and what is left."""

import datetime as dt
import json
import os
import re
import socket
import time

import psutil
import pytest

from support import slugs
from support.platform import ask, current, half_done, trees, until_kept, until_waits_for
from support.wait import until

KINDS = ("mix", "relx", "distillery1", "distillery2")
WORKER = {"HELLO_PORT": "none"}
BY_NODE = {"READY_CHECK": "node"}

WHICH_RELEASES = """
[{name, version, libraries, state}] = :release_handler.which_releases()
own = Enum.find(libraries, &List.starts_with?(&1, 'hello-'))
IO.puts(Enum.join([name, version, state, own], " "))
"""

NODE_SECONDS = 60.0
"""How long a node may take to boot beside others on two cores."""


@pytest.fixture
def deployed(platform):
    """Return the platform with a deploy of the kind that is named."""

    def deployed(kind, **config):
        platform.digest = platform.deploy(slugs.slug(kind).read_bytes(), config=config)
        return platform

    return deployed


def epmd_listens(replica) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", int(replica.environ["ERL_EPMD_PORT"]))) == 0


@pytest.mark.parametrize("as_pid_1", [True, False], ids=["pid-1", "ordinary"])
@pytest.mark.parametrize("kind", KINDS)
def test_it_boots_and_term_stops_it_in_order_with_nothing_left(deployed, kind, as_pid_1):
    platform = deployed(kind)
    replica = platform.boot(as_pid_1=as_pid_1).until_ready(NODE_SECONDS)
    assert b" node=hello@127.0.0.1 " in ask(replica, "/")[1]
    until_kept(replica, platform.digest)
    assert epmd_listens(replica)
    assert replica.term().wait() == 0
    assert re.search(r"release ended after \d+\.\d s: exit code 0", replica.log)
    assert not epmd_listens(replica)
    assert not replica.alive()
    assert (half_done(replica.root), trees(replica.root)) == ([], {platform.digest})
    assert not list(replica.root.rglob("erl_crash.dump"))


@pytest.mark.parametrize("kind", ["mix", "relx"])
def test_a_worker_without_a_port_is_ready_by_its_node(deployed, kind):
    replica = deployed(kind, **WORKER).boot(settings=BY_NODE).until_ready(NODE_SECONDS)
    status = replica.get("/readyz").body
    assert (status["node"], status["waits_for"]) == ("hello@127.0.0.1", [])
    with pytest.raises(ConnectionRefusedError):
        ask(replica, "/")
    assert replica.term().wait() == 0


def test_a_worker_without_a_port_is_never_ready_by_its_port(deployed):
    replica = deployed("relx", **WORKER).boot()
    until_waits_for(replica, f"the app to accept on port {replica.environ['PORT']}")
    assert replica.get("/readyz").status == 503


def test_status_and_drain_follow_a_release_through_its_life(deployed):
    platform = deployed("mix")
    platform.controller.fault("any", "hang", times=1)
    replica = platform.boot()
    until_waits_for(replica, "the current deploy")
    waiting = status(replica)
    assert (waiting["ready"], waiting["release_state"], waiting["deploy"]) == (False, "none", None)
    platform.controller.refuse()  # hangs up
    platform.controller.accept()
    replica.until_ready(NODE_SECONDS)

    running = status(replica)
    assert {name: running[name] for name in ("ready", "deploy", "kind", "version", "digest")} == {
        "ready": True, "deploy": "41", "kind": "mix release", "version": "0.1.0",
        "digest": platform.digest,
    }  # fmt: skip
    assert running["release_pid"] == replica.release_pid
    assert running["agent_pid"] == replica.agent_pid
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", running["since"])
    lines = replica.verb("status").stdout.splitlines()
    assert lines[0] == f"hello: ready since {running['since']}"
    assert "  release  mix release 0.1.0" in lines
    assert f"  slug     {platform.digest[:12]}" in lines

    assert replica.verb("drain").stdout == "draining: not ready from now on\n"
    assert replica.get("/readyz").status == 503
    assert ask(replica, "/")[0] == 200
    assert (status(replica)["ready"], status(replica)["draining"]) == (False, True)
    assert json.loads(replica.verb("drain", "--undo", "--json").stdout) == {"draining": False}
    assert replica.is_ready()

    assert replica.term().wait() == 0
    gone = replica.verb("status", "--json")
    assert (gone.returncode, gone.stdout) == (os.EX_UNAVAILABLE, "")
    assert "nothing runs there" in gone.stderr


def status(replica):
    return json.loads(replica.verb("status", "--json").stdout)


def test_while_it_drains_before_its_stop_it_serves_and_is_not_ready(deployed):
    settings = {"DRAIN_SECONDS": "10"}
    replica = deployed("relx").boot(settings=settings).until_ready(NODE_SECONDS)
    replica.term()
    until(lambda: replica.get("/readyz").status == 503, "it is still ready")
    assert ask(replica, "/")[0] == 200
    assert replica.get("/livez").status == 200
    assert status(replica)["stopping"]
    replica.term()
    asked = time.monotonic()
    assert replica.wait() == 0
    assert time.monotonic() - asked < float(settings["DRAIN_SECONDS"])


def test_a_mix_release_knows_its_releases_from_its_first_start(deployed):
    replica = deployed("mix").boot().until_ready(NODE_SECONDS)
    made = (replica.root / "app" / "releases" / "RELEASES").stat().st_mtime
    started = dt.datetime.fromisoformat(replica.until_said("release started")["time"])
    assert made < started.timestamp()
    asked = replica.verb("shell", "--", "bin/hello", "rpc", WHICH_RELEASES)
    assert asked.stdout.split() == ["hello", "0.1.0", "permanent", "hello-0.1.0"]


def test_a_restart_in_place_boots_the_same_deploy_again(deployed):
    replica = deployed("mix").boot(settings={"RESTART": "on-failure"}).until_ready(NODE_SECONDS)
    first = replica.release_pid
    psutil.Process(first).kill()
    until(lambda: len(replica.events("release started")) == 2, "it is not started again")
    replica.until_ready(NODE_SECONDS)
    assert replica.release_pid != first
    assert current(replica.root) == trees(replica.root).pop()
    assert b"count=1 " in ask(replica, "/")[1]
