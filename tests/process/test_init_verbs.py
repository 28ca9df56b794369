"""The verbs on a replica that runs: what they print, where, and with which code they end."""

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from entrypoint.cli import VERBS
from run_agent import __version__, settings
from support.replica import RUN_AGENT, environment, run_agent
from support.wait import PATIENCE_SECONDS, until

BIN = Path(sys.executable).parent


@pytest.fixture(scope="module")
def nowhere(tmp_path_factory):
    return environment(tmp_path_factory.mktemp("root"))


@pytest.fixture
def replica(boot):
    return boot("sleep", "600").until_ready()


def inside(replica):
    """Return a wrapper that enters the container, as `kubectl exec` does."""
    if replica.pid == replica.process.pid:
        return ()
    return ("nsenter", "--target", str(replica.pid), "--mount", "--pid", "--")


def test_status_for_a_program(replica):
    asked = replica.verb("status", "--json", wrapper=inside(replica), check=True)
    status = json.loads(asked.stdout)
    assert asked.stderr == ""
    assert (status["ready"], status["draining"], status["stopping"]) == (True, False, False)
    assert (status["app"], status["kind"]) == ("exec", "command")
    assert replica.outside(status["release_pid"]) == replica.release_pid
    assert replica.outside(status["agent_pid"]) == replica.agent_pid
    assert status["release_state"] == "running"
    assert status["waits_for"] == []


def test_status_for_a_person(replica):
    asked = replica.verb("status", wrapper=inside(replica), check=True)
    first, *rest = asked.stdout.splitlines()
    assert first.startswith("exec: ready since ")
    assert any(line.startswith("  process  pid ") for line in rest)
    assert any(line.startswith("  agent    pid ") for line in rest)


def test_drain_and_its_undoing(replica):
    enter = inside(replica)
    assert replica.verb("drain", wrapper=enter).stdout == "draining: not ready from now on\n"
    assert replica.get("/readyz").status == 503
    assert replica.get("/livez").status == 200
    assert replica.verb("status", wrapper=enter).stdout.startswith("exec: draining\n")
    again = replica.verb("drain", "--json", wrapper=enter, check=True)
    assert json.loads(again.stdout) == {"draining": True}
    assert replica.verb("drain", "--undo", wrapper=enter).stdout == "back in service\n"
    until(replica.is_ready, "back in service")


def test_a_drained_replica_still_stops_in_order(replica):
    assert replica.verb("drain", wrapper=inside(replica)).returncode == 0
    assert replica.term().wait() == 143


def test_shell_has_the_releases_environment_and_folder(boot):
    odd = {"ODD": "a 'b' \"c\" $d `e` \\\n\tend", "UTF": "grüße ☃", "EMPTY": "", "A.B": "dots"}
    replica = boot("sleep", "600", settings=odd).until_ready()
    raw = (Path(f"/proc/{replica.release_pid}/environ")).read_bytes().rstrip(b"\0").split(b"\0")
    asked = replica.verb("shell", "--", "env", "-0", text=False, env=environment(replica.root))
    seen = [line for line in asked.stdout.rstrip(b"\0").split(b"\0") if line[:5] != b"PATH="]
    assert sorted(seen) == sorted(line for line in raw if line[:5] != b"PATH=")
    assert replica.verb("shell", "--", "pwd", cwd="/").stdout == f"{replica.root}\n"


@pytest.mark.parametrize(
    ("command", "code"),
    [
        (("true",), 0),
        (("sh", "-c", "exit 42"), 42),
        (("sh", "-c", "kill -9 $$"), -9),
        (("no-such-command",), 127),
        (("/",), 126),
    ],
)
def test_shell_ends_with_the_code_of_its_command(shared, command, code):
    asked = shared.verb("shell", "--", *command)
    assert asked.returncode == code
    assert asked.stdout == ""
    if code in {126, 127}:
        assert f"{command[0]}: " in asked.stderr


