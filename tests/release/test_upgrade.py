"""`upgrade`, `downgrade` and `releases` of a real replica, for every kind of release."""

import hashlib
import io
import re
import tarfile

import pytest

from support import upgrade_slugs
from support.platform import ask, current
from support.upgrading import (
    VERB_SECONDS,
    boot,
    change,
    deploy,
    label,
    on_node,
    releases,
    serves,
    status,
    tree,
)

KINDS = ("mix", "relx", "distillery1", "distillery2")

FIRST = {"GREETING": "eins", "GONE": "with 0.1.0"}
SECOND = {"GREETING": "zwei", "SALUTE": "Servus & Grüß", "NEW": "from 0.2.0"}


def test_up_and_down(platform, kind):
    """One node goes through all versions; what we say of it, and what is kept, agrees."""
    replica = boot(platform, kind, config=FIRST)
    first = status(replica)
    for version in ("0.2.0", "0.3.0"):
        digest = deploy(platform, kind, version, config=SECOND)
        ended = change(replica, "upgrade")
        assert ended.verdict == (0, "done", version), ended
        require_that_all_say(replica, version, digest)
        require_configured(replica, SECOND, gone="GONE")
        assert b" greeting=zwei salute=Servus & Gr\xc3\xbc\xc3\x9f " in ask(replica, "/")[1]
    for version in ("0.2.0", "0.1.0"):
        ended = change(replica, "downgrade", version)
        assert ended.verdict == (0, "done", version), ended
        require_that_all_say(replica, version, digest_of(kind, version))
        require_configured(replica, SECOND, gone="GONE")
        assert b" greeting=zwei" in ask(replica, "/")[1]
    assert status(replica)["release_pid"] == first["release_pid"]
    assert replica.term().wait() == 0


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


def digest_of(kind, version):
    return hashlib.sha256(upgrade_slugs.slug(kind, version).read_bytes()).hexdigest()


def require_that_all_say(replica, version, digest):
    """Ask everybody which version serves: the app, the node, `status`, `/readyz`, the volume."""
    assert serves(replica) == version
    node = on_node(replica)
    assert [known for known, state in node.items() if state == "permanent"] == [version]
    assert set(node.values()) <= {"permanent", "old"}
    said, ready = status(replica), replica.get("/readyz")
    facts = (version, label(version))
    assert (said["version"], said["deploy"], said["digest"]) == (*facts, digest)
    assert (ready.body["version"], ready.body["deploy"]) == facts
    assert (ready.status, said["change"], said["ready"]) == (200, None, True)
    assert current(replica.root) == digest
    boots = (tree(replica, digest) / "releases" / "start_erl.data").read_text().split()[1]
    assert boots == version
    on_volume = releases(replica)["deploys"]
    assert [deploy["version"] for deploy in on_volume if deploy["current"]] == [version]


def require_configured(replica, config, *, gone):
    """Require the new configuration, and none of the old, on the node and in later sessions."""
    lines = replica.verb("shell", "--", "env").stdout.splitlines()
    env = dict(line.split("=", 1) for line in lines if "=" in line)
    assert {name: env.get(name) for name in config} == config
    assert gone not in env
    assert env["MY_NODE_NAME"] == env["RELEASE_NODE"] == "hello@127.0.0.1"
    for name, value in config.items():
        assert ask(replica, f"/env/{name}") == (200, value.encode())
    assert ask(replica, f"/env/{gone}")[0] == 404


