"""The agent may die at any moment, and hang: the release, the probes and the stop never notice."""

import json
import os
import signal
import sys
import threading
import time
import urllib.request
from contextlib import suppress

import pytest

from entrypoint import ask
from support import cgroup
from support.long_tests import LONG
from support.replica import status_of
from support.wait import PATIENCE_SECONDS, until

PYTHON = (sys.executable, "-I", "-S")

SERVER = """
import http.server, os, sys
class Pid(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        body = b"%d" % os.getpid()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *_): pass
class Server(http.server.ThreadingHTTPServer):
    request_queue_size = 128
Server(("127.0.0.1", int(sys.argv[1])), Pid).serve_forever()
"""

WAITS = {
    "app/.profile.d/waits.sh": "touch begun; until [ -e go ]; do sleep 0.02; done",
    "app/bin/hello": "exec sleep 600",
    "app/releases/0.1.0/any": "",
}
"""A release in the app folder; whichever agent boots it waits for a file there."""
IMAGE = {"CONTROLLER_URL": "none", "READY_CHECK": "none", "MY_POD_IP": "127.0.0.1"}

KILLS = 100 if LONG else 15
LOOP_SECONDS, LONG_LOOP_SECONDS = 10, 300
SILENCE_PATIENCE_SECONDS = 80.0
"""The 45 s for which an agent may be silent, on a loaded machine."""

BACK_WITHIN_SECONDS = 2.0

LOAD_PAUSE_SECONDS = 0.005
"""Between two requests of a client, so that the load leaves a core for what is tested."""


class Load:
    """Asks the app, `/livez` and `/readyz` without a pause, and keeps what went wrong."""

    def __init__(self, replica, app_port):
        self._replica, self._app_port = replica, app_port
        self._app_pid = status_of(replica.release_pid)["NSpid"].split()[-1]
        self._over = threading.Event()
        self.wrong, self.right, self.slowest = [], 0, 0.0
        asks = (self._app, self._alive, self._ready)
        self._threads = [threading.Thread(target=self._ask, args=(ask,)) for ask in asks]

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *error):
        self._over.set()
        for thread in self._threads:
            thread.join()

    def _ask(self, ask):
        while not self._over.wait(LOAD_PAUSE_SECONDS):
            began = time.monotonic()
            try:
                problem = ask()
            except (OSError, ValueError) as error:
                problem = repr(error)
            self.slowest = max(self.slowest, time.monotonic() - began)
            if problem:
                self.wrong.append(problem)
            else:
                self.right += 1

    def _app(self):
        with urllib.request.urlopen(f"http://127.0.0.1:{self._app_port}", timeout=5) as answer:
            pid = answer.read().decode()
        return pid != self._app_pid and f"the app has pid {pid}"

    def _alive(self):
        answer = self._replica.get("/livez")
        return answer.status != 200 and f"/livez: {answer}"

    def _ready(self):
        answer = self._replica.get("/readyz")
        return answer.status != 200 and f"/readyz: {answer}"


def until_new(replica, before, seconds=PATIENCE_SECONDS):
    """Wait until another agent than `before` runs, and return its pid."""

    def new():
        pid = replica.agent()
        return pid if pid != before else None

    return until(new, "no new agent", seconds, every=0.002)


def until_back(replica, before, seconds=PATIENCE_SECONDS):
    """Wait until another agent than `before` answers a verb, and return what it says.

    When it answers it has taken over, and has told PID 1 so.
    """
    until_new(replica, before, seconds)
    socket = replica.root / "run/run-agent/control.sock"
    *_, last = ask.call(socket, "status")
    return last["result"]


