"""What kind of release a tree is, told by its files."""

import os

import pytest

from run_agent.errors import RunAgentError
from run_agent.release import Kind, identify

MIX = ["bin/hello", "bin/hello.bat", "releases/1.0/env.sh", "releases/1.0/elixir"]
RELX = ["bin/hello", "bin/hello-1.0", "bin/nodetool", "bin/install_upgrade.escript"]
DISTILLERY_1 = [
    "bin/hello", "bin/hello_loader.sh", "bin/nodetool", "releases/1.0/libexec/erts.sh",
]  # fmt: skip
DISTILLERY_2 = [
    "bin/hello", "bin/hello_rc_exec.sh", "releases/1.0/config.boot", "libexec/erts.sh",
]  # fmt: skip
BOOTED = {"releases/start_erl.data": "13.1.5 1.0"}


def plant(tree, paths, contents=BOOTED):
    """Make a tree of empty files, and of those with `contents`."""
    for path in [*paths, *contents]:
        (tree / path).parent.mkdir(parents=True, exist_ok=True)
        (tree / path).write_text(contents.get(path, ""))
    return tree


@pytest.mark.parametrize(
    ("paths", "kind"),
    [
        (MIX, Kind.MIX),
        (RELX, Kind.RELX),
        (DISTILLERY_1, Kind.DISTILLERY_1),
        (DISTILLERY_2, Kind.DISTILLERY_2),
        ([*MIX, "Procfile"], Kind.MIX),
        ([*MIX, "libexec/mine"], Kind.MIX),  # an overlay of the user's
        ([*DISTILLERY_2, "releases/1.0/env.sh", "releases/1.0/elixir"], Kind.DISTILLERY_2),
        (["bin/hello", "releases/1.0/libexec/erts.sh"], Kind.DISTILLERY_2),
        (["bin/hello"], Kind.RELX),
        (["bin/other", "releases/1.0/env.sh"], Kind.MIX),
    ],
)
def test_the_files_tell_the_kind(tmp_path, paths, kind):
    assert identify(plant(tmp_path, paths), "hello").kind is kind


@pytest.mark.parametrize("paths", [["mix.exs"], ["mix.exs", "bin/server"], []])
def test_a_tree_without_a_release_is_a_project(tmp_path, paths):
    release = identify(plant(tmp_path, paths, {"Procfile": "web: mix phx.server"}), "hello")
    assert (release.kind, release.tool, release.script) == (Kind.PROCFILE, None, None)
    assert release.evaluate("node()") is None


def test_a_web_line_makes_up_for_a_script_of_another_name(tmp_path):
    procfile = {"Procfile": "web: bin/other foreground"}
    release = identify(plant(tmp_path, ["bin/other"], BOOTED | procfile), "hello")
    assert release.kind is Kind.PROCFILE


@pytest.mark.parametrize(
    ("paths", "distillery_eval", "kind"),
    [
        (DISTILLERY_1, "elixir", Kind.DISTILLERY_2),
        (DISTILLERY_2, "erlang", Kind.DISTILLERY_1),
        (DISTILLERY_1, "ruby", Kind.DISTILLERY_1),
        (MIX, "erlang", Kind.MIX),
        (RELX, "elixir", Kind.RELX),
    ],
)
def test_the_controller_decides_between_the_lines_of_distillery_only(
    tmp_path, paths, distillery_eval, kind
):
    tree = plant(tmp_path, paths)
    assert identify(tree, "hello", distillery_eval=distillery_eval).kind is kind


@pytest.mark.parametrize("line", ["13.1.5 1.0", "13.1.5 1.0\n", "13.1.5\t1.0\r\n"])
def test_the_version_is_the_one_that_boots(tmp_path, line):
    tree = plant(tmp_path, MIX, {"releases/start_erl.data": line})
    for path in "erts-13.1.5", "erts-9.0", "releases/0.9":
        (tree / path).mkdir()
    release = identify(tree, "hello")
    assert (release.version, release.erts) == ("1.0", tree / "erts-13.1.5")
    assert release.script == tree / "bin/hello"


@pytest.mark.parametrize("contents", [{}, {"releases/start_erl.data": "13.1.5"}])
def test_a_missing_version_is_no_reason_not_to_know_the_kind(tmp_path, contents):
    release = identify(plant(tmp_path, MIX, contents), "hello")
    assert (release.kind, release.version, release.erts) == (Kind.MIX, None, None)


def test_names_are_no_patterns(tmp_path):
    plant(tmp_path, ["bin/hello_loader.sh", "bin/hell?"])
    assert identify(tmp_path, "hell?").kind is Kind.RELX


@pytest.mark.parametrize(
    ("paths", "epmd", "erl_call"),
    [
        (["erts-13.1.5/bin/epmd", "erts-13.1.5/bin/erl_call"], True, "erts-13.1.5/bin/erl_call"),
        (["erts-13.1.5/bin/epmd", "lib/erl_interface-3.10/bin/erl_call"], True,
         "lib/erl_interface-3.10/bin/erl_call"),
        (["erts-13.1.5/bin/erl"], False, None),
        ([], False, None),
    ],
)  # fmt: skip
def test_the_programs_are_those_of_the_slugs_own_erlang(tmp_path, paths, epmd, erl_call):
    release = identify(plant(tmp_path, [*MIX, *paths]), "hello")
    assert release.epmd == (tmp_path / "erts-13.1.5/bin/epmd" if epmd else None)
    assert release.erl_call == (erl_call and tmp_path / erl_call)


@pytest.mark.parametrize("name", ["", ".", "..", "../../bin/sh", "/bin/sh"])
def test_a_name_stays_in_the_slug(tmp_path, name):
    with pytest.raises(RunAgentError, match="customer_app_name") as caught:
        identify(tmp_path, name)
    assert caught.value.exit_code == os.EX_CONFIG


@pytest.mark.parametrize(
    ("paths", "command"),
    [(MIX, "rpc"), (RELX, "eval"), (DISTILLERY_1, "eval"), (DISTILLERY_2, "rpc")],
)
def test_each_tool_has_its_own_word_for_erlang_on_the_node(tmp_path, paths, command):
    argv = identify(plant(tmp_path, paths), "hello").evaluate("node().")
    assert argv[:2] == (str(tmp_path / "bin/hello"), command)
    assert len(argv) == 3
