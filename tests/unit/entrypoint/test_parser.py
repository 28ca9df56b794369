"""Where our own options end and a command begins; and one exit code for wrong usage."""

import os

import pytest

from entrypoint.commands import distillery_job, job
from entrypoint.parser import Parser, split_at_dashes


@pytest.mark.parametrize(
    ("arguments", "ours", "command"),
    [
        ([], [], ()),
        (["--"], [], ()),
        (["--", "ls"], [], ("ls",)),
        (["ls", "-l"], [], ("ls", "-l")),
        (["ls", "--", "-l"], [], ("ls", "--", "-l")),
        (["--", "--", "ls"], [], ("--", "ls")),
        (["-h"], ["-h"], ()),
        (["--help", "--", "ls", "-h"], ["--help"], ("ls", "-h")),
        (["-x", "ls", "-h"], ["-x"], ("ls", "-h")),
        (["--", ""], [], ("",)),
        (["", "x"], [], ("", "x")),
    ],
)
def test_a_command_begins_after_the_dashes_or_at_the_first_word(arguments, ours, command):
    assert split_at_dashes(arguments) == (ours, command)


def test_wrong_usage_ends_with_64_and_says_how_it_is_right(capsys):
    parser = Parser("verb", description="Does.", examples="examples:\n  run-agent verb\n")
    with pytest.raises(SystemExit) as ended:
        parser.parse_args(["--no-such"])
    assert ended.value.code == os.EX_USAGE
    said = capsys.readouterr().err
    assert said.startswith("usage: run-agent verb")
    assert "cannot read the arguments: unrecognized arguments: --no-such" in said
    assert said.endswith("see run-agent verb --help\n")


@pytest.mark.parametrize("command", [job, distillery_job])
def test_the_examples_of_a_job_name_the_app(command):
    examples = [line for line in command.EXAMPLES.split("\n\n")[0].splitlines() if "run-" in line]
    assert examples
    for line in examples:
        assert "run-agent" in line
        assert "--app hello" in line or line.startswith("  APP_NAME=hello "), line


def test_the_examples_keep_their_lines(capsys):
    parser = Parser("verb", description="Does.", examples="examples:\n  run-agent verb   it does\n")
    with pytest.raises(SystemExit) as ended:
        parser.parse_args(["--help"])
    assert ended.value.code == 0
    assert "examples:\n  run-agent verb   it does\n" in capsys.readouterr().out