@pytest.mark.parametrize("kind", ["mix"], indirect=True)
def test_people_see_each_step_and_last_the_verdict(platform, kind):
    replica = boot(platform, kind)
    deploy(platform, kind, "0.2.0")
    done = replica.verb("upgrade", "0.2.0", timeout=VERB_SECONDS)
    assert (done.returncode, done.stdout) == (0, "done: 0.2.0 serves; it was 0.1.0\n"), done.stderr
    steps = ("fetching deploy 0.2.0-good: .*100 % of", "checking", "placing", "installing",
             "verifying 0.2.0", "0.2.0 is permanent")  # fmt: skip
    assert re.search(".*\n(.*\n)*?".join(steps), done.stderr), done.stderr
    shown = replica.verb("releases").stdout
    assert re.search(r"hello 0\.2\.0 +permanent +serves\n", shown)
    assert re.search(r"hello 0\.1\.0 +old\n", shown)
    assert re.search(
        rf"{digest_of(kind, '0.2.0')[:12]} 0\.2\.0 +deploy 0\.2\.0-good, ready .*  current\n", shown
    )
    last = replica.verb("status").stdout
    assert re.search(r"last +upgrade at \S+Z: done: 0\.2\.0 serves; it was 0\.1\.0\n", last)


@pytest.mark.parametrize("kind", ["mix", "relx"], indirect=True)
def test_what_serves_already_is_left_alone(platform, kind):
    replica = boot(platform, kind)
    before = status(replica)
    ended = change(replica, "upgrade")
    assert ended.verdict == (0, "already there", "0.1.0"), ended
    assert ended.outcome["notes"] == []
    deploy(platform, kind, "0.1.0", config={"GREETING": "other"})
    ended = change(replica, "upgrade")
    assert ended.verdict == (0, "already there", "0.1.0"), ended
    assert "`run-agent reconfigure`" in ended.outcome["notes"][0]
    assert change(replica, "downgrade", "0.1.0").verdict == (0, "already there", "0.1.0")
    deploy(platform, kind, "0.2.0")
    assert change(replica, "upgrade").verdict == (0, "done", "0.2.0")
    ended = change(replica, "upgrade")
    assert ended.verdict == (0, "already there", "0.2.0"), ended
    assert status(replica)["release_pid"] == before["release_pid"]


@pytest.mark.parametrize("kind", ["mix", "relx"], indirect=True)
def test_an_earlier_deploy_is_gone_back_to_by_the_relup(platform, kind):
    """The controller's current deploy may be the one before: `upgrade` goes there, too."""
    replica = boot(platform, kind)
    deploy(platform, kind, "0.2.0")
    assert change(replica, "upgrade").verdict == (0, "done", "0.2.0")
    digest = deploy(platform, kind, "0.1.0")
    ended = change(replica, "upgrade")
    assert ended.verdict == (0, "done", "0.1.0"), ended
    require_that_all_say(replica, "0.1.0", digest)


@pytest.mark.parametrize("kind", ["mix", "relx"], indirect=True)
def test_another_build_of_an_earlier_version_goes_in_unless_the_node_began_in_it(platform, kind):
    replica = boot(platform, kind)
    deploy(platform, kind, "0.2.0")
    assert change(replica, "upgrade").verdict == (0, "done", "0.2.0")
    deploy(platform, kind, "0.1.0", "migrating")
    ended = change(replica, "upgrade")
    assert ended.verdict == (10, "refused", "0.2.0"), ended
    assert "the node was started in 0.1.0" in ended.outcome["message"]
    assert "go back by `run-agent downgrade 0.1.0`" in ended.outcome["message"]
    assert change(replica, "downgrade", "0.1.0").verdict == (0, "done", "0.1.0")
    digest = deploy(platform, kind, "0.2.0", "fixed")
    ended = change(replica, "upgrade")
    assert ended.verdict == (0, "done", "0.2.0"), ended
    assert status(replica)["digest"] == digest
    assert b" build=fixed" in ask(replica, "/")[1]


@pytest.mark.parametrize("kind", ["mix"], indirect=True)
def test_that_there_is_no_way_back_is_said_before_and_after(platform, kind):
    replica = boot(platform, kind)
    deploy(platform, kind, "0.2.0", "one_way")
    ended = change(replica, "upgrade")
    assert ended.verdict == (0, "done", "0.2.0"), ended
    assert ended.outcome["notes"][0].startswith("there is no way back to 0.1.0 by the relup: if")
    ended = change(replica, "downgrade", "0.1.0")
    assert ended.verdict == (10, "refused", "0.2.0"), ended
    assert "the relup of 0.2.0 has no way down to it; deploy it" in ended.outcome["message"]


