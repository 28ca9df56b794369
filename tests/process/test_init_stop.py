"""The stop: drain, TERM, KILL, and everything else in the end, all within the grace."""

import os
import signal
import subprocess
import sys
import time
import urllib.request
from contextlib import ExitStack

import pytest

from support import cgroup
from support.replica import cpu_seconds
from support.wait import holds, until

PYTHON = (sys.executable, "-I", "-S")

SERVER = """
import http.server, os, sys
class Hello(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers(); self.wfile.write(b"%d" % os.getpid())
    def log_message(self, *_): pass
http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Hello).serve_forever()
"""

STUBBORN = "trap '' TERM HUP; echo $1 up; while :; do sleep 0.2; done"
"""Does not stop for being asked."""

TAKES_ITS_TIME = """
trap 'echo $1 asked; stop=1' TERM
echo $1 up
until [ "$stop" ]; do sleep 0.02; done
for i in {1..30}; do sleep 0.02; done
echo $1 in order
"""
"""Tells each time that it is asked to stop, and does so a little later."""

UNTIL_GO = "until [ -e go ]; do sleep 0.02; done"

SESSIONS = """
import os, signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
for _ in range(20):
    if os.fork(): break
    os.setsid()
else: print("leaf up", flush=True)
time.sleep(600)
"""
"""A chain of sessions, each one started by a process of the one before."""

IMAGE = {"CONTROLLER_URL": "none", "READY_CHECK": "none", "MY_POD_IP": "127.0.0.1"}
"""The release that lies in the app folder."""

SLACK_SECONDS = 3.0
"""What a loaded machine may add to a wait."""


def until_gone(replica):
    """Wait until nothing is left: what was killed at the very end of the grace is still dying."""
    until(lambda: not replica.alive(), lambda: f"still there: {replica.commands()}")


def test_the_drain_serves_on_but_is_not_ready(boot, ports):
    port = ports.free()
    settings = {"DRAIN_SECONDS": "2", "READY_CHECK": "port", "PORT": str(port)}
    replica = boot(*PYTHON, "-c", SERVER, str(port), settings=settings).until_ready()
    asked_at, answered = time.monotonic(), 0
    replica.term().until_said("stopping: SIGTERM received; draining for 2 s")
    status, verdict = replica.get("/readyz")
    assert status == 503
    assert (verdict["ready"], verdict["draining"], verdict["stopping"]) == (False, True, True)
    while time.monotonic() < asked_at + 1:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}", timeout=5) as answer:
            assert answer.status == 200
        assert replica.get("/livez").status == 200
        answered += 1
    assert answered > 3
    assert replica.wait() == 143
    assert time.monotonic() - asked_at >= 2
    assert replica.alive() == []


def test_a_commands_whole_group_is_asked_once_and_may_take_its_time(boot):
    replica = boot(
        "./leader",
        programs={
            "leader": "trap 'exit 3' TERM; ./worker worker & wait",
            "worker": TAKES_ITS_TIME,
        },
    )
    replica.until_printed("worker up")
    assert replica.term().wait() == 3
    assert replica.stdout.splitlines() == ["worker up", "worker asked", "worker in order"]


def test_of_a_release_only_the_leader_is_asked(boot):
    """Its VM stops its own ports in order; TERM to all of them would come between."""
    leader = "trap 'sleep 0.3; echo leader in order; exit 4' TERM"
    replica = boot(
        verb=("init", "hello"),
        programs={
            "app/bin/hello": f"{leader}; ./bin/port port & wait",
            "app/bin/port": TAKES_ITS_TIME,
            "app/releases/0.1.0/any": "",
        },
        settings=IMAGE,
    )
    replica.until_printed("port up")
    assert replica.term().wait() == 4
    assert replica.stdout.splitlines() == [
        "port up", "leader in order", "port asked", "port in order",
    ]  # fmt: skip


def test_whatever_ignores_term_is_killed_within_the_grace(boot):
    replica = boot(
        "./release",
        programs={
            "release": "setsid --fork ./stubborn elsewhere; ./stubborn beside & . ./stubborn both",
            "stubborn": STUBBORN,
        },
        settings={"GRACE_SECONDS": "2"},
    )
    for name in ("elsewhere", "beside", "both"):
        replica.until_printed(f"{name} up")
    asked_at = time.monotonic()
    assert replica.term().wait() == 137
    assert time.monotonic() - asked_at < 2 + SLACK_SECONDS
    until_gone(replica)
    assert replica.events("release did not stop in time: killing it")
    assert replica.events("killed by run-agent at the end of the grace period, exit code 137")


@pytest.mark.parametrize("grace", ["0", "0.5"])
def test_the_shortest_grace_still_ends_everything(boot, grace):
    replica = boot(
        "./release",
        programs={
            "release": "setsid --fork ./stubborn elsewhere; . ./stubborn release",
            "stubborn": STUBBORN,
        },
        settings={"GRACE_SECONDS": grace},
    )
    replica.until_printed("elsewhere up")
    replica.until_printed("release up")
    assert replica.term().wait() == 137
    until_gone(replica)


