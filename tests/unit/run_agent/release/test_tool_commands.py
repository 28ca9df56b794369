"""What the release tools' scripts are asked for by a person."""

import pytest

from run_agent import release
from run_agent.release import distillery, mix, procfile, relx
from run_agent.release.tool import inspected

TOOLS = list(release.TOOLS.values())


@pytest.mark.parametrize("tool", TOOLS)
def test_every_command_that_we_use_ourselves_is_one_of_the_script(tool):
    assert {tool.start, tool.console, tool.evaluate("x.")[0], tool.show("x")[0]} <= tool.commands


@pytest.mark.parametrize("tool", [distillery.FIRST_LINE, distillery.SECOND_LINE])
def test_what_distillery_bears_only_once_ends_by_itself(tool):
    assert tool.show("x")[0] in tool.alone < tool.commands
    assert not {tool.start, tool.console} & tool.alone


@pytest.mark.parametrize("written", ["a, b", "a, b.", "a, b. ", "a, b.\n"])
def test_relx_gets_its_final_dot(written):
    assert relx.TOOL.show(written) == ("eval", "a, b.")


def test_elixir_is_printed_as_distillery_2_prints_it():
    assert mix.TOOL.show("a # b") == ("rpc", "IO.inspect((a # b\n))")


def test_without_a_release_the_argv_names_no_cookie_but_node_and_name():
    hidden = ("--hidden", "--name", "own@h", "--erl", "-dist_listen false")
    assert procfile.console("n@h", "own@h") == ("iex", *hidden, "--remsh", "n@h")
    shown = ("elixir", *hidden, "--rpc-eval", "n@h", inspected("1"))
    assert procfile.show("n@h", "own@h", "1") == shown


@pytest.mark.parametrize(
    ("line", "commands"),
    [
        ('EXTENSIONS="status|check_db|undefined"', {"status", "check_db"}),
        ('EXTENSIONS="undefined"', set()),
        ("", set()),
    ],
)
def test_relx_s_extensions_are_read_from_its_script(tmp_path, line, commands):
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "hello").write_text(f"#!/bin/sh\n{line}\necho\n")
    assert set(relx.TOOL.added(tmp_path, "hello", "1")) == commands


@pytest.mark.parametrize("version", ["0.1.0", None])
def test_distillery_s_custom_commands_are_those_of_the_version(tmp_path, version):
    for path in ("releases/0.1.0/commands/migrate.sh", "releases/0.0.9/commands/old.sh"):
        (tmp_path / path).parent.mkdir(parents=True)
        (tmp_path / path).write_text("")
    added = set(distillery.FIRST_LINE.added(tmp_path, "hello", version))
    assert added == ({"migrate"} if version else set())
