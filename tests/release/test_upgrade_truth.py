"""After an upgrade everything is as after a fresh boot of the same deploy, and each boot agrees."""

import psutil
import pytest

from support import upgrade_slugs
from support.platform import ask, current, until_kept
from support.upgrading import (
    NODE_SECONDS,
    boot,
    boot_again,
    change,
    deploy,
    evaluate,
    files,
    on_node,
    packed,
    serves,
    status,
    tree,
)
from support.wait import until

KINDS = ("mix", "relx", "distillery1", "distillery2")

FIRST = {"GREETING": "eins", "HELLO_REQUIRE_SECRET": "1", "GONE": "with 0.1.0"}
SECOND = {"GREETING": "zwei", "SALUTE": "Servus & Grüß", "NEW": "from 0.2.0"}

APPLICATION_ENVIRONMENT = """
    [{{App, Key}, Value} || {App, _, _} <- application:loaded_applications(),
                            {Key, Value} <- application:get_all_env(App)]
"""

SET_AT_START = {"{kernel,connect_all}", "{kernel,logger}", "{runtime_tools,ttb_autostart_module}"}
"""Keys that these applications set themselves as they start. An install replaces the application
environment by what files say, and starts none of them again."""


@pytest.mark.parametrize("kind", KINDS)
def test_the_environment_is_that_of_a_fresh_boot(platform, kind):
    replica = boot(platform, kind, config=FIRST)
    started = current(replica.root)
    digest = deploy(platform, kind, "0.2.0", config=SECOND)
    assert change(replica, "upgrade").verdict == (0, "done", "0.2.0")
    upgraded = evaluate(replica, kind, APPLICATION_ENVIRONMENT)
    variables = evaluate(replica, kind, "os:env()")
    replica = boot_again(platform, replica)
    assert (serves(replica), current(replica.root)) == ("0.2.0", digest)
    booted = evaluate(replica, kind, APPLICATION_ENVIRONMENT)
    assert upgraded == {key: value for key, value in booted.items() if key not in SET_AT_START}
    assert "zwei" in upgraded["{hello,greeting}"]
    assert as_from(variables, started, digest) == evaluate(replica, kind, "os:env()")


def as_from(variables, started, digest):
    """Name the tree in which the VM would have begun: that, it keeps until it ends."""
    return {
        name: value.replace(started, digest).replace("/releases/0.1.0/", "/releases/0.2.0/")
        for name, value in variables.items()
    }


@pytest.mark.parametrize("kind", ["mix", "relx", "distillery2"])
def test_a_restart_in_place_boots_the_new_version_and_a_redeploy_the_old(platform, kind):
    replica = boot(platform, kind, settings={"RESTART": "on-failure"})
    old, first = current(replica.root), status(replica)
    new = deploy(platform, kind, "0.2.0")
    assert change(replica, "upgrade").verdict == (0, "done", "0.2.0")
    assert status(replica)["started"] == old
    psutil.Process(replica.release_pid).kill()
    until(lambda: len(replica.events("release started")) == 2, "it is not started again")
    replica.until_ready(NODE_SECONDS)
    until(lambda: status(replica)["started"] == new, lambda: status(replica))
    said = status(replica)
    assert said["release_pid"] != first["release_pid"]
    assert (said["version"], said["digest"], serves(replica)) == ("0.2.0", new, "0.2.0")
    assert on_node(replica)["0.2.0"] == "permanent"
    require_as_packed(replica, kind, "0.2.0", new)
    deploy(platform, kind, "0.1.0")
    replica = until_kept(boot_again(platform, replica), old)
    assert (serves(replica), current(replica.root)) == ("0.1.0", old)
    assert on_node(replica) == {"0.1.0": "permanent"}
    require_as_packed(replica, kind, "0.1.0", old)


def require_as_packed(replica, kind, version, digest):
    """Require the tree to be what the slug holds, but for what a start of it writes."""
    found, slug = files(tree(replica, digest)), packed(upgrade_slugs.slug(kind, version))
    config = f"releases/{version}/sys.config"
    if kind == "relx":
        found[config] = found.pop(f"{config}.orig")  # the script puts what it renders in its place
    by_start = {".erlang.cookie", "var/start_erl.data", "var/sys.config", "var/vm.args"}
    if kind == "mix":
        by_start.add("releases/RELEASES")  # ours: there is none in the slug
    assert found.keys() - by_start == slug.keys()
    assert [name for name, content in slug.items() if found[name] != content] == []


def test_a_restart_without_the_controller_boots_what_served_last(platform):
    replica = boot(platform, "mix", config=FIRST)
    deploy(platform, "mix", "0.2.0", config=SECOND)
    assert change(replica, "upgrade").verdict == (0, "done", "0.2.0")
    platform.controller.refuse()
    replica = boot_again(platform, replica)
    assert serves(replica) == "0.2.0"
    assert ask(replica, "/env/GREETING") == (200, b"zwei")
    assert "0.2.0-good kept on the volume" in status(replica)["notes"][0]
