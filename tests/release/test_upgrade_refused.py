"""Upgrades that cannot be: refused, or failed, with the reason, and nothing has changed."""

import os
import re
import signal
import time

import pytest

from support import load, slugs, upgrade_slugs
from support.platform import ask, current
from support.upgrading import (
    NODE_SECONDS,
    QUICK,
    boot,
    change,
    deploy,
    files,
    label,
    on_node,
    serves,
    status,
    tree,
)

REFUSED = {
    "no_relup": r"it has no releases/0\.2\.0/relup; build it with a relup from 0\.1\.0",
    "restarting": r"its relup restarts the emulator, which ends every connection; deploy it",
    "rebooting": r"its relup restarts the emulator, which ends every connection; deploy it",
    "other_erts": r"it needs Erlang's ERTS 99\.9, and the node runs [\d.]+; deploy it",
    "other_name": "its slug is the release other, and not hello; build it as hello, or deploy it",
}
"""What is wrong with a build, and what is said of it."""

DEADLINE_SECONDS = 15.0
"""By when a person must be told that a node does not answer."""


class Untouched:
    """What nothing may change that was refused."""

    def __init__(self, replica):
        self._replica = replica
        self._before = self._state()

    def _state(self):
        said = status(self._replica)
        names = ("deploy", "version", "digest", "started", "release_pid", "since", "ready", "good")
        facts = {name: said[name] for name in names}
        folder = tree(self._replica, said["digest"])
        return facts, on_node(self._replica), files(folder), current(self._replica.root)

    def require(self):
        assert self._state() == self._before
        assert serves(self._replica) == self._before[0]["version"]


@pytest.mark.parametrize("kind", ["mix", "relx"])
def test_what_cannot_be_done_in_place(platform, kind):
    replica = boot(platform, kind)
    untouched = Untouched(replica)
    for variant, why in REFUSED.items():
        deploy(platform, kind, "0.2.0", variant)
        ended = change(replica, "upgrade")
        assert ended.verdict == (10, "refused", "0.1.0"), (variant, ended)
        assert re.search(why, ended.outcome["message"]), (variant, ended)
        untouched.require()
    deploy(platform, kind, "0.2.0", "other_name", customer_app_name="other")
    ended = change(replica, "upgrade")
    assert ended.verdict == (10, "refused", "0.1.0"), ended
    assert "it is the release other, and what runs is hello" in ended.outcome["message"]
    deploy(platform, kind, "0.1.0", "migrating")
    ended = change(replica, "upgrade")
    assert ended.verdict == (10, "refused", "0.1.0"), ended
    assert "0.1.0-migrating has the version of deploy 0.1.0-good" in ended.outcome["message"]
    deploy(platform, kind, "0.2.0")
    ended = change(replica, "upgrade", "0.3.0")
    assert ended.verdict == (10, "refused", "0.1.0"), ended
    assert "the current deploy 0.2.0-good is hello 0.2.0" in ended.outcome["message"]
    untouched.require()
    ended = change(replica, "downgrade", "0.0.9")
    assert ended.verdict == (10, "refused", "0.1.0"), ended
    assert "there is no older version to go back to" in ended.outcome["message"]
    untouched.require()
    deploy(platform, kind, "0.2.0")
    assert change(replica, "upgrade", "0.2.0").verdict == (0, "done", "0.2.0")


def test_what_systools_packs_cannot_be_booted(platform):
    replica = boot(platform, "mix")
    untouched = Untouched(replica)
    platform.deploy(upgrade_slugs.systools_tar("0.2.0").read_bytes(), version=label("0.2.0"))
    ended = change(replica, "upgrade")
    assert ended.verdict == (10, "refused", "0.1.0"), ended
    assert "so no restart could boot it; pack the whole folder" in ended.outcome["message"]
    untouched.require()


def test_what_cannot_be_fetched(platform):
    replica = boot(platform, "mix")
    untouched = Untouched(replica)
    broken = upgrade_slugs.truncated(upgrade_slugs.slug("mix", "0.2.0"))
    platform.deploy(broken.read_bytes(), version=label("0.2.0"))
    ended = change(replica, "upgrade")
    assert ended.verdict == (11, "failed, nothing changed", "0.1.0"), ended
    untouched.require()
    platform.controller.refuse()
    ended = change(replica, "upgrade")
    assert ended.verdict == (11, "failed, nothing changed", "0.1.0"), ended
    assert "cannot reach the controller" in ended.outcome["message"]
    untouched.require()
    platform.controller.accept()
    deploy(platform, "mix", "0.2.0")
    assert change(replica, "upgrade").verdict == (0, "done", "0.2.0")


@pytest.mark.parametrize("kind", ["mix", "relx", "distillery2"])
def test_what_failed_is_tried_again_only_by_force_and_a_corrected_build_goes_in(platform, kind):
    replica = boot(platform, kind)
    port = int(replica.environ["TCP_PORT"])
    deploy(platform, kind, "0.2.0", "raising")
    with load.Connections(port, 1):  # it is their processes' code_change that raises
        ended = change(replica, "upgrade")
    assert ended.verdict == (12, "failed and recovered", "0.1.0"), ended
    note = "a restart in place boots 0.1.0; a new container boots the controller's current deploy"
    assert note in ended.outcome["notes"]
    ended = change(replica, "upgrade")
    assert ended.verdict == (10, "refused", "0.1.0"), ended
    assert re.search(r"the same slug failed at .*code_change.*; --force tries again",
                     ended.outcome["message"]), ended  # fmt: skip
    with load.Connections(port, 1):
        ended = change(replica, "upgrade", "--force")
    assert ended.verdict == (12, "failed and recovered", "0.1.0"), ended
    deploy(platform, kind, "0.2.0", "fixed")
    ended = change(replica, "upgrade")
    assert ended.verdict == (0, "done", "0.2.0"), ended
    assert b" build=fixed" in ask(replica, "/")[1]


