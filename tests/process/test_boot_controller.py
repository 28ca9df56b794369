"""A first boot from an HTTP controller and a storage, and every way in which that can go wrong."""

import os

import pytest

from support import small_slugs
from support.http_server import Answer
from support.platform import APP_KEY, current, half_done, half_written, trees

SHORT = {"BOOT_DEADLINE_SECONDS": "3"}
REFUSED = ("refuse", ())
SLUG = "/slugs/hello-41.tar.gz"


@pytest.fixture
def hello(platform):
    platform.deploy(small_slugs.serving())
    return platform


def ends(replica, code, *said):
    """See a boot end with `code` and one message, and nothing half-written."""
    assert replica.wait() == code
    (error,) = [event for event in replica.events() if event["severity"] == "ERROR"]
    assert error["message"].startswith("cannot ")
    assert all(part in error["message"] for part in said), error["message"]
    assert (half_done(replica.root), half_written(replica.root)) == ([], [])
    assert (trees(replica.root), current(replica.root)) == (set(), None)


def test_it_boots_the_current_deploy(platform):
    digest = platform.deploy(small_slugs.serving(), "41")
    replica = platform.boot().until_ready()
    seen = replica.get("/readyz").body
    assert (seen["app"], seen["deploy"], seen["node"]) == ("hello", "41", "hello@127.0.0.1")
    assert (seen["waits_for"], seen["notes"]) == ([], [])
    assert (current(replica.root), trees(replica.root)) == (digest, {digest})
    assert replica.term().wait() == 0


def test_the_controller_numbers_the_replicas_by_host_name(hello):
    hello.controller.host_indexes = {"pod-a": 7}
    replica = hello.boot(settings={"HOSTNAME": "pod-a"}).until_ready()
    assert replica.verb("shell", "--", "printenv", "HOST_INDEX").stdout == "7\n"


@pytest.mark.parametrize("status", [404, 500])
def test_without_a_number_it_boots_as_well(hello, status):
    hello.controller.fault("host_index", "status", status)
    replica = hello.boot().until_ready()
    assert replica.verb("shell", "--", "printenv", "HOST_INDEX").returncode == 1


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("status", "500 Internal Server Error"),
        ("cut", "its answer was cut"),
        ("reset", "connection reset by peer"),
    ],
)
def test_a_controller_that_recovers_is_tried_again(hello, fault, reason):
    hello.controller.fault("current", fault, 500, times=3)
    replica = hello.boot().until_ready()
    tries = replica.events(f"({reason}); trying again in")
    assert [each["severity"] for each in tries] == ["WARNING"] * 3


@pytest.mark.parametrize("fault", ["refused", "hang", "cut", "drip"])
def test_a_controller_that_is_away_for_the_whole_boot_ends_it_with_75(hello, fault):
    if fault == "refused":
        hello.controller.refuse()
    else:
        hello.controller.fault("current", fault, 0.1)
    where = f"still waiting for the current deploy from {hello.controller.url}"
    ends(hello.boot(settings=SHORT), os.EX_TEMPFAIL, "cannot boot within 3 s", where)


@pytest.mark.parametrize("status", [403, 404])
def test_a_controller_that_says_no_ends_it_at_once_with_77(hello, status):
    hello.controller.fault("current", "status", status)
    ends(hello.boot(), os.EX_NOPERM, f"({status} ", "check ")


def test_a_wrong_key_is_named_and_not_shown(hello):
    replica = hello.boot(settings={"APP_KEY": "another-key"})
    ends(replica, os.EX_NOPERM, "(401 Unauthorized); check APP_KEY and the app's name")
    assert "another-key" not in replica.log


@pytest.mark.parametrize(
    ("fault", "arguments", "said"),
    [
        ("html", (), "it is a web page, not JSON"),
        ("missing", ("slug_url", "customer_app_name"), "slug_url is missing; customer_app_name is"),
        ("huge", (), "it is over 4 MiB"),
        ("latin1", (), "it is not UTF-8"),
        ("body", (b'{"data": ',), "it is not JSON"),
        ("body", (b'{"data": {"slug_url": 5, "config": []}}',), "config is not a JSON object"),
    ],
)
def test_an_answer_that_is_no_use_ends_it_at_once_with_69(hello, fault, arguments, said):
    hello.controller.fault("current", fault, *arguments)
    ends(hello.boot(), os.EX_UNAVAILABLE, said, hello.controller.url)


@pytest.mark.parametrize("fault", ["refused", Answer(hang=True), Answer(stall_after=200)])
def test_a_storage_that_is_away_for_the_whole_boot_ends_it_with_75(hello, fault):
    if fault == "refused":
        hello.storage.close()
    else:
        hello.storage.plan(SLUG, *[fault] * 20)
    replica = hello.boot(settings=SHORT)
    ends(replica, os.EX_TEMPFAIL, "within 3 s: still waiting for the slug of deploy 41")


def test_a_storage_that_comes_back_after_its_own_retries_is_enough(hello):
    hello.storage.plan(SLUG, *[Answer(status=503)] * 6)
    replica = hello.boot().until_ready(60)
    assert replica.events("503 Service Unavailable, 5 tries in ")
    assert hello.controller.count("current") == 2


@pytest.mark.parametrize("status", [401, 403, 404])
def test_a_storage_that_says_no_ends_it_at_once_with_77(hello, status):
    hello.storage.plan(SLUG, Answer(status=status))
    replica = hello.boot()
    ends(replica, os.EX_NOPERM, f"({status} ", "check ")
    assert "signature=" not in replica.log
    assert APP_KEY not in replica.log


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"<html>not a slug</html>" * 100, "cannot use slug 41 from http://"),
        (small_slugs.serving()[:-100], "cannot use slug 41 from http://"),
        (small_slugs.running("true", *small_slugs.ballast(1 << 20)), "its SHA-256 is "),
    ],
    ids=["no-slug", "truncated", "another-one"],
)
def test_a_slug_that_is_not_what_it_should_be_ends_it_with_65(platform, content, said):
    platform.deploy(content, slug_sha256="0" * 64)
    ends(platform.boot(), os.EX_DATAERR, said)


def test_a_deploy_without_an_announced_digest_boots_too(platform):
    digest = platform.deploy(small_slugs.serving(), announced=False)
    assert current(platform.boot().until_ready().root) == digest
