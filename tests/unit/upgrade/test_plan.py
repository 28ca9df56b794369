"""What can be changed in place, and what is refused with which words."""

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from run_agent.release import Kind, Release, identify
from upgrade import plan
from upgrade.failures import Failure
from upgrade.model import Known, Relup, Serving
from upgrade.plan import AlreadyThere, Hot, Refused, Running, Target

FAILURE = Failure(at=1_700_000_000.0, from_version="0.1.0", reason="code_change raised badarg")
RELUP = Relup("0.2.0", up_from={"0.1.0": False}, down_to={"0.1.0": False})
ORDINARY = "deploy it the ordinary way (restart the replica)"


def mix(tree, version, *, erts="13.1.5", files=("bin/hello", "releases/{}/env.sh")):
    for name in files:
        path = tree / name.format(version)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (tree / "releases").mkdir(exist_ok=True)
    (tree / "releases" / "start_erl.data").write_text(f"{erts} {version}")
    return identify(tree, "hello")


@pytest.fixture(scope="module")
def old_release(tmp_path_factory):
    return mix(tmp_path_factory.mktemp("old"), "0.1.0")


@pytest.fixture(scope="module")
def new_release(tmp_path_factory):
    return mix(tmp_path_factory.mktemp("new"), "0.2.0")


@pytest.fixture(scope="module")
def running(old_release):
    return Running("a" * 64, old_release, serving(permanent="0.1.0"), "40")


@pytest.fixture(scope="module")
def target(new_release):
    return Target("b" * 64, new_release, RELUP, "41")


def serving(erts="13.1.5", **versions):
    """Return what a node says: versions by their status, those of one status parted by spaces."""
    known = (
        Known("hello", version, status)
        for status, several in versions.items()
        for version in several.split()
    )
    return Serving(Path("/srv/old"), erts, tuple(known))


def decide(running, target, failed=None, *, force=False):
    return plan.decide(running, target, failed=failed, force=force)


def refusal(verdict):
    assert isinstance(verdict, Refused)
    return str(verdict)


def test_a_relup_from_what_serves_is_hot(running, target):
    assert decide(running, target) == Hot()


def test_the_slug_that_serves_is_there(running, target):
    assert decide(running, replace(target, digest=running.digest, release=running.release)) == (
        AlreadyThere()
    )


def test_a_slug_whose_version_no_longer_serves_is_not_there(running, target):
    """Such is a node that has rebooted itself into the version that it was started in."""
    assert decide(replace(running, digest=target.digest), target) == Hot()


def test_another_slug_of_the_same_version_is_refused(running, target):
    same = replace(target, release=running.release)
    assert refusal(decide(running, same)) == (
        "cannot upgrade 0.1.0 to 0.1.0 in place: deploy 41 has the version of deploy 40, but is "
        f"another slug; raise its version, or {ORDINARY}"
    )
    assert "the version of what runs" in refusal(decide(replace(running, label=None), same))


def test_another_tool_is_refused(running, target):
    relx = replace(target, release=replace(target.release, kind=Kind.RELX))
    assert refusal(decide(running, relx)) == (
        "cannot upgrade 0.1.0 to 0.2.0 in place: it was built by relx, and what runs by mix "
        f"release; {ORDINARY}"
    )


def test_another_name_is_refused(running, target):
    other = replace(target, release=replace(target.release, name="goodbye"))
    assert "it is the release goodbye, and what runs is hello" in refusal(decide(running, other))


def test_a_project_is_refused_on_either_side(running, target, tmp_path):
    project = Release(Kind.PROCFILE, "hello", tmp_path)
    assert refusal(decide(running, replace(target, release=project))) == (
        "cannot upgrade 0.1.0 to deploy 41 in place: it is a Procfile project, which only a "
        f"restart can change; {ORDINARY}"
    )
    ours = replace(running, release=project)
    assert "what runs is a Procfile project" in refusal(decide(ours, target))
    assert "what runs is a Procfile project" in refusal(plan.decide_down(ours, "0.0.9", RELUP))
    same = replace(target, digest=running.digest, release=project)
    assert decide(ours, same) == AlreadyThere()


