"""What the release sees, and which value wins. `.profile.d` is in tests/process: it needs bash."""

import asyncio
import os
from pathlib import Path

import pytest

from run_agent import settings
from run_agent.errors import RunAgentError
from run_agent.model import Deploy, Layout, Secret
from run_agent.release import Kind, Release, environment, locales
from run_agent.release.identity import Identity

IDENTITY = Identity("my-app", "10.0.0.7", cookie=Secret("c00kie"), key_base=Secret("base"))

NODE = {
    "MY_NODE_NAME": "my-app@10.0.0.7",
    "RELEASE_NODE": "my-app@10.0.0.7",
    "MY_COOKIE": "c00kie",
    "RELEASE_COOKIE": "c00kie",
    "ERLANG_COOKIE": "c00kie",
}
"""What no configuration may change."""

OWN_VM_ARGS = {
    "releases/0.1.0/vm.args": "## the release's",
    "releases/0.2.0/vm.args": "## the other version's",
    "given/vm.args": "## the container's",
}

DEFAULT_PATH = environment.DEFAULT_PATH


@pytest.fixture
def build(tmp_path):
    """Return a function that builds the environment of a release below `tmp_path`."""

    def run(environ=(), config=(), kind=Kind.MIX, **more):
        environ = {"RUN_AGENT_ROOT": str(tmp_path), "CONTROLLER_URL": "none"} | dict(environ)
        tree = tmp_path / "slug"
        tree.mkdir(exist_ok=True)
        return asyncio.run(
            environment.build(
                environ,
                settings=settings.load(environ),
                identity=IDENTITY,
                deploy=Deploy("https://host/slug", "hello", config=dict(config)),
                release=Release(kind, "hello", tree, "0.1.0", erts=more.pop("erts", None)),
                **more,
            )
        )

    return run


def test_all_of_it(build, tmp_path):
    layout = Layout(tmp_path)
    assert build() == NODE | {
        "RUN_AGENT_ROOT": str(tmp_path),
        "RELEASE_DISTRIBUTION": "name",
        "LIBCLUSTER_KUBERNETES_SELECTOR": "repo=my-app",
        "LIBCLUSTER_KUBERNETES_NODE_BASENAME": "my-app",
        "APP_NAME": "my-app",
        "GIGALIXIR_APP_NAME": "hello",
        "GIGALIXIR_COMMAND": "start",
        "MY_POD_IP": "10.0.0.7",
        "PORT": "4000",
        "SECRET_KEY_BASE": "base",
        "HOME": str(tmp_path / "app"),
        "LC_ALL": locales.utf8(),
        "PATH": f"{layout.bin}:{DEFAULT_PATH}",
    }


@pytest.mark.parametrize("kind", [Kind.RELX, Kind.DISTILLERY_1, Kind.DISTILLERY_2])
def test_tools_with_a_vm_args_get_ours(build, tmp_path, kind):
    env = build(kind=kind, environ={"DIST_PORT": "9100"})
    replace = ("REPLACE_OS_VARS", "RELX_REPLACE_OS_VARS", "GIGALIXIR_DEFAULT_VMARGS")
    assert {env[name] for name in replace} == {"true"}
    assert env["VMARGS_PATH"] == str(tmp_path / "run/run-agent/vm.args")
    assert env["GIGALIXIR_COMMAND"] == "foreground"
    lines = (tmp_path / "run/run-agent/vm.args").read_text().splitlines()
    assert lines[0] == "-name my-app@10.0.0.7"
    assert lines[-1] == "-kernel inet_dist_listen_max 9100"


