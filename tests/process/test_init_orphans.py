"""PID 1's oldest duty: whatever loses its parent is reaped, and costs nobody anything."""

import signal
import sys
import time

from support.replica import state_and_parent
from support.wait import until

PYTHON = (sys.executable, "-I", "-S")

ORPHANS = 10_000
WITHIN_SECONDS = 60

FORKS = f"""
import os, signal
signal.signal(signal.SIGUSR1, lambda *_: os._exit(7))
for _ in range({ORPHANS} // 50):
    if (child := os.fork()) == 0:
        for _ in range(50):
            if os.fork() == 0:
                os._exit(0)
        os._exit(0)
    os.waitpid(child, 0)
print("done", flush=True)
while True: signal.pause()
"""
"""Leaves so many orphans, stays, and ends with 7 when it gets USR1."""


def test_ten_thousand_orphans_in_a_minute_leave_no_zombie_and_lose_no_exit_code(boot):
    began = time.monotonic()
    replica = boot(*PYTHON, "-c", FORKS)
    while "done" not in replica.stdout:
        assert replica.process.poll() is None
        if replica.events("release started"):
            assert replica.get("/livez").status == 200
        assert time.monotonic() - began < WITHIN_SECONDS
    until(lambda: not replica.zombies(), "zombies are left")
    replica.signal(signal.SIGUSR1)
    assert replica.wait() == 7
    assert replica.alive() == []


def test_an_orphan_that_runs_on_is_let_alone_until_the_stop(boot):
    programs = {"release": "(setsid sleep 601 &) ; (sleep 602 &) ; echo up; exec sleep 600"}
    replica = boot("./release", programs=programs)
    replica.until_printed("up")

    def adopted():
        ours = replica.commands().items()
        return {command for pid, command in ours if state_and_parent(pid) == ("S", replica.pid)}

    until(lambda: adopted() >= {"sleep 600", "sleep 601", "sleep 602"}, "they are adopted")
    assert replica.term().wait() == 143
    assert replica.alive() == []