@pytest.mark.parametrize(
    ("files", "missing"),
    [
        (["lib/hello-0.2.0/ebin/hello.beam", "releases/0.2.0/hello.rel"], "bin/hello"),
        (["bin/hello", "releases/0.2.0/elixir"], "releases/0.2.0/env.sh"),
    ],
)
def test_what_no_restart_could_boot_is_refused(running, target, tmp_path, files, missing):
    part = replace(target, release=mix(tmp_path, "0.2.0", files=files))
    assert refusal(decide(running, part)) == (
        f"cannot upgrade 0.1.0 to 0.2.0 in place: its slug has no {missing}, so no restart could "
        "boot it; pack the whole folder of the release, not only what an upgrade needs"
    )


def test_a_release_of_another_name_than_the_deploy_s_is_refused(running, target, tmp_path):
    files = ["bin/other", "releases/0.2.0/other.rel"]
    part = replace(target, release=mix(tmp_path, "0.2.0", files=files))
    assert refusal(decide(running, part)) == (
        "cannot upgrade 0.1.0 to 0.2.0 in place: its slug is the release other, and not hello; "
        "build it as hello, or deploy it with customer_app_name other"
    )


def test_a_tarball_of_systools_is_refused(running, target, tmp_path):
    """It has no start_erl.data; a `mix release` of which only that is missing has no version."""
    (tmp_path / "releases" / "0.2.0").mkdir(parents=True)
    bare = replace(target, release=identify(tmp_path, "hello"))
    message = refusal(decide(running, bare))
    assert message.startswith(
        "cannot upgrade 0.1.0 to deploy 41 in place: its slug has no releases/"
    )
    assert "start_erl.data" in message


def test_another_erts_is_refused_by_what_a_start_would_look_for(running, target, tmp_path):
    other = replace(target, release=mix(tmp_path, "0.2.0", erts="14.0"))
    assert "needs Erlang's ERTS 14.0, and the node runs 13.1.5" in refusal(decide(running, other))


@pytest.mark.parametrize(
    ("relup", "why"),
    [
        (None, "it has no releases/0.2.0/relup; build it with a relup from 0.1.0"),
        (replace(RELUP, version="0.3.0"), "its relup is one of 0.3.0; build it with a relup"),
        (
            replace(RELUP, up_from={"0.0.9": False, "0.0.8": True}),
            "no way from 0.1.0, only from 0.0.8, 0.0.9;",
        ),
        (replace(RELUP, up_from={}), "its relup has no way from 0.1.0;"),
        (replace(RELUP, up_from={"0.1.0": True}), "its relup restarts the emulator, which ends"),
    ],
)
def test_a_relup_without_the_way_is_refused(running, target, relup, why):
    message = refusal(decide(running, replace(target, relup=relup)))
    assert why in message
    assert message.endswith(ORDINARY)


@pytest.mark.parametrize(
    ("down_to", "note"),
    [
        ({}, "there is no way back to 0.1.0 by the relup"),
        ({"0.1.0": True}, "the relup's way back to 0.1.0 restarts the emulator"),
    ],
)
def test_what_a_failure_would_cost_is_said_before(running, target, down_to, note):
    verdict = decide(running, replace(target, relup=replace(RELUP, down_to=down_to)))
    assert verdict == Hot((f"{note}: if 0.2.0 fails, the release is started again in 0.1.0",))


@pytest.mark.parametrize("status", ["unpacked", "old"])
def test_what_was_left_of_the_version_is_no_obstacle(running, target, status):
    left = replace(running, serving=serving(permanent="0.1.0", **{status: "0.2.0"}))
    assert decide(left, target) == Hot()


def test_a_change_that_was_cut_is_not_built_upon(running, target):
    cut = replace(running, serving=serving(current="0.1.0", permanent="0.2.0"))
    assert "on the node 0.2.0 is permanent, though 0.1.0 serves" in refusal(decide(cut, target))


