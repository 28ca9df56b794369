"""`run` and `shell`: what a person types runs as people expect, and ends with its own code."""

import os

import pytest

from support import small_slugs, tarballs
from support.replica import RUN_AGENT
from support.terminal import on_terminal

SCRIPT = b"""#!/bin/sh
echo "script: $*"
exit 7
"""

DISTILLERY = [
    tarballs.file("bin/hello", SCRIPT, mode=0o755),
    tarballs.file("bin/hello_loader.sh", b""),
    tarballs.file("releases/start_erl.data", b"13.1.5 0.1.0"),
    tarballs.file("releases/0.1.0/libexec/commands/ping.sh", b""),
    tarballs.file("releases/0.1.0/commands/migrate.sh", b""),
]
"""What tells a slug to be Distillery's, and a script that shows how it was called."""


@pytest.fixture
def replica(platform):
    platform.deploy(small_slugs.serving(*DISTILLERY), config={"COLOUR": "red"})
    return platform.boot().until_ready()


def outcome(done):
    return done.returncode, done.stdout


CALLS = [
    (("ping",), "ping"),
    (("--", "migrate", "a b", "--c"), "migrate a b --c"),
    (("rpc", "1 + 1"), "rpc 1 + 1"),
]

LINES = [
    (("printf", "%s|", "a b", "", "*"), 0, "a b||*|"),
    (('printf "%s|" "$COLOUR" "a  b"; exit 5',), 5, "red|a  b|"),
    (("echo a | tr a b",), 0, "b\n"),
    (("type", "-t", "cd"), 0, "builtin\n"),
    (("echo",), 0, "\n"),
    (("bin/hello", "up"), 7, "script: up\n"),
    (("hello", "up"), 7, "script: up\n"),
    (("bash", "-c", "kill -9 $$"), -9, ""),
    (("no-such-program", "$(echo x)"), 127, ""),
    (("no-such-program",), 127, ""),
    (("./Procfile",), 126, ""),
]
"""What is typed: a program, a line for bash or a command of its own; the code and the output."""


def test_run_calls_the_release_s_script_where_that_knows_the_command(replica):
    for command, arguments in CALLS:
        assert outcome(replica.verb("run", *command)) == (7, f"script: {arguments}\n")


@pytest.mark.parametrize("verb", ["run", "shell"])
def test_what_is_typed_runs_and_its_code_is_ours(replica, verb):
    for command, code, stdout in LINES:
        for dashes in (), ("--",):
            assert outcome(replica.verb(verb, *dashes, *command)) == (code, stdout), command


def test_shell_reads_commands_from_a_pipe(replica):
    done = replica.verb("shell", stdin=None, input="echo $COLOUR; exit 3")
    assert (done.returncode, done.stdout, done.stderr) == (3, "red\n", "")


def test_shell_on_a_terminal_starts_as_an_ssh_session_does(replica):
    with on_terminal((*RUN_AGENT, "shell"), env=replica.environ) as shell:
        shell.until_shown(r"hello@127\.0\.0\.1:~[#$] $")
        shell.type("command -v run-agent; command -v hello; exit 6\n")
        assert shell.wait() == 6
        assert f"{replica.root}/run/run-agent/bin/run-agent" in shell.shown()
        assert f"{replica.root}/app/bin/hello" in shell.shown()


def test_shell_never_asks_the_script(replica):
    assert outcome(replica.verb("shell", "--", "migrate")) == (127, "")


def test_run_wants_a_command(replica):
    done = replica.verb("run")
    assert outcome(done) == (os.EX_USAGE, "")
    assert "CMD is missing" in done.stderr


def test_beside_a_command_there_is_no_script_to_ask(platform):
    replica = platform.boot("sleep", "300", verb=("exec", "--")).until_ready()
    assert outcome(replica.verb("run", "echo", "a")) == (0, "a\n")


@pytest.mark.parametrize("verb", ["run", "shell"])
def test_the_terminal_and_the_ssh_session_of_the_caller_stay(replica, verb):
    environ = {"TERM": "vt100", "RUN_AGENT_SESSION": "token.1", "SSH_CONNECTION": "a 1 b 2"}
    replica.environ |= environ | {"COLOUR": "blue", "OTHER": "unseen"}
    done = replica.verb(verb, "--", "env")
    seen = dict(line.partition("=")[::2] for line in done.stdout.splitlines())
    assert {name: seen[name] for name in environ} == environ
    assert (seen["COLOUR"], "OTHER" in seen) == ("red", False)


def test_input_reaches_the_command_and_bytes_pass_as_they_are(replica):
    raw = bytes(range(256)) * 100
    done = replica.verb("run", "cat", text=False, stdin=None, input=raw)
    assert (done.returncode, done.stdout) == (0, raw)
