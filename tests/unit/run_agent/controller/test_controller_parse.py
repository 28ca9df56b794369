"""What a controller says, good and bad, becomes a deploy or one message that lists all of it."""

import contextlib
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from run_agent.controller import parse
from run_agent.errors import UnavailableError

FOLDER = Path("/srv/app")
LEAST = {"slug_url": "https://host/slug.tar.gz", "customer_app_name": "hello"}
HALF_A_PAIR = "\ud800"

TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))
NAMES = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\0="), min_size=1, max_size=40
)
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)

unhurried = settings(deadline=None)  # a loaded machine is no failure


def deploy(*, folder=None, **fields):
    """Send the least deploy with `fields` through JSON, as they would arrive."""
    body = json.dumps(LEAST | fields).encode()
    return parse.deploy(parse.loads(body), "the answer", folder=folder)


def refusal(**fields):
    with pytest.raises(UnavailableError) as caught:
        deploy(**fields)
    return str(caught.value)


def test_two_fields_are_enough():
    found = deploy()
    assert (found.slug_url, found.app_name) == ("https://host/slug.tar.gz", "hello")
    assert found.config == {}
    assert [found.version, found.cloud, found.distillery_eval, found.slug_sha256] == [None] * 4


def test_every_field_finds_its_place_and_unknown_ones_none():
    found = deploy(
        version=41,
        config={"A": "1"},
        cloud="gcp",
        capabilities={"distillery": {"eval": "elixir", "remote_command": "remote_console"}},
        slug_sha256="AB" * 32,
        sha="f00",
        summary="Deploy f00",
        created_at="2024-05-01T12:00:00Z",
        rollback_id="x",
        nested={"of": ["no", "interest"]},
    )
    assert found.version == "41"
    assert found.config == {"A": "1"}
    assert found.cloud == "gcp"
    assert (found.distillery_eval, found.distillery_remote_command) == ("elixir", "remote_console")
    assert found.slug_sha256 == "ab" * 32
    assert (found.sha, found.summary) == ("f00", "Deploy f00")
    assert found.created_at == "2024-05-01T12:00:00Z"


def test_null_counts_as_absent():
    names = ["version", "config", "cloud", "capabilities", "slug_sha256", "sha", "summary"]
    assert deploy(**dict.fromkeys(names)) == deploy()


@pytest.mark.parametrize("tool", [None, "x", {"eval": "cobol"}, {"eval": 1, "remote_command": []}])
def test_unknown_capabilities_count_as_absent(tool):
    assert deploy(capabilities={"distillery": tool}) == deploy()


@pytest.mark.parametrize(
    "value",
    [
        "",
        "two\nlines\r\nand a third\n",
        'it\'s "quoted" and `quoted`',
        "$HOME ${HOME} $(reboot) \\$",
        "Grüße, 日本語, 🎈, \u2028 and \ufeff",
        "x" * 100_000,
        "é" * 50_000,
        " leading and trailing ",
        "\x01\x1b[31m\x7f",
    ],
    ids=["empty", "lines", "quotes", "dollar", "utf-8", "100kB", "100kB-utf-8", "space", "control"],
)
def test_a_config_value_is_kept_byte_for_byte(value):
    assert deploy(config={"VALUE": value}).config == {"VALUE": value}


@unhurried
@given(st.dictionaries(NAMES, TEXT, max_size=5))
def test_any_config_of_strings_is_kept(config):
    assert deploy(config=config).config == config


@pytest.mark.parametrize(
    ("written", "text"),
    [
        ("true", "true"),
        ("false", "false"),
        ("0", "0"),
        ("-1", "-1"),
        ("1.10", "1.10"),
        ("1e3", "1e3"),
        ("12345678901234567890123", "12345678901234567890123"),
        ('"1"', "1"),
    ],
)
def test_a_config_scalar_is_what_json_writes(written, text):
    body = f'{{"slug_url":"https://h/s","customer_app_name":"a","config":{{"N":{written}}}}}'
    assert parse.deploy(parse.loads(body.encode()), "x").config == {"N": text}


def test_a_null_config_value_is_not_set():
    assert deploy(config={"A": None, "B": ""}).config == {"B": ""}


