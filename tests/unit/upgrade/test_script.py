"""What a script is called with, what it says to people, and what lies in the tree meanwhile."""

import contextlib
from dataclasses import replace

import pytest

from run_agent.errors import RunAgentError
from run_agent.model import Secret
from run_agent.node import Node
from run_agent.redaction import MOST_CHARACTERS
from run_agent.release import Kind
from upgrade import os_vars
from upgrade.model import Change
from upgrade.script import distillery, relx
from upgrade.script.call import words

TEMPLATE = '[{hello, [{greeting, "${GREETING}"}]}].\n'
RENDERED = '[{hello, [{greeting, "Servus"}]}].\n'


@pytest.fixture
def change(tmp_path):
    tree, run = tmp_path / "tree", tmp_path / "run"
    for folder in (run, tree / "bin", tree / "var", tree / "releases" / "0.2.0"):
        folder.mkdir(parents=True)
    (tree / "bin" / "hello").write_text("script of 0.1.0")
    (tree / "bin" / "install_upgrade.escript").write_text('["--no-permanent"|Rest]')
    (tree / "releases" / "0.2.0" / "sys.config").write_text(TEMPLATE)
    (tree / "releases" / "start_erl.data").write_text("13.1.5 0.1.0")
    node = Node("hello@127.0.0.1", Secret("c00kie"), {}, run)
    env = {"GREETING": "Servus", "RELX_REPLACE_OS_VARS": "true", "TOKEN": "t0psecret"}
    return Change(node, run, tree, Kind.RELX, "hello", "0.1.0", "0.2.0", env, {"OLD": "0ldsecret"})


def names(folder):
    return {path.name for path in folder.iterdir()}


def test_words_have_neither_colours_nor_secrets_nor_pages(change):
    said = words("\x1b[31mfailed\x1b[0m:\n  c00kie t0psecret\n 0ldsecret\r\n", change)
    assert said == "failed: $ERLANG_COOKIE $TOKEN $OLD"
    long = words("begin " + "x " * 5000 + "end", change)
    assert long.startswith("begin ")
    assert long.endswith(" end")
    assert len(long) < MOST_CHARACTERS + 10


@pytest.mark.parametrize(
    ("text", "result"),
    [
        (b"${A}-${A}", b"1-1"),
        (b"${NOT_SET}", b""),
        (b"${NOT_SET:-default}", b"default"),
        (b"${EMPTY:-default}", b"default"),
        (b"${A:-default}", b"1"),
        (b"${NESTED}", b"<1>"),
        (b"$A {A} ${A", b"$A {A} ${A"),
        (rb"${AMPERSAND}", rb"a&b\1"),
    ],
)
def test_variables_are_replaced_as_the_start_scripts_do(text, result):
    env = {"A": "1", "EMPTY": "", "AMPERSAND": r"a&b\1", "NESTED": "<${A}>"}
    assert os_vars.replaced(text, env) == result


def test_variables_that_name_each_other_in_a_circle_are_an_error():
    with pytest.raises(RunAgentError, match=r"the values of A, B name each other") as caught:
        os_vars.replaced(b"${A} ${B}", {"A": "${B} s3cret", "B": "${A}"})
    assert "s3cret" not in str(caught.value)


def test_relx_finds_the_rendered_configuration_and_its_files_are_put_back(change):
    release = change.root / "releases" / "0.2.0"
    with relx.prepared(change, down=False) as call:
        assert call.configuration().read_text() == RENDERED
        assert call.configuration().stat().st_mode & 0o777 == 0o600
        # Were we killed now, the script would render the original again.
        assert (release / "sys.config.orig").read_text() == TEMPLATE
        (change.root / "bin" / "hello").write_text("script of 0.2.0")
    assert (release / "sys.config").read_text() == TEMPLATE
    assert (change.root / "bin" / "hello").read_text() == "script of 0.1.0"
    assert names(release) == {"sys.config"}
    assert names(change.run) == set()
    assert "t0psecret" not in repr(call)


