"""What is on the volume is not fetched again, and what nobody needs does not stay there."""

import pytest

from support import small_slugs
from support.http_server import Answer, goog_hash
from support.platform import current, trees, until_kept, volume

SLUG = "/slugs/hello-41.tar.gz"
ONLY_HEADERS = Answer(stall_after=0)
"""Whoever wants more of this answer than its headers waits in vain."""


def test_a_slug_whose_digest_is_announced_is_not_even_asked_for(platform):
    digest = platform.deploy(small_slugs.serving())
    replica = platform.boot_again(platform.boot().until_ready()).until_ready()
    assert platform.asked_for_slug() == 1
    assert current(replica.root) == digest


def test_then_no_storage_is_needed_either(platform):
    platform.deploy(small_slugs.serving())
    replica = platform.boot().until_ready()
    platform.storage.close()
    replica = platform.boot_again(replica).until_ready()
    assert replica.get("/readyz").body["notes"] == []


@pytest.mark.parametrize("validator", ["etag", "goog-hash"])
def test_without_a_digest_the_storages_own_validator_tells(platform, validator):
    slug = small_slugs.serving()
    known = (
        {"etag": '"1"'} if validator == "etag" else {"headers": {"x-goog-hash": goog_hash(slug)}}
    )
    digest = platform.deploy(slug, announced=False, **known)
    replica = platform.boot().until_ready()
    tree = volume(replica.root) / "deploys" / digest
    before = tree.stat()
    platform.storage.plan(SLUG, ONLY_HEADERS)
    replica = platform.boot_again(replica).until_ready()
    assert platform.asked_for_slug() == 2
    assert (tree.stat().st_ino, tree.stat().st_ctime_ns) == (before.st_ino, before.st_ctime_ns)


def test_another_slug_at_the_same_url_is_fetched(platform):
    first = platform.deploy(small_slugs.serving(), announced=False, etag='"1"')
    replica = until_kept(platform.boot(), first)
    second = platform.deploy(small_slugs.serving(), announced=False, etag='"2"')
    replica = platform.boot_again(replica).until_ready()
    assert (current(replica.root), trees(replica.root)) == (second, {first, second})


def test_the_same_slug_with_another_config_needs_no_fetch(platform):
    slug = small_slugs.serving()
    platform.deploy(slug, "41", config={"COLOUR": "red"})
    replica = platform.boot().until_ready()
    platform.deploy(slug, "42", config={"COLOUR": "blue"})
    replica = platform.boot_again(replica).until_ready()
    assert replica.get("/readyz").body["deploy"] == "42"
    assert replica.verb("shell", "--", "printenv", "COLOUR").stdout == "blue\n"
    assert platform.asked_for_slug("42") == 0


def test_the_last_two_good_deploys_stay_and_the_one_that_runs(platform):
    digests, replica = [], None
    for version in "123":
        digests.append(platform.deploy(small_slugs.serving(), version))
        replica = platform.boot_again(replica) if replica else platform.boot()
        until_kept(replica, digests[-1])
    replica.until_said(f"removed the old deploy {digests[0][:12]}")
    assert trees(replica.root) == set(digests[1:])
    names = {path.name.partition(".")[0] for path in (volume(replica.root) / "deploys").iterdir()}
    assert names - {""} == set(digests[1:])


def test_a_deploy_that_is_not_ready_yet_costs_no_good_one(platform):
    digests, replica = [], None
    for version, slug in ("1", small_slugs.serving()), ("2", small_slugs.serving()):
        digests.append(platform.deploy(slug, version))
        replica = platform.boot_again(replica) if replica else platform.boot()
        until_kept(replica, digests[-1])
    waiting = platform.deploy(small_slugs.running("sleep 300"), "3")
    replica = platform.boot_again(replica)
    assert replica.release_pid
    assert trees(replica.root) == {*digests, waiting}
    assert current(replica.root) == waiting


def test_deploys_that_never_became_ready_do_not_fill_the_volume(platform):
    platform.deploy(small_slugs.running("exit 1"), "1")
    replica = platform.boot()
    for version in ("2", "3", "4", "5"):
        assert replica.wait() == 1
        platform.deploy(small_slugs.running("exit 1"), version)
        replica = platform.boot(root=replica.root)
    assert replica.wait() == 1
    assert len(trees(replica.root)) <= 3, "what is current, what came before it, and no more"