def test_the_kernels_limit_counts_name_and_nul():
    fits = parse.ENTRY_LIMIT_BYTES - len("NAME=\0")
    assert len(deploy(config={"NAME": "x" * fits}).config["NAME"]) == fits
    assert "config 'NAME' is over 128 KiB" in refusal(config={"NAME": "x" * (fits + 1)})
    # Half as many characters of two bytes, and one.
    assert "config 'NAME' is over 128 KiB" in refusal(config={"NAME": "é" * (fits // 2 + 1)})


def test_all_offenders_are_listed_and_no_value():
    message = refusal(
        customer_app_name="../../etc",
        slug_sha256="short",
        config={
            "LIST": ["secret-1"],
            "OBJECT": {"secret-2": 1},
            "NUL": "secret-3\0",
            "PAIR": "secret-4" + HALF_A_PAIR,
            "HUGE": "secret-5" * 20_000,
            "A=B": "secret-6",
            "": "secret-7",
            "FINE": "secret-8",
        },
    )
    assert message.startswith("cannot use the answer: ")
    for offender in ["customer_app_name", "slug_sha256", "'LIST'", "'OBJECT'", "'NUL'", "'PAIR'",
                     "'HUGE'", "'A=B'", "config ''"]:  # fmt: skip
        assert offender in message
    assert "FINE" not in message
    assert "secret-" not in message


def test_a_name_of_config_is_shown_short_and_printable():
    message = refusal(config={"N\n" * 1000 + "=": "v", "\ud83d": "v"})
    assert "\n" not in message
    assert len(message) < 400
    message.encode()


@pytest.mark.parametrize(
    "url",
    [
        "https://storage.host/a/b.tar.gz?Signature=x%2By&Expires=1",
        "http://127.0.0.1:8000/slug.tar.zst",
        "HTTPS://host/slug.tar.gz",
        "gs://bucket/object/with/slashes.tar.gz",
        "file:///srv/slugs/slug.tar.gz",
    ],
)
def test_slug_urls_that_are_taken_as_they_are(url):
    assert deploy(slug_url=url).slug_url == url
    assert deploy(slug_url=url, folder=FOLDER).slug_url == url


@pytest.mark.parametrize(
    "url",
    [
        "slug.tar.gz",
        "/srv/slug.tar.gz",
        "ftp://host/slug",
        "https:///no-host",
        "https://[bad",
        "gs://bucket-only",
        "gs:///no-bucket",
        "file://host/slug",
        "file:relative",
        "https://host/a\nb",
        "https://host/\ud800",
        7,
        True,
        ["https://host/slug"],
    ],
)
def test_slug_urls_that_are_refused(url):
    assert "slug_url" in refusal(slug_url=url)


def test_the_query_of_a_slug_url_is_not_shown():
    assert "s3cr3t" not in refusal(slug_url="ftp://u:s3cr3t@host/slug?Signature=s3cr3t")
    assert "s3cr3t" not in refusal(slug_url="https://u:s3cr3t@[host/slug?Signature=s3cr3t")
    assert "s3cr3t" not in repr(deploy(slug_url="https://host/slug?Signature=s3cr3t"))


@pytest.mark.parametrize(
    ("written", "url"),
    [
        ("slug.tar.gz", "file:///srv/app/slug.tar.gz"),
        ("slugs/a b#1?.tar.gz", "file:///srv/app/slugs/a%20b%231%3F.tar.gz"),
        ("../slugs/slug.tar.gz", "file:///srv/app/../slugs/slug.tar.gz"),
        ("/elsewhere/slug.tar.gz", "file:///elsewhere/slug.tar.gz"),
    ],
)
def test_a_relative_slug_url_is_a_path_in_the_folder(written, url):
    assert deploy(slug_url=written, folder=FOLDER).slug_url == url


@pytest.mark.parametrize("name", ["hello", "my_app", "Hello2", "a-b", "_a"])
def test_names_of_releases(name):
    assert deploy(customer_app_name=name).app_name == name


@pytest.mark.parametrize(
    "name", ["", None, "a/b", "..", ".", "a b", "a\n", "-a", "a" * 129, "é", 5, True, ["a"], {}]
)
def test_names_that_are_no_path_in_bin(name):
    assert "customer_app_name" in refusal(customer_app_name=name)


@pytest.mark.parametrize("field", ["version", "cloud", "sha", "summary", "created_at"])
@pytest.mark.parametrize("value", [True, ["x"], {"x": 1}])
def test_a_field_of_the_wrong_type_is_named(field, value):
    assert f"{field} is neither a string nor a number" in refusal(**{field: value})


def test_the_summary_can_be_printed_anywhere():
    summary = deploy(summary="a" + HALF_A_PAIR + "b").summary
    assert summary is not None
    summary.encode()


@pytest.mark.parametrize(
    "digest", ["", "ab", "g" * 64, "a" * 63, "a" * 65, "sha256:" + "a" * 64, 1]
)
def test_a_digest_is_64_hexadecimal_digits(digest):
    assert "slug_sha256" in refusal(slug_sha256=digest)


@unhurried
@given(JSON)
def test_any_json_is_a_deploy_or_one_refusal(found):
    with contextlib.suppress(UnavailableError, parse.AnswerError):
        parse.deploy(parse.data(parse.loads(json.dumps(found).encode())), "the answer")


FIELDS = ["slug_url", "customer_app_name", "version", "config", "capabilities", "slug_sha256"]


@unhurried
@given(st.fixed_dictionaries({}, optional=dict.fromkeys(FIELDS, JSON)))
def test_any_fields_are_a_deploy_or_one_refusal(fields):
    try:
        found = deploy(**fields)
    except UnavailableError as error:
        str(error).encode()
    else:
        for name, value in found.config.items():
            assert len(f"{name}={value}\0".encode()) <= parse.ENTRY_LIMIT_BYTES


@unhurried
@given(st.binary())
def test_any_bytes_are_json_or_a_reason(body):
    with contextlib.suppress(parse.AnswerError):
        parse.loads(body)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "it is not JSON"),
        (b'{"data": {"slug_url": "https://', "it is not JSON"),
        (b"<html>", "it is not JSON"),
        (b"[NaN]", "it is not JSON"),
        ('{"a": "Müsli"}'.encode("latin-1"), "it is not UTF-8"),
        (b"[" * 100_000, "nested too deep"),
    ],
)
def test_why_bytes_are_no_json(body, reason):
    with pytest.raises(parse.AnswerError, match=reason):
        parse.loads(body)