@pytest.mark.parametrize(
    ("files", "env", "expected"),
    [
        ({"sys.config.src": TEMPLATE}, {"RELX_REPLACE_OS_VARS": ""}, RENDERED),
        ({"sys.config.orig": TEMPLATE, "sys.config": "[]."}, {}, RENDERED),
        ({"sys.config.orig": "[].", "sys.config": ""}, {"RELX_REPLACE_OS_VARS": ""}, "[]."),
        ({}, {"RELX_REPLACE_OS_VARS": ""}, TEMPLATE),
        (
            {"given": "[{given, []}]."},
            {"RELX_CONFIG_PATH": "releases/0.2.0/given"},
            "[{given, []}].",
        ),
    ],
)
def test_relx_is_given_what_its_script_would_boot_with(change, files, env, expected):
    release = change.root / "releases" / "0.2.0"
    for name, text in files.items():
        (release / name).write_text(text)
    before = {path.name: path.read_text() for path in release.iterdir()}
    with relx.prepared(replace(change, env={**change.env, **env}), down=False) as call:
        assert call.configuration().read_text() == expected
        assert (release / "sys.config").read_text() == expected
    assert {path.name: path.read_text() for path in release.iterdir()} == before


def test_relx_leaves_the_version_current_where_its_script_can(change):
    with relx.prepared(change, down=True) as call:
        assert call.argv[1:] == ("downgrade", "--no-permanent", "0.2.0")
    (change.root / "bin" / "install_upgrade.escript").write_text("an older one")
    own = change.root / "bin" / "hello-0.1.0"
    own.write_text("")
    own.chmod(0o755)
    with relx.prepared(change, down=False) as call:
        assert call.argv == (str(own), "upgrade", "0.2.0")


@pytest.mark.parametrize("fails", [False, True])
def test_what_distillery_leaves_is_mended(change, fails):
    release, var = change.root / "releases" / "0.2.0", change.root / "var"
    (var / "sys.config").write_text("of 0.1.0")
    (var / "start_erl.data").write_text("13.1.5 0.0.9")
    change = replace(change, kind=Kind.DISTILLERY_2)
    failing = pytest.raises(RunAgentError) if fails else contextlib.nullcontext()
    with failing, distillery.prepared(change, down=False) as call:
        assert call.argv[1:] == ("upgrade", "0.2.0")
        assert call.configuration() is None  # not written yet
        assert not (var / "start_erl.data").exists()
        (var / "start_erl.data").write_text("13.1.5 0.1.0")
        (release / "sys.config").rename(release / "sys.config.bak")
        (release / "sys.config").write_text("rendered, with secrets")
        (var / "sys.config.new").write_text("of 0.2.0")
        (var / "sys.config.new").rename(var / "sys.config")
        assert call.configuration() == var / "sys.config"
        if fails:
            raise RunAgentError("cannot do it")
    assert names(release) == {"sys.config"}
    assert (release / "sys.config").read_text() == TEMPLATE
    assert names(var) == {"sys.config"}
    assert (var / "sys.config").read_text() == ("of 0.1.0" if fails else "of 0.2.0")


def test_a_configuration_that_a_failing_script_has_removed_is_put_back(change):
    config = change.root / "var" / "sys.config"
    config.write_text("of 0.1.0")
    config.chmod(0o640)
    change = replace(change, kind=Kind.DISTILLERY_2)
    failing = pytest.raises(RunAgentError, match="the true reason")
    with failing, distillery.prepared(change, down=False):
        config.unlink()
        raise RunAgentError("the true reason")
    assert (config.read_text(), config.stat().st_mode & 0o777) == ("of 0.1.0", 0o640)


def test_distillery_loads_the_scripts_of_the_version_that_runs(change):
    data = change.root / "releases" / "start_erl.data"
    change = replace(change, kind=Kind.DISTILLERY_1, from_version="0.1.5")
    with distillery.prepared(change, down=False):
        assert data.read_text() == "13.1.5 0.1.5"
    assert data.read_text() == "13.1.5 0.1.0"
    with distillery.prepared(change, down=False):
        data.write_text("13.1.5 0.2.0")  # made permanent
    assert data.read_text() == "13.1.5 0.2.0"


def test_a_tree_that_cannot_be_read_is_an_error_of_ours(change):
    (change.root / "releases" / "start_erl.data").unlink()
    with pytest.raises(RunAgentError, match=r"cannot prepare .*start_erl\.data"):
        distillery.prepared(change, down=False).__enter__()
