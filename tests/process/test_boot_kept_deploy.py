"""With a good deploy on the volume an outage is no reason not to boot: it is booted, loudly."""

import os

import pytest

from support import small_slugs
from support.http_server import Answer
from support.platform import current, half_done, half_written, trees, until_kept
from support.wait import holds

NEW_SLUG = "/slugs/hello-42.tar.gz"

SHORT = {"BOOT_DEADLINE_SECONDS": "10"}
"""Part of the boot's deadline is kept for the kept deploy, however short it is."""

QUIET_SECONDS = 1.0
"""For so long it is watched that nothing switches; whatever polled would have to be quicker."""


@pytest.fixture
def kept(platform):
    """Return a replica whose deploy 41 is good; 42 is what the controller says from now on."""
    digest = platform.deploy(small_slugs.serving(), "41")
    replica = until_kept(platform.boot(), digest)
    platform.deploy(small_slugs.serving(), "42")
    replica.digest = digest
    return replica


def boots_kept(replica, digest, severity, *said):
    """See deploy 41 run, and every place say that it is not what it should be."""
    replica.until_ready()
    (event,) = replica.events("; booting deploy 41 kept on the volume")
    assert event["severity"] == severity
    assert all(part in event["message"] for part in said), event["message"]
    seen = replica.get("/readyz").body
    assert (seen["deploy"], seen["notes"], seen["waits_for"]) == ("41", [event["message"]], [])
    assert f"  note: {event['message']}\n" in replica.verb("status").stdout
    assert current(replica.root) == digest
    assert half_done(replica.root) == []


@pytest.mark.parametrize("fault", ["refused", "hang", "html", "status"])
def test_a_controller_that_is_away_is_an_outage(platform, kept, fault):
    if fault == "refused":
        platform.controller.refuse()
    else:
        platform.controller.fault("current", fault, 503)
    replica = platform.boot_again(kept, settings=SHORT)
    boots_kept(replica, kept.digest, "WARNING", f"controller at {platform.controller.url}")


@pytest.mark.parametrize("status", [401, 403, 404])
def test_a_controller_that_says_no_is_an_error(platform, kept, status):
    platform.controller.fault("any", "status", status)
    replica = platform.boot_again(kept)
    boots_kept(replica, kept.digest, "ERROR", f"({status} ", "check ")


@pytest.mark.parametrize(
    "fault", [None, Answer(hang=True), Answer(stall_after=200), Answer(status=503)]
)
def test_a_storage_that_is_away_is_an_outage(platform, kept, fault):
    if fault is None:
        platform.storage.close()
    else:
        platform.storage.plan(NEW_SLUG, *[fault] * 20)
    replica = platform.boot_again(kept, settings=SHORT)
    boots_kept(replica, kept.digest, "WARNING", "cannot fetch ")


@pytest.mark.parametrize("status", [401, 403, 404])
def test_a_storage_that_says_no_is_an_error(platform, kept, status):
    platform.storage.plan(NEW_SLUG, Answer(status=status))
    replica = platform.boot_again(kept)
    boots_kept(replica, kept.digest, "ERROR", f"{NEW_SLUG} ({status} ")


def test_nothing_switches_by_itself_when_the_controller_is_back(platform, kept):
    platform.controller.fault("any", "status", 404)
    replica = platform.boot_again(kept).until_ready()
    pid, asked = replica.release_pid, platform.controller.count()
    platform.controller.heal()
    holds(
        lambda: (current(replica.root), replica.release_pid) == (kept.digest, pid),
        "it switched by itself", QUIET_SECONDS,
    )  # fmt: skip
    assert (platform.controller.count(), platform.asked_for_slug("42")) == (asked, 0)
    assert replica.get("/readyz").body["deploy"] == "41"


def test_the_next_boot_takes_the_new_deploy(platform, kept):
    platform.controller.fault("any", "status", 404)
    replica = platform.boot_again(kept).until_ready()
    platform.controller.heal()
    replica = platform.boot_again(replica).until_ready()
    seen = replica.get("/readyz").body
    assert (seen["deploy"], seen["notes"]) == ("42", [])
    assert current(replica.root) != kept.digest


@pytest.mark.parametrize(
    "content",
    [b"no slug at all", small_slugs.serving(*small_slugs.ballast(1 << 20))[:-1000]],
    ids=["no-slug", "truncated"],
)
def test_a_corrupt_slug_is_no_outage(platform, kept, content):
    platform.deploy(content, "42")
    replica = platform.boot_again(kept)
    ends_as_it_was(
        replica, kept.digest, f"cannot use slug 42 from {platform.storage.url(NEW_SLUG)}"
    )
    assert (half_done(replica.root), half_written(replica.root)) == ([], [])
    assert trees(replica.root) == {kept.digest}


def test_a_slug_with_nothing_to_start_is_no_outage(platform, kept):
    platform.deploy(small_slugs.packed(), "42")
    replica = platform.boot_again(kept)
    ends_as_it_was(replica, kept.digest, "it has neither bin/ nor a Procfile")


def ends_as_it_was(replica, digest, said):
    assert replica.wait() == os.EX_DATAERR
    (error,) = [event for event in replica.events() if event["severity"] == "ERROR"]
    assert said in error["message"]
    assert current(replica.root) == digest


def test_a_deploy_that_never_became_ready_is_not_fallen_back_to(platform):
    platform.deploy(small_slugs.running("sleep 300"), "41")
    replica = platform.boot()
    assert replica.release_pid
    platform.controller.fault("any", "status", 404)
    assert platform.boot_again(replica).wait() == os.EX_NOPERM
    assert len(trees(replica.root)) == 1


def test_another_app_s_deploy_is_no_substitute(platform, kept):
    platform.controller.refuse()
    replica = platform.boot_again(
        kept, verb=("init", "other"), settings={"BOOT_DEADLINE_SECONDS": "2"}
    )
    assert replica.wait() == os.EX_TEMPFAIL
    assert replica.events("release started") == []
