"""When a replica counts as ready, and what `/readyz` says while it does not."""

import os
import time
from calendar import timegm

import pytest

from run_agent import health
from support import small_slugs, tarballs
from support.http_server import Answer
from support.platform import ask, until_waits_for
from support.wait import holds, until

SLUG = "/slugs/hello-41.tar.gz"
HTTP = {"READY_CHECK": "http:/health"}

LEFT_ALONE_SECONDS = 2.0

UNREADY_SECONDS = health.READY_PAUSE + health.MISSES * (health.CHECK_SECONDS + health.LAST_PAUSE)


def test_by_default_the_port_counts_that_the_config_names(platform, ports):
    port = ports.free()
    platform.deploy(small_slugs.serving(), config={"PORT": str(port)})
    replica = platform.boot().until_ready()
    assert replica.environ["PORT"] != str(port)
    with pytest.raises(ConnectionRefusedError):
        ask(replica, "/")


def test_an_app_may_listen_on_the_replica_s_own_address_only(platform):
    platform.deploy(small_slugs.serving(), config={"BIND": "127.0.0.2"})
    platform.boot(settings={"MY_POD_IP": "127.0.0.2"}).until_ready()


def test_until_the_port_is_open_it_says_which_and_since_when(platform):
    platform.deploy(small_slugs.running("sleep 300"))
    before = int(time.time())
    replica = platform.boot()
    since = until_waits_for(replica, f"the app to accept on port {replica.environ['PORT']}")
    assert before <= timegm(time.strptime(since, "%Y-%m-%dT%H:%M:%SZ")) <= time.time()
    seen = replica.get("/readyz")
    assert (seen.status, seen.body["release"], seen.body["since"]) == (503, "running", None)
    assert replica.get("/livez").status == 200
    assert f"  waits for the app to accept on port {replica.environ['PORT']} (since {since})" in (
        replica.verb("status").stdout.splitlines()
    )


def test_a_path_counts_by_its_status(platform):
    platform.deploy(small_slugs.serving(), config={"STATUS": "503"})
    replica = platform.boot(settings=HTTP)
    port = replica.environ["PORT"]
    until_waits_for(replica, f"GET /health on port {port} to succeed (it answers 503)")
    ask(replica, "/302", "POST")
    replica.until_ready()


def test_with_none_it_is_ready_as_soon_as_it_runs(platform):
    platform.deploy(small_slugs.running("sleep 300"))
    platform.boot(settings={"READY_CHECK": "none"}).until_ready()


def test_an_app_that_fails_three_checks_is_unready_and_then_ready_again(platform):
    platform.deploy(small_slugs.serving())
    replica = platform.boot(settings=HTTP).until_ready()
    pid, port = replica.release_pid, replica.environ["PORT"]
    ask(replica, "/500", "POST")
    until(lambda: not replica.is_ready(), "it is ready", UNREADY_SECONDS)
    until_waits_for(replica, "(it answers 500)")
    assert replica.get("/livez").status == 200
    ask(replica, "/200", "POST")
    replica.until_ready()
    assert [event["message"] for event in replica.events("ready")][-3:] == [
        "ready",
        f"not ready: waiting for GET /health on port {port} to succeed (it answers 500)",
        "ready",
    ]
    assert replica.release_pid == pid


def test_an_app_that_never_listens_is_left_alone(platform):
    platform.deploy(small_slugs.running("sleep 300"))
    replica = platform.boot(settings=HTTP)
    until_waits_for(replica, "GET /health on port ")
    pid, agent = replica.release_pid, replica.agent_pid
    holds(lambda: replica.get("/livez").status == 200, "it is not live", LEFT_ALONE_SECONDS)
    assert (replica.release_pid, replica.agent_pid) == (pid, agent)


def test_a_check_that_cannot_be_made_leaves_release_and_agent_alone(platform):
    no_program = tarballs.file("erts-1.0/bin/erl_call", b"", mode=0o644)
    platform.deploy(small_slugs.running("sleep 300", no_program))
    replica = platform.boot(settings={"READY_CHECK": "node"})
    until_waits_for(replica, "its check, which fails: cannot start ")
    pid, agent = replica.release_pid, replica.agent_pid
    holds(lambda: replica.get("/livez").status == 200, "it is not live", LEFT_ALONE_SECONDS)
    assert (replica.release_pid, replica.agent_pid) == (pid, agent)


@pytest.mark.parametrize("verb", [("init", "hello"), ("exec", "--")])
def test_the_node_is_no_check_for_what_has_none(platform, verb):
    platform.deploy(small_slugs.running("sleep 300"))
    command = ("sleep", "300") if verb[0] == "exec" else ()
    replica = platform.boot(*command, verb=verb, settings={"READY_CHECK": "node"})
    assert replica.wait() == os.EX_CONFIG
    assert replica.events("READY_CHECK=node asks a release's node, and this is none")
    assert replica.events("release started") == []


def test_while_the_controller_hangs_it_is_what_is_waited_for(platform):
    platform.controller.fault("any", "hang")
    replica = platform.boot()
    until_waits_for(replica, f"the current deploy from {platform.controller.url}")
    assert (replica.get("/readyz").status, replica.get("/livez").status) == (503, 200)


def test_while_the_slug_comes_it_is_what_is_waited_for(platform):
    slug = small_slugs.serving(*small_slugs.ballast(1 << 20))
    platform.deploy(slug)
    platform.storage.plan(SLUG, Answer(stall_after=1 << 18))
    replica = platform.boot()
    until_waits_for(replica, "the slug of deploy 41")
    status = replica.verb("status").stdout
    assert status.startswith("hello: not ready\n")
    assert "waits for the slug of deploy 41 (since " in status
    assert replica.verb("shell", "--", "true").returncode == 69


@pytest.mark.parametrize("port", ["70000", "0", "web"])
def test_a_port_of_the_config_that_is_none_is_refused(platform, port):
    platform.deploy(small_slugs.serving(), config={"PORT": port})
    replica = platform.boot()
    assert replica.wait() == os.EX_CONFIG
    assert f"PORT='{port}' in the release's environment" in replica.log


def test_a_port_of_the_config_that_is_ours_is_refused(platform, ports):
    ours = str(ports.free())
    platform.deploy(small_slugs.serving(), config={"PORT": ours})
    replica = platform.boot(settings={"HEALTH_PORT": ours})
    assert replica.wait() == os.EX_CONFIG
    assert "is HEALTH_PORT as well" in replica.log
