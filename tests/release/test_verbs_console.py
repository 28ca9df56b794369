"""`remote_console` on every kind of release: the node answers at the prompt, and survives it."""

import os
import signal
from pathlib import Path

import psutil
import pytest

from support import mix_project, slugs
from support import replica as replicas
from support.platform import ask
from support.terminal import CTRL_C, on_terminal
from support.wait import until

IEX, ERLANG = r"iex\(hello@127\.0\.0\.1\)\d+> ", r"\(hello@127\.0\.0\.1\)\d+> "

KINDS = {
    "mix": IEX,
    "relx": ERLANG,
    "distillery1": IEX,
    "distillery2": IEX,
    "project": IEX,
}
"""The prompts; a project is what a Procfile starts without a release."""

OS_PID = {
    IEX: 'IO.puts("pid " <> System.pid())\n',
    ERLANG: 'io:format("pid ~s~n", [os:getpid()]).\n',
}


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


@pytest.fixture
def replica(platform, kind):
    """Boot a slug of the kind."""
    slug = mix_project.slug() if kind == "project" else slugs.slug(kind).read_bytes()
    platform.deploy(slug)
    return platform.boot().until_ready(60)


def console(replica):
    """Open a console as a person does who is in the container."""
    return on_terminal((*replicas.RUN_AGENT, "remote_console"), env=replica.environ)


def beam_pid(replica) -> str:
    """Return the VM's process, which the release's start script may have started."""
    release = psutil.Process(replica.release_pid)
    processes = (release, *release.children(recursive=True))
    return str(next(process.pid for process in processes if "beam" in process.name()))


def test_the_node_answers_at_the_prompt_and_survives_every_end_of_a_console(replica, kind):
    pid = beam_pid(replica)
    prompt = KINDS[kind]
    with console(replica) as left:
        left.until_shown(prompt)
        left.type(OS_PID[prompt])
        assert left.until_shown(r"pid (\d+)")[1] == pid
        left.type(CTRL_C)
        left.until_shown("a\\)bort")
        left.type(CTRL_C)
        left.wait()
    with console(replica) as hung_up:
        hung_up.until_shown(prompt)
        children = psutil.Process(hung_up.process.pid).children(recursive=True)
        hung_up.hang_up()
        hung_up.wait()
        until(lambda: not any(map(psutil.Process.is_running, children)), "it left processes behind")
    with console(replica) as killed:
        killed.until_shown(prompt)
        killed.process.send_signal(signal.SIGKILL)
        killed.wait()
    assert beam_pid(replica) == pid
    assert ask(replica, "/")[0] == 200


def test_it_needs_a_terminal(replica):
    done = replica.verb("remote_console")
    assert (done.returncode, done.stdout) == (os.EX_USAGE, "")
    assert "cannot open a console without a terminal" in done.stderr


def test_where_the_node_is_down_it_says_so_at_once(replica):
    assert replica.term().wait() in {0, 143}
    with console(replica) as refused:
        refused.until_shown(r"cannot reach the node hello@127\.0\.0\.1: epmd on port \d+ does not")
        assert refused.wait() == os.EX_UNAVAILABLE


@pytest.mark.parametrize("kind", ["project"], indirect=True)
def test_the_cookie_of_a_node_without_a_release_is_in_no_argv_of_ours(replica):
    cookie = replica.verb("shell", "--", "printenv", "ERLANG_COOKIE").stdout.strip()
    with console(replica) as opened:
        opened.until_shown(IEX)
        ours = [opened.process, *psutil.Process(opened.process.pid).children(recursive=True)]
        argvs = [Path(f"/proc/{process.pid}/cmdline").read_text() for process in ours]
        names = replica.verb("shell", "--", "epmd", "-names").stdout
    assert any("run-agent-console-" in argv for argv in argvs)
    assert not any(cookie in argv for argv in argvs)
    assert "name hello at port" in names
    assert "run-agent-console" not in names, "the gigalixir client takes the last name for the app"


def test_whoever_looks_is_killed_before_the_release_when_memory_is_short(platform):
    platform.deploy(slugs.slug("relx").read_bytes())
    replica = platform.boot().until_ready(60)
    with console(replica) as opened:
        opened.until_shown(ERLANG)
        console_s, release_s = (
            int(Path(f"/proc/{pid}/oom_score_adj").read_text())
            for pid in (opened.process.pid, replica.release_pid)
        )
    assert console_s == release_s + 500