@pytest.mark.timeout(600)
def test_killed_again_and_again_under_load_it_comes_back_and_nobody_notices(boot, ports):
    port = ports.free()
    settings = {"READY_CHECK": "port", "PORT": str(port)}
    replica = boot(*PYTHON, "-c", SERVER, str(port), settings=settings).until_ready()
    release, agent = replica.release_pid, replica.agent_pid
    verdict = replica.get("/readyz").body
    waits = []
    with Load(replica, port) as load:
        for _ in range(KILLS):
            os.kill(agent, signal.SIGKILL)
            killed_at = time.monotonic()
            until_back(replica, agent)
            waits.append(time.monotonic() - killed_at)
            agent = replica.agent_pid
    assert load.wrong == []
    assert load.right > 3 * KILLS
    assert sorted(waits)[KILLS * 9 // 10] < BACK_WITHIN_SECONDS, waits
    assert replica.release_pid == release
    assert len(replica.events("release started")) == 1
    assert replica.get("/readyz").body == verdict
    status = json.loads(replica.verb("status", "--json", check=True).stdout)
    assert status["ready"]
    assert status["since"] == verdict["since"]
    assert replica.term().wait() == 143


def test_what_was_asked_of_it_survives_it(boot):
    replica = boot("sleep", "600").until_ready()

    def kept():  # what became ready is noted a moment later
        status = json.loads(replica.verb("status", "--json", check=True).stdout)
        return status["good"] and status

    before = until(kept, "what became ready is not kept")
    assert replica.verb("drain").returncode == 0
    assert replica.get("/readyz").status == 503
    agent = replica.agent_pid
    os.kill(agent, signal.SIGKILL)
    after = until_back(replica, agent)
    assert after | {"agent_pid": 0} == before | {"agent_pid": 0, "draining": True, "ready": False}
    assert replica.get("/readyz").status == 503
    assert replica.verb("drain", "--undo").returncode == 0
    until(replica.is_ready, "back in service")


def test_killed_before_the_start_it_is_started_again_and_boots(boot):
    replica = boot(verb=("init", "hello"), programs=WAITS, settings=IMAGE)
    until((replica.root / "app" / "begun").exists, lambda: f"it boots: {replica.log}")
    os.kill(replica.agent_pid, signal.SIGKILL)
    replica.until_said("agent ended with exit code 137; starting it again in")
    assert not replica.events("release started")
    assert replica.get("/livez").status == 200
    assert replica.get("/readyz").status == 503
    (replica.root / "app" / "go").touch()
    replica.until_ready()
    assert len(replica.events("release started")) == 1


@pytest.mark.timeout(LONG_LOOP_SECONDS + 120)
def test_a_crash_loop_of_agents_leaves_the_release_and_the_probes_alone(boot, ports):
    port = ports.free()
    settings = {"READY_CHECK": "port", "PORT": str(port)}
    replica = boot(*PYTHON, "-c", SERVER, str(port), settings=settings).until_ready()
    release, agent, killed = replica.release_pid, replica.agent_pid, 0
    with Load(replica, port) as load:
        as_pid_1 = replica.pid != replica.process.pid
        over_at = time.monotonic() + (LONG_LOOP_SECONDS if LONG and as_pid_1 else LOOP_SECONDS)
        while time.monotonic() < over_at:
            os.kill(agent, signal.SIGKILL)
            killed += 1
            left = max(0.0, over_at - time.monotonic())
            with suppress(AssertionError):  # the back-off may be longer than what is left
                agent = until_new(replica, agent, left)
    assert load.wrong == []
    assert killed >= 4
    assert replica.release_pid == release
    until_back(replica, None, seconds=45)
    assert replica.get("/readyz").body["ready"]
    pauses = [float(e["message"].split()[-2]) for e in replica.events("starting it again in")]
    assert max(pauses[2:]) > pauses[1], "the pauses grow"
    assert replica.term().wait() == 143


def test_one_that_hangs_stops_neither_probes_nor_the_stop(boot):
    settings = {"GRACE_SECONDS": "10"}
    replica = boot("sleep", "600", settings=settings).until_ready()
    os.kill(replica.agent_pid, signal.SIGSTOP)
    assert replica.get("/livez").status == 200
    assert replica.get("/readyz").status == 200
    asked_at = time.monotonic()
    assert replica.term().wait() == 143
    assert time.monotonic() - asked_at < 5
    assert replica.alive() == []


def test_its_workers_do_not_outlive_it(boot):
    replica = boot(
        verb=("init", "hello"),
        programs={
            "app/.profile.d/hangs.sh": "mkdir first || return 0; (sleep 601) & sleep 602",
            "app/bin/hello": "exec sleep 600",
            "app/releases/0.1.0/any": "",
        },
        settings=IMAGE,
    )

    def workers():
        return {"sleep 601", "sleep 602"} & set(replica.commands().values())

    until(lambda: len(workers()) == 2, lambda: f"they run: {replica.log}")
    os.kill(replica.agent_pid, signal.SIGKILL)
    until(lambda: not workers(), "they are gone")
    replica.until_ready()
    assert replica.agent() is not None


def test_a_limit_of_processes_cannot_end_the_release(boot):
    """Without a process to spare no agent can be started, until there is one again."""
    with cgroup.group("pids") as folder:
        replica = boot("sleep", "600", wrapper=cgroup.entered(folder)).until_ready()
        agent = replica.agent_pid
        (folder / "pids.max").write_text("2")  # as many as will be left
        with suppress(ProcessLookupError):  # where it wanted a thread, it has ended by itself
            os.kill(agent, signal.SIGKILL)
        replica.until_said("cannot start the agent (Resource temporarily unavailable)")
        assert replica.get("/livez").status == 200
        assert replica.is_ready()
        (folder / "pids.max").write_text("max")
        assert until_back(replica, agent)["ready"]
        assert len(replica.events("release started")) == 1
        assert replica.term().wait() == 143


def test_at_a_limit_of_processes_its_own_end_is_named_and_the_release_serves_on(boot):
    """As many as it takes to start all three, and none for a thread of the agent."""
    with cgroup.group("pids") as folder:
        (folder / "pids.max").write_text("3")
        replica = boot("sleep", "600", wrapper=cgroup.entered(folder)).until_ready()
        said = replica.until_said("cannot start a thread")
        assert said["message"].endswith("raise the container's limit of processes or memory")
        assert said["severity"] == "ERROR"
        replica.until_said("agent ended with exit code 71; starting it again in")
        assert (replica.get("/livez").status, replica.is_ready()) == (200, True)
        (folder / "pids.max").write_text("max")
        assert until_back(replica, None)["ready"]
        assert len(replica.events("release started")) == 1
        assert replica.events("a bug in run-agent") == []


def test_one_that_hangs_is_killed_and_another_one_takes_over(boot):
    replica = boot("sleep", "600").until_ready()
    release, hung = replica.release_pid, replica.agent_pid
    os.kill(hung, signal.SIGSTOP)
    replica.until_said("the agent was silent for 45 s: killing it", SILENCE_PATIENCE_SECONDS)
    until(lambda: replica.agent() not in {None, hung}, "no other agent came")
    assert (replica.release_pid, replica.is_ready()) == (release, True)
    assert replica.verb("status").returncode == 0