def test_a_byte_order_mark_is_no_obstacle():
    assert parse.loads(b'\xef\xbb\xbf{"a": "b"}') == {"a": "b"}


@pytest.mark.parametrize("answer", [None, [], "x", {}, {"data": None}, {"errors": {}}])
def test_data_that_is_missing(answer):
    with pytest.raises(parse.AnswerError, match="data is missing"):
        parse.data(answer)


def test_keys_are_lines_as_of_a_file():
    found = ["ssh-ed25519 AAAA me\n", "", "  ", "a\nb", "c\r\n", "d \u2028 e"]
    assert parse.ssh_keys(found) == ("ssh-ed25519 AAAA me", "a", "b", "c", "d \u2028 e")


def test_no_keys_are_no_lines():
    assert parse.ssh_keys([]) == ()


@pytest.mark.parametrize("found", [{}, "ssh-ed25519 AAAA", None, ["ok", 5], [None], [["x"]]])
def test_keys_that_are_no_strings(found):
    with pytest.raises(parse.AnswerError, match=r"list|key \d is not a string"):
        parse.ssh_keys(parse.loads(json.dumps(found).encode()))


def test_a_key_with_half_a_pair_is_named():
    with pytest.raises(parse.AnswerError, match="key 2"):
        parse.ssh_keys(["a", HALF_A_PAIR])


@pytest.mark.parametrize(("written", "index"), [("0", "0"), ("12", "12"), ('"3"', "3")])
def test_host_indexes(written, index):
    assert parse.host_index(parse.loads(f'{{"index": {written}}}'.encode())) == index


@pytest.mark.parametrize("index", ["-1", "1.5", "true", "null", '"x"', '"\u0661"', "[1]"])
def test_what_is_no_host_index(index):
    with pytest.raises(parse.AnswerError, match="index is missing or no whole number"):
        parse.host_index(parse.loads(f'{{"index": {index}}}'.encode()))


def test_an_expression_is_kept_as_it_is():
    assert parse.expression(' Ecto.Migrator.run("a",\n :up) ') == ' Ecto.Migrator.run("a",\n :up) '


@pytest.mark.parametrize("found", ["", " ", None, 5, [], {"a": "b"}])
def test_what_is_no_expression(found):
    with pytest.raises(parse.AnswerError, match="data is not an expression"):
        parse.expression(parse.loads(json.dumps(found).encode()))