@pytest.mark.parametrize(
    ("kind", "environ", "config", "path"),
    [
        (Kind.RELX, {}, {"GIGALIXIR_DEFAULT_VMARGS": "false"}, None),
        (Kind.RELX, {}, {"GIGALIXIR_DEFAULT_VMARGS": "True"}, "ours"),
        (Kind.RELX, {"GIGALIXIR_DEFAULT_VMARGS": "false"}, {}, "ours"),
        (Kind.RELX, {"VMARGS_PATH": "/image"}, {}, "ours"),
        (Kind.RELX, {}, {"VMARGS_PATH": "/mine"}, "/mine"),
        (Kind.MIX, {}, {"GIGALIXIR_DEFAULT_VMARGS": "true"}, None),
        (Kind.PROCFILE, {}, {}, None),
    ],
)
def test_whose_vm_args_is_used(build, tmp_path, kind, environ, config, path):
    ours = tmp_path / "run/run-agent/vm.args"
    assert build(environ, config, kind).get("VMARGS_PATH") == (
        str(ours) if path == "ours" else path
    )
    assert ours.exists() == (path == "ours")


@pytest.mark.parametrize(
    ("environ", "config", "counts"),
    [
        ({"DIST_PORT": "9100"}, {}, "the release's"),
        ({"DIST_PORT": "9100", "RELEASE_VM_ARGS": "given/vm.args"}, {}, "the container's"),
        ({"DIST_PORT": "9100", "RELEASE_VSN": "0.2.0"}, {}, "the other version's"),
        ({"DIST_PORT": "9100"}, {"RELEASE_VM_ARGS": "given/vm.args"}, None),
        ({"DIST_PORT": "9100", "RELEASE_VM_ARGS": "/nowhere"}, {}, None),
        ({"RELEASE_VM_ARGS": "given/vm.args"}, {}, None),
        ({}, {}, None),
    ],
)
def test_dist_port_is_added_to_the_vm_args_of_a_mix_release(
    build, tmp_path, environ, config, counts
):
    for path, text in OWN_VM_ARGS.items():
        (tmp_path / "slug" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "slug" / path).write_text(text)
    env = build(environ, config, Kind.MIX)
    if counts is None:
        assert env.get("RELEASE_VM_ARGS") == (config or environ).get("RELEASE_VM_ARGS")
        assert not list((tmp_path / "run/run-agent").glob("vm.args*"))
    else:
        path = Path(env["RELEASE_VM_ARGS"])
        assert path.parent == tmp_path / "run/run-agent"
        assert path.read_text().splitlines()[1:] == [
            "-kernel inet_dist_listen_max 9100", f"## {counts}"
        ]  # fmt: skip
    assert "VMARGS_PATH" not in env


def test_a_cookie_that_vm_args_cannot_hold_matters_only_there(build, monkeypatch):
    quoted = Identity("my-app", "10.0.0.7", cookie=Secret('a"b'), key_base=Secret("base"))
    monkeypatch.setitem(globals(), "IDENTITY", quoted)
    assert build(kind=Kind.MIX)["RELEASE_COOKIE"] == 'a"b'
    assert build(kind=Kind.RELX, config={"GIGALIXIR_DEFAULT_VMARGS": "false"})
    with pytest.raises(RunAgentError, match="ERLANG_COOKIE"):
        build(kind=Kind.RELX)