def test_the_version_that_the_node_was_started_in_is_not_replaced(running, target, old_release):
    later = replace(running, serving=serving(permanent="0.2.0", old="0.1.0"))
    message = refusal(decide(later, replace(target, release=old_release)))
    assert "go back by `run-agent downgrade 0.1.0`" in message


def test_what_failed_is_tried_again_by_force_only(running, target):
    assert refusal(decide(running, target, FAILURE)) == (
        "cannot upgrade 0.1.0 to 0.2.0 in place: the same slug failed at 2023-11-14 "
        "22:13:20+00:00: code_change raised badarg; --force tries again"
    )
    assert decide(running, target, FAILURE, force=True) == Hot()


def test_force_does_not_make_a_way(running, target):
    assert refusal(decide(running, replace(target, relup=None), FAILURE, force=True))


STATUSES = st.sampled_from(["old", "unpacked", "tmp_current", "permanent"])
VERSIONS = st.sampled_from(["0.1.0", "0.2.0", "0.3.0"])
WAYS = st.dictionaries(VERSIONS, st.booleans())


@given(st.dictionaries(VERSIONS, STATUSES), VERSIONS, VERSIONS, WAYS, WAYS, st.booleans())
def test_hot_is_only_what_the_relup_allows(running, target, others, old, of, up, down, same):
    others.pop(old, None)
    known = [Known("hello", old, "current"), *(Known("hello", *pair) for pair in others.items())]
    node = replace(running, serving=Serving(Path("/srv/old"), "13.1.5", tuple(known)))
    slug = replace(target, relup=Relup(of, up, down), digest="a" * 64 if same else "b" * 64)
    verdict = decide(node, slug)
    if old == "0.2.0":
        assert isinstance(verdict, AlreadyThere if same else Refused)
    elif isinstance(verdict, Hot):
        assert of == "0.2.0"
        assert up[old] is False
        assert bool(verdict.notes) is (down.get(old) is not False)
    else:
        assert refusal(verdict).startswith(f"cannot upgrade {old} to 0.2.0 in place: ")


@pytest.fixture
def upgraded(running):
    return replace(running, serving=serving(permanent="0.2.0", old="0.1.0", unpacked="0.3.0"))


def test_the_relup_leads_down_too(upgraded):
    assert plan.decide_down(upgraded, "0.1.0", RELUP) == Hot()
    assert plan.decide_down(upgraded, "0.2.0", RELUP) == AlreadyThere()


def test_where_there_is_no_older_version_that_is_said(running):
    assert "there is no older version to go back to" in str(
        plan.decide_down(running, "0.0.9", None)
    )


def test_a_way_down_without_a_way_up_is_said(upgraded):
    verdict = plan.decide_down(upgraded, "0.1.0", replace(RELUP, up_from={"0.2.0": False}))
    assert isinstance(verdict, Hot)
    (note,) = verdict.notes
    assert note.startswith("there is no way back to 0.2.0 by the relup: if 0.1.0 fails, ")


@pytest.mark.parametrize(
    ("version", "relup", "why"),
    [
        ("0.0.9", RELUP, "the node does not know 0.0.9; it can go back to 0.1.0"),
        ("0.3.0", RELUP, "on the node 0.3.0 is unpacked, not a version that served before"),
        ("0.1.0", None, "0.2.0 was built without a relup"),
        ("0.1.0", replace(RELUP, down_to={"0.0.9": False}), "no way down to it, only to 0.0.9"),
        ("0.1.0", replace(RELUP, down_to={"0.1.0": True}), "the relup of 0.2.0 restarts the em"),
    ],
)
def test_no_way_down_is_refused(upgraded, version, relup, why):
    message = refusal(plan.decide_down(upgraded, version, relup))
    assert message.startswith(f"cannot downgrade 0.2.0 to {version} in place: ")
    assert why in message
    assert message.endswith(ORDINARY)
