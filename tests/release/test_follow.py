"""`FOLLOW=hot`: the replica changes whenever the controller has another deploy."""

import os
import signal

from support import upgrade_slugs
from support.http_server import Answer
from support.platform import ask
from support.upgrading import NODE_SECONDS, boot, change, deploy, on_node, serves, status
from support.wait import holds, until

EVERY_SECOND = {"SSH_KEYS_SECONDS": "1"}
HOT = EVERY_SECOND | {"FOLLOW": "hot"}

SOME_TURNS = 3
"""So often the controller is asked before we believe that nothing comes of it."""


def until_asked_again(platform):
    count = platform.controller.count("current")
    until(lambda: platform.controller.count("current") >= count + SOME_TURNS, "it does not ask")


def test_it_upgrades_reconfigures_and_goes_back(platform):
    replica = boot(platform, "mix", settings=HOT, config={"GREETING": "eins"})
    pid = status(replica)["release_pid"]
    digest = deploy(platform, "mix", "0.2.0", config={"GREETING": "zwei"})
    until(lambda: status(replica)["digest"] == digest, lambda: replica.log, NODE_SECONDS)
    assert b"version=0.2.0 " in ask(replica, "/")[1]
    assert b" greeting=zwei " in ask(replica, "/")[1]
    deploy(platform, "mix", "0.2.0", config={"GREETING": "drei"})
    until(lambda: b" greeting=drei " in ask(replica, "/")[1], lambda: replica.log, NODE_SECONDS)
    digest = deploy(platform, "mix", "0.1.0", config={"GREETING": "eins"})
    until(lambda: status(replica)["digest"] == digest, lambda: replica.log, NODE_SECONDS)
    assert b"version=0.1.0 " in ask(replica, "/")[1]
    until(lambda: status(replica)["change"] is None, "it goes on")
    until_asked_again(platform)
    changes = [event["message"] for event in replica.events("changing to it")]
    assert len(changes) == len(["up", "another configuration", "down"])
    assert status(replica)["release_pid"] == pid


def test_what_fails_is_tried_once_until_there_is_another(platform):
    replica = boot(platform, "relx", settings=HOT)
    deploy(platform, "relx", "0.2.0", "no_relup")
    replica.until_said("upgrade: refused: ", NODE_SECONDS)
    platform.controller.fault("current", "status", 503, times=1)  # forgets nothing
    until_asked_again(platform)
    assert len(replica.events("upgrade: refused: ")) == 1
    assert on_node(replica) == {"0.1.0": "permanent"}
    deploy(platform, "relx", "0.2.0", "fixed")
    until(lambda: status(replica)["version"] == "0.2.0", lambda: replica.log, NODE_SECONDS)
    assert serves(replica) == "0.2.0"


def test_an_outage_is_waited_for(platform):
    replica = boot(platform, "relx", settings=HOT)
    slug = upgrade_slugs.slug("relx", "0.2.0").read_bytes()
    platform.deploy(slug, version="outage", usual=Answer(status=503))
    replica.until_said("upgrade: failed, nothing changed: ", NODE_SECONDS)
    platform.deploy(slug, version="outage")
    until(lambda: status(replica)["version"] == "0.2.0", lambda: replica.log, NODE_SECONDS)


def test_by_default_it_changes_nothing_by_itself(platform):
    replica = boot(platform, "relx", settings=EVERY_SECOND)
    asked = platform.controller.count("current")
    deploy(platform, "relx", "0.2.0")
    seconds = SOME_TURNS * float(EVERY_SECOND["SSH_KEYS_SECONDS"])
    holds(lambda: platform.controller.count("current") == asked, "it asks", seconds)
    assert serves(replica) == "0.1.0"


def test_another_configuration_is_taken_though_no_digest_tells_that_the_slug_is_the_same(platform):
    replica = boot(platform, "mix", settings=HOT, announced=False, config={"GREETING": "eins"})
    pid = status(replica)["release_pid"]
    another = {"version": "42", "config": {"GREETING": "zwei"}}
    platform.controller.release = platform.controller.release | another
    until(lambda: b"greeting=zwei" in ask(replica, "/")[1], lambda: replica.log, NODE_SECONDS)
    until(lambda: status(replica)["deploy"] == "42", lambda: replica.log)
    until_asked_again(platform)
    assert len(replica.events("changing to it")) == 1
    assert status(replica)["release_pid"] == pid


def test_a_configuration_is_tried_again_where_the_node_did_not_answer(platform):
    replica = boot(platform, "mix", settings=HOT, config={"GREETING": "eins"})
    pid = status(replica)["release_pid"]
    os.kill(pid, signal.SIGSTOP)
    try:
        deploy(platform, "mix", "0.1.0", config={"GREETING": "zwei"})
        replica.until_said("for the node hello@127.0.0.1: it hangs", NODE_SECONDS)
    finally:
        os.kill(pid, signal.SIGCONT)
    until(lambda: b"greeting=zwei" in ask(replica, "/")[1], lambda: replica.log, NODE_SECONDS)


def test_who_goes_back_by_hand_is_left_in_peace_by_the_next_agent_too(platform):
    replica = boot(platform, "relx", settings=HOT)
    deploy(platform, "relx", "0.2.0")
    until(lambda: status(replica)["version"] == "0.2.0", lambda: replica.log, NODE_SECONDS)
    until(lambda: status(replica)["followed"] is not None, "it does not remember")
    assert change(replica, "downgrade", "0.1.0").code == 0
    before = replica.agent_pid
    os.kill(before, signal.SIGKILL)
    until(lambda: replica.agent_pid not in {None, before}, "there is no other agent")
    until_asked_again(platform)
    assert serves(replica) == "0.1.0"
    assert len(replica.events("changing to it")) == 1
