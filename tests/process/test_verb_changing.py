"""What the verbs that change a release show: on a terminal, to a program, and of a signed URL."""

import asyncio
import json
import socket
import subprocess
import sys
import threading
from contextlib import contextmanager, suppress

import pytest

from entrypoint import control
from run_agent.errors import RunAgentError
from run_agent.model import Layout
from support.terminal import COLUMNS, on_terminal
from support.wait import PATIENCE_SECONDS

RUN_AGENT = (sys.executable, "-m", "entrypoint.cli")
LONG_STEP = "fetching " + "x" * 2 * COLUMNS
DONE = {"verdict": "done", "message": "0.2.0 serves", "notes": [], "serves": "0.2.0"}
ASKED = "cannot upgrade now: the migration of hello is under way"
URL = "https://storage.example/hello.tar.gz?signature=s3cret"


async def succeeds(arguments, tell):
    tell({"step": LONG_STEP})
    tell({"step": "verifying"})
    return control.Answer(DONE | {"asked": arguments})


async def is_refused(_arguments, tell):
    tell({"step": "checking"})
    raise RunAgentError(ASKED, exit_code=14)


@pytest.fixture
def agent(tmp_path):
    """Answer the verbs of a replica from a real control socket, as long as the context lasts."""

    @contextmanager
    def agent(upgrade):
        path = Layout(tmp_path).control_socket
        path.parent.mkdir(parents=True)
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(path))
            listener.listen()
            verbs = dict.fromkeys(("upgrade", "downgrade", "reconfigure"), upgrade)
            with serving(listener, verbs):
                yield {"RUN_AGENT_ROOT": str(tmp_path)}

    return agent


@contextmanager
def serving(listener, verbs):
    loop, ended = asyncio.new_event_loop(), asyncio.Event()
    listens = threading.Event()

    async def serve():
        async with control.serve(listener, verbs):
            listens.set()
            await ended.wait()

    thread = threading.Thread(target=loop.run_until_complete, args=[serve()])
    thread.start()
    try:
        assert listens.wait(PATIENCE_SECONDS)
        yield
    finally:
        with suppress(RuntimeError):
            loop.call_soon_threadsafe(ended.set)
        thread.join()
        loop.close()


def run(environ, *arguments, stdin=""):
    return subprocess.run(
        [*RUN_AGENT, *arguments],
        env=environ,
        input=stdin,
        text=True,
        capture_output=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )


def shown(environ, *arguments):
    """Return the lines that stand on a terminal in the end, and the exit code."""
    with on_terminal([*RUN_AGENT, *arguments], env=environ) as terminal:
        code = terminal.wait()
        return code, terminal.raw()


def test_an_error_begins_a_line_below_the_last_step(agent):
    with agent(is_refused) as environ:
        code, raw = shown(environ, "upgrade")
    assert code == 14
    assert f"checking\r\nrun-agent: {ASKED}\r\n" in raw


def test_a_step_is_no_wider_than_the_terminal_and_is_gone_in_the_end(agent):
    with agent(succeeds) as environ:
        code, raw = shown(environ, "upgrade")
    assert code == 0
    assert max(len(step) for step in raw.split("\r\x1b[K")) < COLUMNS
    assert raw.endswith("\r\x1b[Kverifying\r\x1b[Kdone: 0.2.0 serves\r\n")


@pytest.mark.parametrize("verb", [("upgrade",), ("downgrade", "0.1.0"), ("reconfigure",)])
def test_a_program_gets_one_object_of_an_error_too(agent, verb):
    with agent(is_refused) as environ:
        done = run(environ, *verb, "--json")
    assert done.returncode == 14
    assert json.loads(done.stdout) == {"error": ASKED, "exit": 14}
    assert ASKED in done.stderr
    nobody = run(environ, *verb, "--json")
    assert json.loads(nobody.stdout)["exit"] == nobody.returncode == 69


def test_a_program_gets_one_object_of_an_outcome(agent):
    with agent(succeeds) as environ:
        done = run(environ, "upgrade", "--json")
    assert json.loads(done.stdout).items() >= (DONE | {"exit": 0}).items()


def test_a_path_is_told_its_url(agent):
    with agent(succeeds) as environ:
        done = run(environ, "upgrade", "--slug", "/no such.tar.gz")
    assert done.returncode == 64
    assert "--slug takes a URL; give file:///no%20such.tar.gz" in done.stderr


def test_a_signed_url_can_come_by_stdin(agent):
    with agent(succeeds) as environ:
        done = run(environ, "upgrade", "--json", "--slug", "-", stdin=f"{URL}\n")
        assert json.loads(done.stdout)["asked"]["slug"] == URL
        none = run(environ, "upgrade", "--slug", "-")
    assert none.returncode == 64
    assert "stdin holds no URL" in none.stderr
