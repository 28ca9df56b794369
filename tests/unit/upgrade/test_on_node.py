"""What travels to the node and back, as far as it needs no node."""

import os
import time
from importlib import resources

import pytest

from run_agent.errors import RunAgentError
from run_agent.model import Secret
from run_agent.node import Node
from run_agent.release.erlang_term import Atom
from upgrade import model, on_node
from upgrade.model import Known, Serving

NODE = Node("app@10.0.0.7", Secret("c00kie"), env={}, run=None)


@pytest.mark.parametrize(
    ("term", "said"), [("1.2.0", "1.2.0"), ([], ""), ([322, 243, 100], "łód"), ([10], "\n")]
)
def test_an_erlang_string_is_text_however_it_came(term, said):
    assert on_node.text(term) == said


@pytest.mark.parametrize("term", [Atom("text"), 7, ("a",), [Atom("a")]])
def test_what_is_no_string_is_no_text(term):
    with pytest.raises(RunAgentError, match="cannot read the node's answer"):
        on_node.text(term)


@pytest.mark.parametrize("answer", ["", "{ok", "{ok,#Ref<0.1>}.", "ok.", "{ok,1}.{ok,2}."])
def test_an_answer_that_cannot_be_read_is_an_error(answer):
    with pytest.raises(RunAgentError, match=r"cannot read what a:b returned on the node app@"):
        on_node._value("a:b", NODE, answer)


def test_a_program_is_sent_with_those_it_calls_and_no_others():
    def sent(program):
        return {name.name for name, _ in on_node._sources(program)}

    assert sent("run_agent_releases") == {"run_agent_releases"}
    assert sent("run_agent_install") == {
        "run_agent_install",
        "run_agent_configuration",
        "run_agent_environment",
    }


def test_remarks_are_not_sent():
    for path in resources.files("upgrade").joinpath("erl").iterdir():
        if path.name.endswith(".erl"):
            assert "\n%" not in on_node.source(path.name)


def test_the_files_of_a_call_are_private_and_gone_afterwards(tmp_path):
    with on_node._exchange(tmp_path, b"secret") as (request, result):
        assert request.read_bytes() == b"secret"
        assert {path.stat().st_mode & 0o777 for path in (request, result)} == {0o600}
        assert request.parent.stat().st_mode & 0o777 == 0o700
        with on_node._exchange(tmp_path, b"") as others:
            assert not {request, result} & {*others}
    assert list((tmp_path / "on_node").iterdir()) == []


def test_the_files_of_a_call_are_gone_when_it_fails(tmp_path):
    with pytest.raises(ZeroDivisionError), on_node._exchange(tmp_path, b""):
        _ = 1 / 0
    assert list((tmp_path / "on_node").iterdir()) == []


def test_what_a_killed_process_left_is_removed_later(tmp_path):
    folder = tmp_path / "on_node"
    folder.mkdir()
    old, young = folder / "1-1-aaaa.request", folder / "2-1-bbbb.request"
    old.write_text("secret")
    young.write_text("secret")
    hour_ago = time.time() - on_node.LEFT_OVER_SECONDS - 1
    os.utime(old, (hour_ago, hour_ago))
    with on_node._exchange(tmp_path, b""):
        assert young.exists()
        assert not old.exists()


def test_a_run_folder_that_cannot_be_written_is_named(tmp_path):
    run = tmp_path / "run"
    run.write_text("")
    with (
        pytest.raises(RunAgentError, match="mount a tmpfs") as caught,
        on_node._exchange(run, b""),
    ):
        pass
    assert caught.value.exit_code == os.EX_IOERR


def test_only_what_differs_of_the_environment_is_sent():
    before = {"SAME": "1", "CHANGED": "2", "GONE": "3"}
    after = {"SAME": "1", "CHANGED": "two", "NEW": "4"}
    assert model.differences(before, after) == ([("CHANGED", "two"), ("NEW", "4")], ["GONE"])


def test_the_current_version_serves_and_else_the_permanent_one(tmp_path):
    def serving(**versions):
        known = tuple(Known("hello", version, status) for status, version in versions.items())
        return Serving(tmp_path, "13.1.5", known)

    assert serving(permanent="1").version == "1"
    assert serving(permanent="1", current="2", old="0").version == "2"
    assert serving(permanent="1", tmp_current="2").status_of("2") == "tmp_current"
    assert serving(permanent="1").status_of("2") is None
