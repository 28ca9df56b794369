"""What starts the app, and why nothing can."""

import os
from pathlib import Path

import pytest

from run_agent.errors import RunAgentError
from run_agent.release import identify, start
from run_agent.release.start import Start

APP = Path("/app")
BOOTED = {"releases/start_erl.data": "13.1.5 1.0"}
MIX = BOOTED | {"bin/hello": "", "releases/1.0/env.sh": "", "releases/1.0/elixir": ""}
RELX = BOOTED | {"bin/hello": "", "bin/hello-1.0": "", "bin/nodetool": ""}
WEB = {"Procfile": "web: mix phx.server --port $PORT"}
WEB_ARGV = ("/bin/bash", "-c", "mix phx.server --port $PORT")


@pytest.fixture
def slug(tmp_path):
    """Return a function that makes a tree of executable files and identifies it."""

    def make(contents, name="hello"):
        for path, text in contents.items():
            (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / path).write_text(text)
            (tmp_path / path).chmod(0o755)
        return identify(tmp_path, name)

    return make


@pytest.mark.parametrize(
    ("contents", "command", "argv", "stop_group"),
    [
        (MIX, (), ("bin/hello", "start"), False),
        (RELX, (), ("bin/hello", "foreground"), False),
        (MIX | WEB, (), WEB_ARGV, True),
        (WEB, (), WEB_ARGV, True),
        (MIX | {"Procfile": "worker: true"}, (), ("bin/hello", "start"), False),
        (MIX | WEB, ("sleep", "5"), ("sleep", "5"), True),
        ({}, ("./server",), ("./server",), True),
        # What pod specs say for "as it starts itself", whichever tool built the release.
        (MIX, ("foreground",), ("bin/hello", "start"), False),
        (RELX, ("start",), ("bin/hello", "foreground"), False),
        (MIX | WEB, ("foreground",), WEB_ARGV, True),
        (MIX, ("start", "it"), ("start", "it"), True),
    ],
)  # fmt: skip
def test_what_starts_the_app(slug, contents, command, argv, stop_group):
    if argv[0] == "bin/hello":
        argv = (str(APP / argv[0]), *argv[1:])
    assert start.choose(slug(contents), APP, command) == Start(argv, stop_group=stop_group)


@pytest.mark.parametrize(
    ("contents", "code", "words"),
    [
        ({}, os.EX_DATAERR, ["neither bin/ nor a Procfile"]),
        ({"Procfile": "worker: true"}, os.EX_DATAERR, ["no web line"]),
        ({"Procfile": "", "bin/other": ""}, os.EX_DATAERR, ["no web line"]),
        (BOOTED | {"bin/other": "", "bin/other-1.0": "", "bin/a.bat": "", "bin/nodetool": ""},
         os.EX_CONFIG, ["bin/hello is missing", "scripts are other:", "customer_app_name"]),
        (BOOTED | {"bin/a.bat": ""}, os.EX_CONFIG, ["scripts are none:"]),
    ],
)  # fmt: skip
def test_a_slug_that_cannot_be_started_is_explained(slug, tmp_path, contents, code, words):
    with pytest.raises(RunAgentError) as caught:
        start.choose(slug(contents), APP)
    message = str(caught.value)
    assert message.startswith(f"cannot start the slug at {tmp_path}: ")
    assert all(word in message for word in words), message
    assert caught.value.exit_code == code


@pytest.mark.parametrize(
    ("scripts", "start_it"),
    [
        (("other",), "are other: start it as `init other`"),
        (("a", "b"), "are a, b: start it as `init NAME`"),
    ],
)
def test_a_name_that_was_an_argument_is_corrected_there(slug, scripts, start_it):
    release = slug(BOOTED | {f"bin/{script}": "" for script in scripts})
    with pytest.raises(RunAgentError) as caught:
        start.choose(release, APP, named_by="init")
    assert str(caught.value).endswith(start_it)


def test_a_script_must_be_executable(slug, tmp_path):
    release = slug(MIX)
    (tmp_path / "bin/hello").chmod(0o644)
    with pytest.raises(RunAgentError, match=r"bin/hello is not executable.*chmod") as caught:
        start.choose(release, APP)
    assert caught.value.exit_code == os.EX_DATAERR


@pytest.mark.parametrize(
    ("contents", "command", "text"),
    [
        (MIX, (), "start"),
        (MIX, ("foreground",), "start"),
        (RELX, (), "foreground"),
        (RELX, ("sleep", "5"), "sleep 5"),
        (WEB, (), ""),
        (WEB, ("foreground",), "foreground"),
    ],
)
def test_a_procfile_can_hand_on_how_the_release_starts(slug, contents, command, text):
    assert start.own_command(slug(contents), command) == text