@pytest.mark.parametrize(
    ("environ", "config", "seen"),
    [
        ({"FOO": "container"}, {}, {"FOO": "container"}),
        ({"FOO": "container"}, {"FOO": "config"}, {"FOO": "config"}),
        ({"KUBERNETES_SERVICE_HOST": "10.1.1.1"}, {}, {"KUBERNETES_SERVICE_HOST": "10.1.1.1"}),
        ({"APP_NAME": "container"}, {}, {"APP_NAME": "my-app"}),
        ({"LC_ALL": "container"}, {}, {"LC_ALL": locales.utf8()}),
        ({}, {"LC_ALL": "C"}, {"LC_ALL": "C"}),
        ({"HOME": "/root"}, {}, {"HOME": "/root"}),
        ({"HOME": "/root"}, {"HOME": "/home"}, {"HOME": "/home"}),
        ({"PORT": "5000"}, {}, {"PORT": "5000"}),
        ({"PORT": "5000"}, {"PORT": "6000"}, {"PORT": "6000"}),
        ({}, {"RELEASE_DISTRIBUTION": "none"}, {"RELEASE_DISTRIBUTION": "none"}),
        ({}, {"SECRET_KEY_BASE": "mine"}, {"SECRET_KEY_BASE": "mine"}),
        ({}, {"GIGALIXIR_COMMAND": "mine"}, {"GIGALIXIR_COMMAND": "mine"}),
        (dict.fromkeys(NODE, "evil"), dict.fromkeys(NODE, "evil"), NODE),
        ({}, {"ODD": "a\nb'\"$HOME `x` \\ ü 😀 "}, {"ODD": "a\nb'\"$HOME `x` \\ ü 😀 "}),
        ({"BYTES": "\udcff"}, {}, {"BYTES": "\udcff"}),
        ({}, {"EMPTY": ""}, {"EMPTY": ""}),
        # Passed on only where the user says so.
        ({"APP_KEY": "k", "LOGPLEX_TOKEN": "t", "HEALTH_PORT": "1"}, {},
         dict.fromkeys(settings.OWN_NAMES)),
        ({"APP_KEY": "k"}, {"APP_KEY": "mine"}, {"APP_KEY": "mine"}),
    ],
)  # fmt: skip
def test_which_value_wins(build, environ, config, seen):
    env = build(environ, config)
    assert {name: env.get(name) for name in seen} == seen


@pytest.mark.parametrize(
    ("environ", "config", "path"),
    [
        ({"PATH": "/a:/b"}, {}, "{bin}:/a:/b"),
        ({"PATH": ""}, {}, "{bin}:" + DEFAULT_PATH),
        ({"PATH": "/a"}, {"PATH": "/mine"}, "{bin}:/mine"),
    ],
)
def test_our_folder_is_on_the_path(build, tmp_path, environ, config, path):
    assert build(environ, config)["PATH"] == path.format(bin=Layout(tmp_path).bin)


def test_the_path_leads_to_the_slugs_own_epmd(build, tmp_path):
    link = Layout(tmp_path).bin / "epmd"
    for version in "1", "2":
        epmd = tmp_path / f"slug/erts-{version}/bin/epmd"
        epmd.parent.mkdir(parents=True)
        epmd.touch()
        build(erts=epmd.parent.parent)
        assert link.readlink() == epmd
    build()
    assert not link.is_symlink()


def test_what_was_given_and_assigned(build):
    env = build(command=("sleep", "5"), host_index="3")
    assert (env["GIGALIXIR_COMMAND"], env["HOST_INDEX"]) == ("sleep 5", "3")


@pytest.mark.parametrize(
    ("name", "value", "problem"),
    [
        ("BIG", "x" * (128 * 1024 - 4), "has 131073 bytes"),
        ("BIG", "ä" * (64 * 1024), "has 131077 bytes"),
        ("NUL", "a\0b", "holds a NUL"),
        ("A=B", "x", "is no name"),
        ("", "x", "is no name"),
        ("N\0", "x", "is no name"),
        ("HALF", "\ud800", "is no valid Unicode"),
    ],
)
def test_what_no_process_can_be_given_is_refused_by_name(build, name, value, problem):
    with pytest.raises(RunAgentError) as caught:
        build(config={name: value, "ALSO": "\0secret"})
    message = str(caught.value)
    assert f"{name!r} {problem}" in message
    assert "'ALSO' holds a NUL" in message
    assert "secret" not in message
    assert len(message) < 400
    assert caught.value.exit_code == os.EX_DATAERR


def test_the_largest_value_that_the_kernel_takes(build):
    assert len(build(config={"BIG": "x" * (128 * 1024 - 5)})["BIG"]) == 128 * 1024 - 5


def test_a_run_folder_that_cannot_be_written_is_an_error(build, tmp_path):
    (tmp_path / "run").write_text("no folder")
    with pytest.raises(RunAgentError, match=r"cannot write .*mount a tmpfs") as caught:
        build()
    assert caught.value.exit_code == os.EX_IOERR
