"""`distillery_eval` and `observer` on every kind of release."""

import json
import os
import socket
import subprocess
from concurrent.futures import ThreadPoolExecutor

import pytest

from support import mix_project, slugs
from support.platform import ask
from support.wait import PATIENCE_SECONDS

ERLANG = {
    "node()": "'hello@127.0.0.1'",
    "node().": "'hello@127.0.0.1'",
    '{a, "str", <<"bin">>, [1, 2]}': '{a,"str",<<"bin">>,[1,2]}',
    "{error, no_error_of_ours}": "{error,no_error_of_ours}",
    'io:format("first~n"), second': "first\nsecond",
    "A = 20, A + 22": "42",
}
ELIXIR = {
    "Node.self()": ':"hello@127.0.0.1"',
    "Atom.to_charlist(Node.self())": "'hello@127.0.0.1'",
    '{:a, "str", [1, 2]}': '{:a, "str", [1, 2]}',
    "{:error, :no_error_of_ours}": "{:error, :no_error_of_ours}",
    'IO.puts("first"); :second': "first\n:second",
    "a = 20; a + 22 # with a comment": "42",
}
FAILS = {
    "relx": {"erlang:error(our_reason)": "our_reason", "foo(": "syntax error"},
    "distillery1": {"erlang:error(our_reason)": "our_reason", "foo(": "syntax error"},
    "mix": {'raise "our reason"': "our reason", "foo(": "missing terminator"},
    "distillery2": {'raise "our reason"': "our reason", "foo(": "missing terminator"},
    "project": {'raise "our reason"': "our reason", "foo(": "missing terminator"},
}


TURNS_SECONDS = 90.0
"""How long six calls may take that wait for each other; each of them starts a VM."""

CONNECT = (
    'pong = net_adm:ping(list_to_atom("hello@127.0.0.1")), '
    'io:format("~p~n", [nodes(connected)]), halt().'
)
"""What a hidden node does in the observer's place."""


@pytest.fixture
def boot(platform):
    def boot(kind):
        slug = mix_project.slug() if kind == "project" else slugs.slug(kind).read_bytes()
        platform.deploy(slug)
        return platform.boot().until_ready(60)

    return boot


def cookie_of(replica) -> str:
    return replica.verb("shell", "--", "printenv", "ERLANG_COOKIE").stdout.strip()


@pytest.mark.parametrize("kind", FAILS)
def test_the_result_alone_is_on_stdout_and_an_error_on_stderr_with_its_code(boot, kind):
    replica = boot(kind)
    for expression, result in (ERLANG if kind in {"relx", "distillery1"} else ELIXIR).items():
        done = replica.verb("distillery_eval", expression)
        assert (done.returncode, done.stdout) == (0, f"{result}\n"), done.stderr
    for expression, reason in FAILS[kind].items():
        done = replica.verb("distillery-eval", "--", expression)
        assert done.returncode not in {0, os.EX_SOFTWARE}
        assert done.stdout == ""
        assert reason in done.stderr
        assert "\x1b" not in done.stderr
    assert ask(replica, "/")[0] == 200


def test_an_expression_whose_words_a_client_has_parted_is_one(boot):
    replica = boot("mix")
    done = replica.verb("distillery-eval", "--", "Enum.sum([1,", "2])")
    assert (done.returncode, done.stdout) == (0, "3\n")


def test_without_an_expression_it_says_how_it_is_used(boot):
    done = boot("mix").verb("distillery_eval", "--", " ")
    assert (done.returncode, done.stdout) == (os.EX_USAGE, "")
    assert "EXPR is missing" in done.stderr


@pytest.mark.parametrize("verb", ["distillery_eval", "observer"])
def test_where_the_node_is_down_they_say_so(boot, verb):
    replica = boot("relx")
    replica.term().wait()
    done = replica.verb(verb, *(["node()"] if verb == "distillery_eval" else []))
    assert (done.returncode, done.stdout) == (os.EX_UNAVAILABLE, "")
    assert "cannot reach the node hello@127.0.0.1" in done.stderr


@pytest.mark.parametrize("verb", ["distillery_eval", "observer", "remote_console"])
def test_where_a_command_runs_there_is_no_node(platform, verb):
    replica = platform.boot("sleep", "300", verb=("exec", "--")).until_ready()
    done = replica.verb(verb, *(["node()"] if verb == "distillery_eval" else []))
    assert (done.returncode, done.stdout) == (os.EX_UNAVAILABLE, "")
    assert "what runs here is a command" in done.stderr


@pytest.mark.parametrize("kind", ["distillery1", "distillery2"])
def test_calls_of_distillery_s_script_do_not_collide(boot, kind):
    replica = boot(kind)
    calls = (("distillery_eval", "1 + 1"), ("shell", "--", "bin/hello", "ping"), ("run", "ping"))
    with ThreadPoolExecutor(6) as pool:
        done = list(pool.map(lambda call: replica.verb(*call, timeout=TURNS_SECONDS), calls * 2))
    assert [(call.returncode, call.stdout) for call in done] == [
        (0, "2\n"), (0, "pong\n"), (0, "pong\n"),
    ] * 2  # fmt: skip


@pytest.mark.parametrize("kind", FAILS)
def test_what_observer_tells_lets_a_hidden_node_connect(boot, kind):
    replica = boot(kind)
    told = json.loads(replica.verb("observer", "--json").stdout)
    assert told["node"] == "hello@127.0.0.1"
    assert told["cookie"] == cookie_of(replica)
    assert told["epmd_port"] == int(replica.environ["ERL_EPMD_PORT"])
    socket.create_connection(
        ("127.0.0.1", told["distribution_port"]), timeout=PATIENCE_SECONDS
    ).close()
    line = told["commands"]["observer"].replace("-run observer", f"-noshell -eval '{CONNECT}'")
    seen = subprocess.check_output(["bash", "-c", line], text=True, timeout=PATIENCE_SECONDS)
    assert seen == "['hello@127.0.0.1']\n"
    text = replica.verb("observer").stdout
    for line in told["commands"].values():
        assert f"\n{line}\n" in text
