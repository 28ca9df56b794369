"""What runs beside the release may be killed: the release does not notice, nor do the probes."""

import os
import signal
import threading
from contextlib import contextmanager

from support import load
from support.ssh_replica import daemon, ssh
from support.wait import until

KILLS = 2
PER_SECOND = 100.0
PROBE_EVERY_SECONDS = 0.01


@contextmanager
def unnoticed(replica):
    """Fail where meanwhile a request or a probe fails, or the release is another one."""
    release, done, bad = replica.release_pid, threading.Event(), []

    def probe():
        while not done.wait(PROBE_EVERY_SECONDS):
            try:
                bad.extend(
                    path for path in ("/readyz", "/livez") if replica.get(path).status != 200
                )
            except OSError as error:
                bad.append(str(error))

    prober = threading.Thread(target=probe)
    prober.start()
    try:
        with load.Http(int(replica.environ["PORT"]), PER_SECOND) as http:
            yield
    finally:
        done.set()
        prober.join()
    assert (http.report.failed, bad) == ({}, [])
    assert replica.release_pid == release
    assert len(replica.events("release started")) == 1


def test_a_killed_agent_comes_again(host):
    replica, key = host.boot_open()
    for _ in range(KILLS):
        agent = replica.agent_pid
        with unnoticed(replica):
            os.kill(agent, signal.SIGKILL)
            until(lambda a=agent: replica.agent() not in {None, a}, "another agent")
            assert replica.verb("status").returncode == 0
    assert ssh(replica, key, "--", "echo in").stdout == b"in\n"
    assert replica.term().wait() == 0


def test_a_killed_ssh_daemon_comes_again(host):
    replica, key = host.boot_open()
    agent = replica.agent_pid
    with unnoticed(replica):
        os.kill(daemon(replica), signal.SIGKILL)
        until(
            lambda: ssh(replica, key, "--", "echo again").stdout == b"again\n",
            lambda: f"nobody can log in: {replica.log}",
        )
    assert replica.agent() == agent
