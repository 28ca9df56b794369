"""Turns at the release's start script, between processes."""

import asyncio
import os
import subprocess
import sys
import time

import pytest

from run_agent import turns
from run_agent.errors import RunAgentError
from run_agent.model import Secret
from run_agent.node import Node
from support.wait import PATIENCE_SECONDS

BECOMES_CAT = """
import os, sys
from pathlib import Path
from run_agent import turns

turns.take_for_good(Path(sys.argv[1]), "hello ping", float(sys.argv[2]))
print("taken", flush=True)
os.execvp("cat", ["cat"])
"""


def other(run, deadline=PATIENCE_SECONDS):
    return subprocess.Popen(
        (sys.executable, "-c", BECOMES_CAT, run, str(deadline)),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


async def take(run, deadline=PATIENCE_SECONDS):
    async with turns.take(run, "hello upgrade", deadline):
        return time.monotonic()


def test_the_turn_lasts_as_long_as_the_program_that_a_process_becomes(tmp_path):
    with other(tmp_path) as holder:
        assert holder.stdout.readline() == "taken\n"
        with pytest.raises(RunAgentError, match=r"cannot run hello upgrade.*0\.2 s") as caught:
            asyncio.run(take(tmp_path, 0.2))
        assert caught.value.exit_code == os.EX_TEMPFAIL
        assert str(tmp_path / "release_script.lock") in str(caught.value)
        holder.kill()
    asyncio.run(take(tmp_path))


def test_one_waits_until_the_other_has_ended(tmp_path):
    async def in_turn():
        async with turns.take(tmp_path, "hello ping"):
            waiting = asyncio.create_task(take(tmp_path))
            await asyncio.sleep(3 * turns.POLL_SECONDS)  # others go on meanwhile
            assert not waiting.done()
            ended = time.monotonic()
        assert await waiting >= ended

    asyncio.run(in_turn())


def test_a_process_waits_its_time_for_the_agent(tmp_path):
    async def hold():
        async with turns.take(tmp_path, "hello upgrade"):
            with other(tmp_path, 0.2) as waiting:
                return await asyncio.to_thread(waiting.communicate)

    out, err = asyncio.run(hold())
    assert out == ""
    assert "cannot run hello ping: another call of this script" in err


def test_who_gives_up_waiting_keeps_nothing(tmp_path):
    async def cancelled():
        async with turns.take(tmp_path, "hello ping"):
            waiting = asyncio.create_task(take(tmp_path))
            await asyncio.sleep(0)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
        await take(tmp_path, 0)

    asyncio.run(cancelled())


def test_a_run_folder_that_is_not_there_is_an_error(tmp_path):
    with pytest.raises(RunAgentError, match=r"cannot write .*mount a tmpfs") as caught:
        asyncio.run(take(tmp_path / "missing"))
    assert caught.value.exit_code == os.EX_IOERR


def test_a_node_that_is_asked_by_its_script_is_asked_in_turn(tmp_path):
    argv = ("sh", "-c", "echo '<<<ok,'MQ=='>>>'")
    node = Node("hello@127.0.0.1", Secret("c00kie"), {}, tmp_path, by_tool=lambda _: argv)

    async def ask_beside_another_call():
        async with turns.take(tmp_path, "hello upgrade"):
            await node.evaluate("1", deadline=0.2)

    assert asyncio.run(node.evaluate("1")) == "1"
    with pytest.raises(RunAgentError, match=r"for the node hello@127\.0\.0\.1: another") as caught:
        asyncio.run(ask_beside_another_call())
    assert caught.value.exit_code == os.EX_TEMPFAIL
