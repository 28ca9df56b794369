"""How the lines of a call are parted, and what is said of a migration."""

import base64

import pytest

from run_agent.release import Kind
from upgrade.migrate import Migrated, _Answer, _program


@pytest.fixture
def lines():
    return []


@pytest.fixture
def answer(lines):
    return _Answer("token", lambda *line: lines.append(line))


def ours(answer, kind, text=""):
    return f"{answer.mark}{kind} {base64.b64encode(text.encode()).decode()}"


def test_what_a_tool_prints_around_the_migration_is_kept_apart(answer, lines):
    for line in (
        "a warning",
        ours(answer, "begun"),
        "one",
        "two",
        ours(answer, "done", "1"),
        ":ok",
    ):
        answer.take("stdout", line)
    assert lines == [("stdout", "one"), ("stdout", "two")]
    assert (answer.kind, answer.text, answer.said) == ("done", "1", "a warning\n:ok")


def test_a_line_without_an_end_is_the_migration_s_as_well(answer, lines):
    answer.take("stdout", ours(answer, "begun"))
    answer.take("stdout", "no newline" + ours(answer, "done"))
    assert lines == [("stdout", "no newline")]


def test_an_answer_of_another_call_is_a_line_like_any_other(answer, lines):
    answer.take("stdout", ours(answer, "begun"))
    answer.take("stdout", "<<<other done MQ==")
    assert (lines, answer.kind) == ([("stdout", "<<<other done MQ==")], "")


def test_what_a_tool_says_is_shown_without_colour(answer):
    answer.take("stdout", "\x1b[31mReceived 'pang'\x1b[0m")
    assert answer.said == "Received 'pang'"


@pytest.mark.parametrize(
    ("versions", "message"),
    [
        (None, "migrated hello"),
        ((), "hello is migrated already: nothing to do"),
        ((1,), "migrated hello: 1 migration (1)"),
        ((1, 2), "migrated hello: 2 migrations (1, 2)"),
    ],
)
def test_the_verdict_is_a_sentence(versions, message):
    assert Migrated("hello", versions).message == message


@pytest.mark.parametrize("kind", [Kind.MIX, Kind.RELX])
def test_the_program_is_plain_and_has_no_quote_of_the_expression(kind):
    program = _program("hello", "\"quotes\" and 'more' Grüße\n", kind, "<<<t ")
    assert program.isascii()
    assert "quotes" not in program
    assert "\n" not in program