def test_shell_passes_streams_through(shared):
    asked = shared.verb("shell", "--", "sh", "-c", "cat; echo err >&2", stdin=None, input="in")
    assert (asked.stdout, asked.stderr) == ("in", "err\n")


def test_a_dash_is_no_option_of_ours_after_the_command_begins(shared):
    says = ("sh", "-c", 'echo "$@"', "sh")
    assert shared.verb("shell", *says, "--help").stdout == "--help\n"
    assert shared.verb("shell", "--", *says, "--", "-h").stdout == "-- -h\n"


@pytest.fixture
def shared(start):
    return start("sleep", "600").until_ready()


SETTINGS_OF_ITS_OWN = {"LOG_FORMAT": "json", "APP_KEY": "s3cret", "RESTART": "never"}


def test_settings_are_those_of_the_replica(boot):
    replica = boot("sleep", "600", settings=SETTINGS_OF_ITS_OWN).until_ready()
    elsewhere = environment(replica.root) | {"DRAIN_SECONDS": "no"}  # a session has its own
    asked = replica.verb("settings", "--json", env=elsewhere, wrapper=inside(replica), check=True)
    shown = {row["name"]: row for row in json.loads(asked.stdout)["settings"]}
    assert shown["APP_KEY"]["value"] == "***"
    assert shown["DRAIN_SECONDS"]["value"] == replica.environ["DRAIN_SECONDS"]
    assert (shown["LOG_FORMAT"]["value"], shown["LOG_FORMAT"]["default"]) == ("json", "json")
    assert (shown["FOLLOW"]["value"], shown["FOLLOW"]["default"]) == (None, "none")
    assert (shown["PORT"]["passed_on"], shown["RESTART"]["passed_on"]) == (True, False)
    assert "s3cret" not in asked.stdout


def test_settings_for_a_person(nowhere):
    given = {"CONTROLLER_URL": "none", "DRAIN_SECONDS": "7", "SSH_PORT": "none"}
    asked = run_agent("settings", environ=nowhere | given, check=True)
    names = [line.partition("=")[0].split()[0] for line in asked.stdout.splitlines()
             if line and not line.startswith(" ")]  # fmt: skip
    assert names == [row.name for row in settings.shown({})]
    assert "DRAIN_SECONDS=7 (default 5)\n    How long a stop keeps serving" in asked.stdout
    assert "\nRESTART=never\n" in asked.stdout
    assert "\nDIST_PORT is not set\n" in asked.stdout
    assert max(map(len, asked.stdout.splitlines())) <= 100


def test_settings_with_a_word_are_those_with_it_in_their_name(nowhere):
    given = nowhere | {"CONTROLLER_URL": "none"}
    asked = run_agent("settings", "penalty", "--json", environ=given, check=True)
    names = [row["name"] for row in json.loads(asked.stdout)["settings"]]
    assert names == ["SSH_PENALTY_SECONDS", "SSH_PENALTY_MAX_SECONDS", "SSH_PENALTY_EXEMPT"]
    asked = run_agent("settings", "nonsense", environ=given)
    assert asked.returncode == os.EX_USAGE
    assert asked.stderr.startswith("run-agent: cannot find a setting with 'nonsense' in its name")


def test_settings_where_nothing_runs_are_said_to_be_of_the_environment(nowhere):
    given = {"CONTROLLER_URL": "https://u:s3cret@host", "READY_CHECK": "http:/up?deep=1"}
    asked = run_agent("settings", "c", environ=nowhere | given)
    assert asked.returncode == os.EX_CONFIG
    assert asked.stderr.startswith("run-agent: nothing runs here")
    assert "CONTROLLER_URL=*** (default https://api.gigalixir.com)" in asked.stdout
    assert "READY_CHECK=http:/up?deep=1 (default port)" in asked.stdout
    assert "s3cret" not in asked.stdout + asked.stderr