def test_what_the_release_leaves_in_its_group_follows_it(boot):
    replica = boot(
        "./release",
        programs={"release": f"./worker worker & {UNTIL_GO}; exit 9", "worker": TAKES_ITS_TIME},
    )
    replica.until_printed("worker up")
    (replica.root / "go").touch()
    assert replica.wait() == 9
    assert "worker in order" in replica.stdout
    assert replica.alive() == []


def test_a_stop_while_the_rest_of_the_group_lingers_keeps_to_the_grace(boot):
    replica = boot(
        "./release",
        programs={"release": f"./stubborn beside & {UNTIL_GO}; exit 6", "stubborn": STUBBORN},
        settings={"GRACE_SECONDS": "1"},
    )
    replica.until_printed("beside up")
    (replica.root / "go").touch()
    replica.until_said("release ended")
    assert replica.get("/livez").status == 200
    asked_at = time.monotonic()
    assert replica.term().wait() == 6
    assert time.monotonic() - asked_at < 1 + SLACK_SECONDS
    assert not replica.events("release did not stop in time"), "it has ended before"
    until_gone(replica)


def test_daemons_are_asked_and_then_ended(boot):
    programs = {
        "release": "setsid --fork ./worker daemon; exec sleep 600",
        "worker": TAKES_ITS_TIME,
    }
    replica = boot("./release", programs=programs)
    replica.until_printed("daemon up")
    assert replica.term().wait() == 143
    assert "daemon in order" in replica.stdout
    assert replica.alive() == []


def test_a_chain_of_sessions_is_ended_to_its_last(boot):
    """Outside a container only a direct child may be signalled; each one's end orphans the next."""
    replica = boot(*PYTHON, "-c", SESSIONS, settings={"GRACE_SECONDS": "3"})
    replica.until_printed("leaf up")
    assert replica.term().wait() == 137
    until_gone(replica)


def test_outside_a_container_no_stranger_is_touched(start):
    """Not one of the same name, nor of its parent's process group, whenever it was started."""
    with ExitStack() as strangers:

        def stranger(**options):
            process = strangers.enter_context(subprocess.Popen(["sleep", "600"], **options))
            strangers.callback(process.kill)
            return process

        before = [stranger(), stranger(process_group=0), stranger(start_new_session=True)]
        programs = {"release": "setsid --fork sleep 600; exec sleep 600"}
        replica = start("./release", programs=programs, process_group=0).until_ready()
        beside = stranger(process_group=replica.pid)
        assert replica.term().wait() == 143
        assert replica.alive() == []
        assert [process.poll() for process in [*before, beside]] == [None] * 4


def test_a_release_that_cannot_even_be_killed_does_not_hold_up_the_end(start):
    with cgroup.group("freezer") as folder:
        replica = start("sleep", "600", settings={"GRACE_SECONDS": "1.5"}).until_ready()
        (folder / "cgroup.procs").write_text(str(replica.release_pid))
        (folder / "freezer.state").write_text("FROZEN")
        try:
            asked_at = time.monotonic()
            replica.term().until_said("did not stop in time")
            assert replica.wait() == 137
            assert time.monotonic() - asked_at < 1.5 + SLACK_SECONDS
        finally:
            (folder / "freezer.state").write_text("THAWED")
        until(lambda: not replica.alive(), "the killed release is gone")


def test_a_drain_without_an_agent_costs_no_processor(boot):
    replica = boot("sleep", "600", settings={"DRAIN_SECONDS": "2"}).until_ready()
    os.kill(replica.agent_pid, signal.SIGKILL)
    replica.until_said("starting it again in")
    replica.term().until_said("draining for 2 s")
    before = cpu_seconds(replica.pid)
    replica.until_said("asking the release to stop")
    assert cpu_seconds(replica.pid) - before < 0.3
    assert replica.wait() == 143


def test_a_log_that_nobody_reads_does_not_hold_up_the_stop(boot):
    """The app fills the pipe and is stuck in it, and maybe the agent is, too."""
    ours, theirs = os.pipe()
    settings = {"GRACE_SECONDS": "4"}
    try:
        replica = boot("bash", "-c", "echo up; yes >&2", stderr=theirs, settings=settings)
        replica.until_printed("up")
        for _ in range(200):  # a reader that is slow, and then gone without a word
            os.read(ours, 4096)
        holds(lambda: replica.get("/livez").status == 200, "the probes are answered", 0.5)
        asked_at = time.monotonic()
        assert replica.term().wait() == 143
        assert time.monotonic() - asked_at < 4 + SLACK_SECONDS
    finally:
        os.close(ours)
        os.close(theirs)
    until_gone(replica)