@pytest.mark.parametrize("kind", ["mix"], indirect=True)
def test_a_slug_that_the_controller_knows_nothing_of(platform, kind):
    replica = boot(platform, kind, config=FIRST)
    url = upgrade_slugs.slug(kind, "0.2.0").as_uri()
    ended = change(replica, "upgrade", "--slug", url)
    assert ended.verdict == (0, "done", "0.2.0"), ended
    assert b" greeting=eins " in ask(replica, "/")[1]
    assert "a new container boots" in " ".join(ended.outcome["notes"])


@pytest.mark.parametrize("kind", ["mix"], indirect=True)
def test_a_tarball_with_dots(platform, kind):
    replica = boot(platform, kind)
    dotted = upgrade_slugs.dotted(upgrade_slugs.slug(kind, "0.2.0")).read_bytes()
    digest = platform.deploy(dotted, version=label("0.2.0"))
    assert change(replica, "upgrade").verdict == (0, "done", "0.2.0")
    require_that_all_say(replica, "0.2.0", digest)


@pytest.mark.parametrize("kind", ["mix"], indirect=True)
def test_versions_before_the_last_two_are_removed_but_nothing_that_others_share(platform, kind):
    replica = boot(platform, kind)
    began = tree(replica, current(replica.root))
    slugs = {
        version: upgrade_slugs.slug(kind, version).read_bytes() for version in ("0.2.0", "0.3.0")
    }
    slugs["0.4.0"] = renamed(slugs["0.3.0"], "0.3.0", "0.4.0")
    slugs["0.5.0"] = renamed(slugs["0.4.0"], "0.4.0", "0.5.0")
    for version, slug in slugs.items():
        platform.deploy(slug, version=label(version))
        ended = change(replica, "upgrade")
        assert ended.verdict == (0, "done", version), ended
    began_with = {"0.1.0": "old"}
    assert on_node(replica) == {"0.5.0": "permanent", "0.4.0": "old", "0.3.0": "old"} | began_with
    versions = {path.name for path in (began / "releases").iterdir() if path.is_dir()}
    assert versions == {"0.5.0", "0.4.0", "0.3.0", "0.1.0"}
    assert not (began / "lib" / "greeter-1.0.0").exists()
    assert (began / "lib" / "greeter-1.1.0").exists()
    assert serves(replica) == "0.3.0"  # what the application itself is called in all of these
    for version in ("0.4.0", "0.3.0"):
        ended = change(replica, "downgrade", version)
        assert ended.verdict == (0, "done", version), ended
    ended = change(replica, "downgrade", "0.2.0")
    assert (ended.code, "the node does not know 0.2.0" in ended.outcome["message"]) == (10, True)


def renamed(slug, old, new):
    """Return the slug as another version of the release, to which no application changes."""
    packed = io.BytesIO()
    ways = f'[{{"{old}",[],[point_of_no_return]}}]'
    with (
        tarfile.open(fileobj=io.BytesIO(slug)) as source,
        tarfile.open(fileobj=packed, mode="w:gz", compresslevel=1) as target,
    ):
        for member in source:
            content = source.extractfile(member).read() if member.isreg() else b""
            if member.name.endswith("/relup"):
                content = f'{{"{new}",{ways},{ways}}}.\n'.encode()
            elif member.name.endswith(("start_erl.data", "/hello.rel", "/sys.config")):
                content = content.replace(old.encode(), new.encode(), 1)
            member.name = member.name.replace(f"releases/{old}", f"releases/{new}")
            member.size = len(content)
            target.addfile(member, io.BytesIO(content) if member.isreg() else None)
    return packed.getvalue()