def test_settings_are_not_guessed_where_the_agent_does_not_answer():
    with (
        tempfile.TemporaryDirectory() as root,  # unix(7): a socket's path has 108 bytes at most
        socket.socket(socket.AF_UNIX) as listener,
    ):
        path = Path(root, "run/run-agent/control.sock")
        path.parent.mkdir(parents=True)
        listener.bind(str(path))
        listener.listen()
        with subprocess.Popen(
            (*RUN_AGENT, "settings"), env=environment(Path(root)),
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        ) as asking:  # fmt: skip
            listener.accept()[0].close()
            out, err = asking.communicate(timeout=PATIENCE_SECONDS)
    assert (asking.returncode, out) == (os.EX_UNAVAILABLE, b"")
    assert err.startswith(b"run-agent: cannot get an answer")


def test_settings_that_would_not_start_are_shown_and_end_with_78(nowhere):
    given = {"CONTROLLER_URL": "none", "GRACE_SECONDS": "soon"}
    asked = run_agent("settings", "grace", environ=nowhere | given)
    assert asked.returncode == os.EX_CONFIG
    assert "GRACE_SECONDS=soon (default 25)" in asked.stdout
    assert "GRACE_SECONDS='soon' must be a number of seconds" in asked.stderr


def test_shell_before_anything_was_started(nowhere):
    asked = run_agent("shell", "--", "true", environ=nowhere)
    assert asked.returncode == os.EX_UNAVAILABLE
    assert asked.stderr.startswith("run-agent: cannot find the release's environment at ")


@pytest.mark.parametrize("name", ["run-agent", "gigalixir_run"])
def test_both_names_are_the_same_program(nowhere, name):
    program = shutil.which(name, path=BIN)
    assert program, f"{name} is not beside {sys.executable}"
    asked = subprocess.run([program, "--version"], env=nowhere, capture_output=True, check=True)
    assert asked.stdout.decode() == f"run-agent {__version__}\n"


@pytest.mark.parametrize("word", ["--version", "-V", "version"])
def test_version(nowhere, word):
    asked = run_agent(word, environ=nowhere)
    assert (asked.returncode, asked.stdout) == (0, f"run-agent {__version__}\n")


@pytest.mark.parametrize("word", ["--help", "-h", "help"])
def test_help_lists_every_verb(nowhere, word):
    asked = run_agent(word, environ=nowhere)
    assert asked.returncode == 0
    for verb, what in VERBS.items():
        assert verb in asked.stdout
        assert what in asked.stdout


@pytest.mark.parametrize("verb", VERBS)
def test_help_of_a_verb(nowhere, verb):
    asked = run_agent(verb, "--help", environ=nowhere | {"COLUMNS": "100"})
    assert asked.returncode == 0
    assert max(map(len, asked.stdout.splitlines())) <= 100
    assert asked.stdout.startswith(f"usage: run-agent {verb}")
    assert "examples:" in asked.stdout
    assert asked.stderr == ""


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("no-such-verb",), "cannot do 'no-such-verb': there is no such verb"),
        (("exec",), "CMD is missing"),
        (("exec", "--"), "CMD is missing"),
        (("exec", "--no-such-option", "--", "true"), "unrecognized arguments: --no-such-option"),
        (("init",), "are required: APP;"),
        (("bootstrap", "hello"), "are required: SLUG_URL;"),
        (("status", "extra"), "unrecognized arguments: extra"),
        (("drain", "--und"), "unrecognized arguments: --und"),
    ],
)
def test_wrong_usage_ends_with_64_and_says_what_is_wrong(nowhere, arguments, said):
    asked = run_agent(*arguments, environ=nowhere)
    assert asked.returncode == os.EX_USAGE
    assert said in asked.stderr
    assert "--help" in asked.stderr
    assert asked.stdout == ""


def test_wrong_settings_are_all_listed_with_78(nowhere):
    wrong = {"HEALTH_PORT": "no", "GRACE_SECONDS": "-1", "RESTART": "always"}
    asked = run_agent("exec", "--", "true", environ=nowhere | wrong)
    assert asked.returncode == os.EX_CONFIG
    for name, value in wrong.items():
        assert f"{name}={value!r}" in asked.stderr