def test_a_node_that_hangs(platform):
    replica = boot(platform, "mix")
    untouched = Untouched(replica)
    deploy(platform, "mix", "0.2.0")
    vm = replica.release_pid
    os.kill(vm, signal.SIGSTOP)
    try:
        ended, seconds = timed(replica)
    finally:
        os.kill(vm, signal.SIGCONT)
    assert ended.code == 10, ended
    assert "for the node hello@127.0.0.1: it hangs, or is very busy" in ended.outcome["message"]
    assert seconds < DEADLINE_SECONDS
    replica.until_ready(NODE_SECONDS)
    untouched.require()
    assert change(replica, "upgrade").verdict == (0, "done", "0.2.0")


def test_a_node_with_another_cookie(platform):
    replica = boot(platform, "mix")
    untouched = Untouched(replica)
    deploy(platform, "mix", "0.2.0")
    cookie = replica.verb("shell", "--", "printenv", "MY_COOKIE").stdout.strip()
    set_cookie(replica, cookie, "another")
    ended, seconds = timed(replica)
    set_cookie(replica, "another", cookie)
    assert ended.code == 10, ended
    assert "check that it is up and that its cookie is" in ended.outcome["message"]
    assert seconds < DEADLINE_SECONDS
    untouched.require()
    assert change(replica, "upgrade").verdict == (0, "done", "0.2.0")


def set_cookie(replica, old, new):
    """Give another cookie to the node, whose cookie is `old`; nobody is to see the answer."""
    call = f':erlang.set_cookie(:"{new}")'
    replica.verb("shell", "--", "env", f"RELEASE_COOKIE={old}", "bin/hello", "rpc", call)


def timed(replica):
    begun = time.monotonic()
    ended = change(replica, "upgrade")
    return ended, time.monotonic() - begun


def test_the_release_of_an_image_that_is_read_only(platform, tmp_path, read_only):
    """Seen before anything is placed: nothing has to be taken away again."""
    root = tmp_path / "image"
    slugs.unpack(upgrade_slugs.slug("mix", "0.1.0"), root / "app")
    read_only(root / "app")
    settings = QUICK | {"CONTROLLER_URL": "none", "SECRET_KEY_BASE": "x" * 64}
    replica = platform.boot(root=root, settings=settings).until_ready(NODE_SECONDS)
    assert replica.verb("releases").stdout.endswith("\non the volume: none\n")
    ended = change(replica, "upgrade", "--slug", upgrade_slugs.slug("mix", "0.2.0").as_uri())
    assert ended.verdict == (10, "refused", "0.1.0"), ended
    assert f"would go into {root}/app/releases, which is read-only" in ended.outcome["message"]
    assert ended.outcome["notes"] == []
    assert not replica.events("placing")


@pytest.mark.parametrize("kind", ["mix", "relx"])
def test_the_release_of_an_image_on_a_volume_stays_upgraded(platform, tmp_path, kind):
    root = tmp_path / "image"
    slugs.unpack(upgrade_slugs.slug(kind, "0.1.0"), root / "app")
    settings = QUICK | {"CONTROLLER_URL": "none", "SECRET_KEY_BASE": "x" * 64}
    replica = platform.boot(root=root, settings=settings).until_ready(NODE_SECONDS)
    ended = change(replica, "upgrade", "--slug", upgrade_slugs.slug(kind, "0.2.0").as_uri())
    assert ended.verdict == (0, "done", "0.2.0"), ended
    os.kill(replica.release_pid, signal.SIGKILL)
    assert replica.wait() == 137
    again = platform.boot(root=root, settings=settings).until_ready(NODE_SECONDS)
    assert serves(again) == "0.2.0"
    ended = change(again, "downgrade", "0.1.0")
    assert ended.verdict == (0, "done", "0.1.0"), ended
    assert again.term().wait() == 0


def test_the_release_of_an_image(platform, tmp_path):
    """It follows no controller; a slug goes in, until a new container."""
    root = tmp_path / "image"
    slugs.unpack(upgrade_slugs.slug("mix", "0.1.0"), root / "app")
    settings = QUICK | {"CONTROLLER_URL": "none", "SECRET_KEY_BASE": "x" * 64}
    replica = platform.boot(root=root, settings=settings).until_ready(NODE_SECONDS)
    ended = change(replica, "upgrade")
    assert ended.verdict == (10, "refused", "0.1.0"), ended
    assert "run-agent upgrade --slug URL" in ended.outcome["message"]
    ended = change(replica, "upgrade", "--slug", upgrade_slugs.slug("mix", "0.2.0").as_uri())
    assert ended.verdict == (0, "done", "0.2.0"), ended
    note = "a new container boots its image's release, unless /app is a volume that lasts"
    assert note in ended.outcome["notes"]
    assert serves(replica) == "0.2.0"
    assert not (root / "app").is_symlink()
    ended = change(replica, "downgrade", "0.1.0")
    assert ended.verdict == (0, "done", "0.1.0"), ended
    assert replica.term().wait() == 0
