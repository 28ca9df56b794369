"""What people are shown of texts that quote the environment."""

import tracemalloc
from pathlib import Path

import pytest

from run_agent.errors import RunAgentError
from run_agent.model import Secret
from run_agent.node import Node
from run_agent.redaction import END_BYTES, MOST_CHARACTERS, redacted, redacted_end
from run_agent.release import Kind
from upgrade import handler
from upgrade.model import Change

PEM = """\
-----BEGIN PRIVATE KEY-----
MIIEvQIBADANBgkqhkiG9w0BAQEFAASCBKcwggSjAgEAAoIBAQDb7fK2xN3w/AB+
abcdefghijklmnopqrstuvwxyz0123456789ABCDEFGHIJKLMNOPQRSTUV=
-----END PRIVATE KEY-----
"""
URL = "ecto://counter:p%40ss-w0rd@db.example/counter?ssl=true"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("s3cret", "cannot parse s3cret"),
        ("s3cret", '{error,<<"s3cret">>}'),
        ("s3cret-and-long", '{error,[<<"s3cret-a"...>>]}'),
        ("s3cret-and-long", 'x"s3cret-a...'),
        ("s3c", "the password s3c is short"),
        ('s3 "c3cret" \\ one', r'argument error: "s3 \"c3cret\" \\ one"'),
        ("s3cret one", r'["first\ns3cret\tone"]'),
        ("s3c\nret", r'"s3c\nret"'),
        ("ß s3cret ä", '<<"Ã\x9f s3cret Ã¤">>'),
        ("s3cret ł", "<<115,51,99,114,101,116,32,\n  197,130>>"),
        ("s3cret-and-long", '"s3cret-an"\n   "d-long"'),
        ("s3cret", "\x1b[31ms3\x1b[0mcret"),
    ],
)
def test_a_value_is_shown_in_no_form(value, text):
    shown = redacted(text, {"NAME": value})
    assert "$NAME" in shown or "…" in shown
    for piece in ("s3c", "ret", "c3cret", "long", "115"):
        assert piece not in shown


@pytest.mark.parametrize("text", [PEM, PEM.replace("\n", r"\n"), " ".join(PEM.split())])
def test_a_key_is_one_name(text):
    shown = redacted(f'{{bad,"{text}"}}', {"TLS_KEY": PEM})
    assert shown.replace(r"\n", "").replace("-", "") == '{bad,"$TLS_KEY"}'


def test_a_part_of_a_url_is_not_shown_as_it_is_nor_decoded():
    shown = redacted("p%40ss-w0rd p@ss-w0rd db.example ecto true", {"DATABASE_URL": URL})
    assert shown.replace("$DATABASE_URL", "").split() == ["ecto"]


def test_what_a_reader_needs_stays():
    env = {"APP_NAME": "counter", "DATABASE_URL": URL, "MIX_ENV": "prod", "HOME": "/srv/counter"}
    said = "cannot start counter 0.2.0 in production: /srv/counter/releases is not there"
    assert redacted(said, env, keep=("0.2.0",)) == said
    assert redacted("counter 0.2.0", {"X": "counter 0.2.0"}, keep=("counter", "0.2.0")) == ("$X")


def test_the_first_environment_names_what_two_share():
    assert redacted("s3cret", {"NEW": "s3cret"}, {"A": "s3cret"}) == "$NEW"


def test_begin_and_end_of_a_long_text_are_shown():
    shown = redacted("begin " + "x " * 5000 + "end", {})
    assert (shown[:5], shown[-3:]) == ("begin", "end")
    assert len(shown) < MOST_CHARACTERS + 10


def test_of_what_a_program_printed_the_end_is_shown():
    shown = redacted_end(b"begin " + b"x " * 5000 + b"s3cret end", {"NAME": "s3cret"})
    assert shown.endswith("x x $NAME end")
    assert shown.startswith("… ")
    assert MOST_CHARACTERS - 10 < len(shown) < MOST_CHARACTERS + 10


def test_an_environment_of_a_megabyte_is_no_pattern_of_a_megabyte():
    """A pattern of all its pieces took ten seconds and 300 MB, in the agent's own loop."""
    env = {f"JSON_{n}": " ".join(f"{n}-{word}" for word in range(12_000)) for n in range(10)}
    tracemalloc.start()
    try:
        assert redacted("no such file: 7-11111", env) == "no such file: $JSON_7"
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 64 << 20


def test_the_reason_of_an_install_has_the_app_s_name_and_no_secret():
    node = Node("counter@10.0.0.7", Secret("c00kie"), {}, Path("/run"))
    env = {"APP_NAME": "counter", "DATABASE_URL": URL}
    change = Change(node, Path("/run"), Path("/a"), Kind.MIX, "counter", "1.0.0", "1.1.0", env, env)
    error = RunAgentError("cannot install: code_change of counter failed: p%40ss-w0rd")
    assert str(handler._explained(change, error)) == (
        "cannot install 1.1.0 over 1.0.0: code_change of counter failed: $DATABASE_URL"
    )


def test_of_a_programs_end_no_value_that_was_cut_is_left():
    secret = "s3cret" * 100
    output = f"begin {secret} {'x ' * 900} end".encode()
    shown = redacted_end(output, {"KEY": secret})
    assert len(output) > END_BYTES > len(output) - len(secret)  # it is cut within the value
    assert "s3cret" not in shown
    assert (shown[:3], shown[-4:]) == ("… x", " end")
    assert redacted_end(b"all of it\n", {}) == "all of it"
