"""DIST_PORT: every kind of release keeps to it, and everything beside its node goes on working."""

import io
import json
import tarfile

import psutil
import pytest

from support import replica as replicas
from support import slugs, upgrade_slugs
from support.changing import Line
from support.terminal import CTRL_C, on_terminal
from support.upgrading import NODE_SECONDS, QUICK, change
from support.wait import until

KINDS = ("mix", "relx", "distillery1", "distillery2")

PROMPT = r"\(hello@127\.0\.0\.1\)\d+> "

MARK = "-hello mark"
"""A flag of nobody's, by which a vm.args is known."""

RESTARTED = QUICK | {"RESTART": "on-failure"}

SCRIPT_S_OWN = {
    "mix": (("rpc", "IO.puts(1 + 1)"), ("eval", "IO.puts(1 + 1)"), ("pid",)),
    "relx": (("eval", "1 + 1."), ("rpc", "erlang", "length", "[[a,b]]"), ("ping",), ("pid",)),
    "distillery1": (("eval", "1 + 1."), ("ping",), ("pid",)),
    "distillery2": (("rpc", "1 + 1"), ("eval", "IO.puts(1 + 1)"), ("ping",), ("pid",)),
}


@pytest.fixture
def boot(platform, reserved):
    """Boot a slug of the kind that is named, with a distribution port of its own."""

    def boot(kind, settings=None, slug=None, **config):
        platform.dist_port = reserved.free()
        slug = slug or slugs.slug(kind).read_bytes()
        platform.digest = platform.deploy(slug, config=config)
        fixed = {"DIST_PORT": str(platform.dist_port)} | (settings or {})
        return platform.boot(settings=fixed).until_ready(NODE_SECONDS)

    return boot


def listens_on(replica) -> int:
    """Return where the node takes others, as epmd and `observer` say."""
    port = json.loads(replica.verb("observer", "--json").stdout)["distribution_port"]
    assert f"name hello at port {port}\n" in replica.verb("shell", "--", "epmd", "-names").stdout
    return port


def problem(replica) -> str | None:
    return json.loads(replica.verb("status", "--json").stdout)["nodes"]["problem"]


def marked(version, mark, variant="good"):
    """Return the slug of that version, with a vm.args that can be told from another."""
    packed, name = io.BytesIO(), f"releases/{version}/vm.args"
    with (
        tarfile.open(upgrade_slugs.slug("mix", version, variant)) as slug,
        tarfile.open(mode="w:gz", fileobj=packed, compresslevel=1) as out,
    ):
        for member in slug:
            content = slug.extractfile(member) if member.isreg() else None
            if member.name == name:
                text = content.read() + f"\n{MARK} {mark}".encode()
                member.size, content = len(text), io.BytesIO(text)
            out.addfile(member, content)
    return packed.getvalue()


def mark_of(replica) -> str:
    """Return the mark in the vm.args that the node of a mix release has read."""
    return replica.verb("distillery_eval", "Enum.join(elem(:init.get_argument(:hello), 1))").stdout


@pytest.mark.parametrize("kind", KINDS)
def test_the_node_keeps_to_it_and_what_reaches_the_node_needs_no_port(boot, platform, kind):
    replica = boot(kind)
    assert listens_on(replica) == platform.dist_port
    assert problem(replica) is None
    for arguments in SCRIPT_S_OWN[kind]:
        done = replica.verb("shell", "--", "bin/hello", *arguments)
        assert done.returncode == 0, (arguments, done)
    assert replica.verb("distillery_eval", "1 + 1").stdout == "2\n"
    with on_terminal((*replicas.RUN_AGENT, "remote_console"), env=replica.environ) as console:
        console.until_shown(PROMPT)
        console.type(CTRL_C)
        console.until_shown("a\\)bort")
        console.type(CTRL_C)
        console.wait()
    psutil.Process(replica.release_pid).kill()
    assert replica.wait() == 137


@pytest.mark.parametrize(
    ("kind", "config"),
    [
        ("relx", {"GIGALIXIR_DEFAULT_VMARGS": "false"}),
        ("distillery1", {"GIGALIXIR_DEFAULT_VMARGS": "false"}),
        ("distillery2", {"GIGALIXIR_DEFAULT_VMARGS": "false"}),
        ("mix", {"RELEASE_VM_ARGS": "releases/0.1.0/vm.args"}),
    ],
)
def test_where_the_configuration_has_its_own_vm_args_it_cannot_and_that_is_said(
    boot, platform, kind, config
):
    replica = boot(kind, **config)
    port = listens_on(replica)
    assert port != platform.dist_port
    said = f"takes other nodes on port {port}, and not on DIST_PORT={platform.dist_port}: it was"
    assert said in problem(replica)
    assert said in replica.verb("status").stdout
    until(lambda: replica.get("/readyz").body["nodes"]["problem"], "the probe does not say it")
    assert len(replica.events(said)) == 1


def test_the_container_s_own_vm_args_counts_as_well(boot, platform, tmp_path):
    own = tmp_path / "own vm.args"
    own.write_text(f"## ours\n{MARK} container\n-kernel inet_dist_listen_min 1 logger_level error")
    replica = boot("mix", {"RELEASE_VM_ARGS": str(own)})
    assert listens_on(replica) == platform.dist_port
    assert mark_of(replica) == '"markcontainer"\n'


def test_a_vm_args_that_is_not_there_is_for_the_script_to_say(platform, reserved):
    platform.deploy(slugs.slug("mix").read_bytes())
    settings = {"DIST_PORT": str(reserved.free()), "RELEASE_VM_ARGS": "/nowhere/vm.args"}
    replica = platform.boot(settings=settings)
    assert replica.wait(NODE_SECONDS) == 1
    assert "/nowhere/vm.args" in replica.log


def test_after_an_upgrade_a_restart_in_place_reads_the_new_vm_args_and_keeps_the_port(
    boot, platform
):
    replica = boot("mix", RESTARTED, slug=marked("0.1.0", "old"))
    assert mark_of(replica) == '"markold"\n'
    platform.deploy(marked("0.2.0", "new"), version="42")
    assert change(replica, "upgrade").verdict == (0, "done", "0.2.0")
    assert mark_of(replica) == '"markold"\n'  # it is read at a start
    restart_in_place(replica)
    assert mark_of(replica) == '"marknew"\n'
    assert listens_on(replica) == platform.dist_port


def test_after_an_upgrade_that_failed_a_restart_in_place_reads_the_old_vm_args(boot, platform):
    replica = boot("mix", RESTARTED, slug=marked("0.1.0", "old"))
    platform.deploy(marked("0.2.0", "new", "raising"), version="42")
    with Line(replica):  # whose code_change raises
        assert change(replica, "upgrade").verdict == (12, "failed and recovered", "0.1.0")
    assert listens_on(replica) == platform.dist_port
    restart_in_place(replica)
    assert mark_of(replica) == '"markold"\n'
    assert listens_on(replica) == platform.dist_port


def restart_in_place(replica):
    before, started = replica.release_pid, len(replica.events("release started"))
    psutil.Process(before).kill()
    until(lambda: len(replica.events("release started")) > started, "it is not started again")
    replica.until_ready(NODE_SECONDS)
