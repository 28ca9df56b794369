"""The worker and whoever may kill it, or its agent, at any moment."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from run_agent.errors import RunAgentError, UnavailableError
from run_agent.slug import messages, staging
from run_agent.slug.fetch import ARGV, start
from support import tarballs
from support.fetching import SECONDS, Volume, quick_folder
from support.http_server import Answer, HttpServer
from support.need import need
from support.replica import AS_NOBODY
from support.wait import PATIENCE_SECONDS, until

PATH = "/slug.tar.gz"
CONTENT = tarballs.release(3 << 20)
HALF = Answer(stall_after=len(CONTENT) // 2)


@pytest.fixture(name="server")
def a_server():
    with HttpServer() as server:
        server.put(PATH, CONTENT, etag='"1"')
        yield server


@pytest.fixture(name="volume")
def a_volume():
    with quick_folder() as folder:
        yield Volume(folder)


@pytest.fixture
def worker(server, volume):
    """Start a worker and leave it in the middle of a fetch that does not go on."""
    server.plan(PATH, HALF)
    child = subprocess.Popen(ARGV, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    child.stdin.write(messages.request_line(volume.request(server.url(PATH)), SECONDS))
    child.stdin.flush()
    until(lambda: in_the_middle(volume), "something was unpacked")
    yield child
    child.kill()
    with child:
        pass


def in_the_middle(volume):
    return any(volume.deploys.glob(f"{staging.FETCHING}*/lib/*/*/*"))


def end(child):
    child.wait(PATIENCE_SECONDS)
    return child.returncode


def test_the_end_of_its_stdin_ends_it(volume, worker):
    worker.stdin.close()
    assert end(worker) == 128 + signal.SIGTERM
    assert not volume.left()


def test_term_ends_it(volume, worker):
    worker.terminate()
    assert end(worker) == 128 + signal.SIGTERM
    assert not volume.left()


def test_an_agent_that_does_not_listen_any_more_ends_it(server, volume):
    server.put(PATH, CONTENT, usual=Answer(slowly=True))
    child = subprocess.Popen(ARGV, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    child.stdout.close()
    child.stdin.write(messages.request_line(volume.request(server.url(PATH)), SECONDS))
    child.stdin.flush()
    assert end(child) == 128 + signal.SIGTERM
    child.stdin.close()
    assert not volume.left()


def test_what_a_killed_one_left_is_removed_by_the_next(server, volume, worker):
    worker.kill()
    end(worker)
    assert volume.left()
    assert volume.trees.last_good() is None
    slug = volume.fetch(server.url(PATH))
    assert volume.trees.find(slug.digest)
    assert not volume.left()


def test_another_waits_until_it_is_gone(server, volume, worker):
    async def meanwhile():
        async with start(volume.environ) as fetcher:
            second = asyncio.create_task(
                fetcher.fetch(volume.request(server.url(PATH)), volume.reports.append, SECONDS)
            )
            waiting = psutil.Process(fetcher._worker.pid)
            await until_true(lambda: asks_for_lock(waiting, volume))
            assert len(server.requests) == 1
            worker.kill()
            slug = await second
            await fetcher.finished()
            return slug

    assert asyncio.run(meanwhile()).packed_bytes == len(CONTENT)
    assert not volume.left()


async def until_true(condition):
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not condition():  # noqa: ASYNC110 - it is about another process
            await asyncio.sleep(0.01)


def asks_for_lock(process, volume):
    inode = str((volume.deploys / staging.LOCK).stat().st_ino)
    return any(
        "->" in line and f" {process.pid} " in line and inode in line
        for line in Path("/proc/locks").read_text().splitlines()
    )


def test_one_that_waits_for_another_gives_up_at_its_deadline(server, volume, worker):
    with pytest.raises(UnavailableError, match=r"within 1 s .nothing had come"):
        volume.fetch(server.url(PATH), seconds=1)
    assert in_the_middle(volume)


AGENT = """
import asyncio, sys
from pathlib import Path
from run_agent.slug.fetch import Request, start

async def main():
    async with start({}) as fetcher:
        print(fetcher._worker.pid, flush=True)
        request = Request(sys.argv[1], Path(sys.argv[2]), "v41", 1000, 1 << 30)
        await fetcher.fetch(request, lambda progress: None, 60)

asyncio.run(main())
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_no_worker_outlives_its_agent(server, volume, number):
    server.plan(PATH, HALF)
    argv = [sys.executable, "-c", AGENT, server.url(PATH), volume.deploys]
    with subprocess.Popen(argv, stdout=subprocess.PIPE) as agent:
        worker = psutil.Process(int(agent.stdout.readline()))
        until(lambda: in_the_middle(volume), "something was unpacked")
        agent.send_signal(number)
    _, alive = psutil.wait_procs([worker], PATIENCE_SECONDS)
    assert not alive
    assert not volume.left()
    assert volume.fetch(server.url(PATH)).packed_bytes == len(CONTENT)


def test_agent_and_worker_killed_together(server, volume):
    server.plan(PATH, HALF)
    argv = [sys.executable, "-c", AGENT, server.url(PATH), volume.deploys]
    with subprocess.Popen(argv, stdout=subprocess.PIPE) as agent:
        worker = psutil.Process(int(agent.stdout.readline()))
        until(lambda: in_the_middle(volume), "something was unpacked")
        worker.kill()
        agent.kill()
    psutil.wait_procs([worker], PATIENCE_SECONDS)
    assert volume.left()
    assert volume.fetch(server.url(PATH)).packed_bytes == len(CONTENT)
    assert not volume.left()


def test_a_worker_that_dies_is_reported(server, volume):
    server.plan(PATH, HALF)

    async def fetch():
        async with start(volume.environ) as fetcher:
            asking = asyncio.create_task(
                fetcher.fetch(volume.request(server.url(PATH)), volume.reports.append, SECONDS)
            )
            await until_true(lambda: in_the_middle(volume))
            os.kill(fetcher._worker.pid, signal.SIGKILL)
            await asking

    with pytest.raises(RunAgentError, match="cannot fetch slug v41: the worker ended with 137"):
        asyncio.run(fetch())


def test_a_fetch_that_is_cancelled_ends_its_worker(server, volume):
    server.plan(PATH, HALF)

    async def fetch():
        async with start(volume.environ) as fetcher:
            worker = psutil.Process(fetcher._worker.pid)
            asking = asyncio.create_task(
                fetcher.fetch(volume.request(server.url(PATH)), volume.reports.append, SECONDS)
            )
            await until_true(lambda: in_the_middle(volume))
            asking.cancel()
            with suppress(asyncio.CancelledError):
                await asking
        return worker

    worker = asyncio.run(fetch())
    assert not worker.is_running()
    assert not volume.left()


def test_a_worker_that_is_not_asked_ends_with_the_block(volume):
    async def nothing():
        async with start(volume.environ) as fetcher:
            return psutil.Process(fetcher._worker.pid)

    assert not asyncio.run(nothing()).is_running()
    assert not volume.root.joinpath("var").exists()


def test_a_loop_that_ends_takes_the_worker_with_it(server, volume):
    async def fetch():
        async with start(volume.environ) as fetcher:
            await fetcher.fetch(volume.request(server.url(PATH)), volume.reports.append, SECONDS)
            return psutil.Process(fetcher._worker.pid)

    assert not asyncio.run(fetch()).is_running()


def test_it_is_the_first_to_go_when_memory_is_short(worker):
    own, workers = (
        int(Path(f"/proc/{pid}/oom_score_adj").read_text()) for pid in (os.getpid(), worker.pid)
    )
    assert workers == min(own + 500, 1000)


def test_the_url_is_nowhere_to_be_seen(server, volume, worker):
    for name in ("cmdline", "environ"):
        assert b"slug.tar.gz" not in Path(f"/proc/{worker.pid}/{name}").read_bytes()


def test_the_app_s_python_variables_do_not_reach_it(server, tmp_path):
    (tmp_path / "run_agent.py").write_text("raise SystemExit('wrong module')")
    environ = {**os.environ, "PYTHONPATH": str(tmp_path), "PYTHONHOME": "/nonexistent"}
    volume = Volume(tmp_path, environ=environ)
    assert volume.fetch(server.url(PATH)).packed_bytes == len(CONTENT)


def test_names_that_are_not_utf_8_survive_any_locale(server, tmp_path):
    name = b"caf\xe9-\xff".decode("utf-8", "surrogateescape")
    server.put(
        PATH,
        tarballs.slug(
            [tarballs.file(name), tarballs.file("gr\N{LATIN SMALL LETTER U WITH DIAERESIS}n")]
        ),
    )
    volume = Volume(tmp_path, environ={"LC_ALL": "POSIX"})
    tree = volume.fetch(server.url(PATH)).path
    assert sorted(os.fsencode(path.name) for path in tree.iterdir()) == [
        b"caf\xe9-\xff",
        b"gr\xc3\xbcn",
    ]


SCRIPT = """
import asyncio, json, os, sys
from support.fetching import Volume
from pathlib import Path
volume = Volume(Path(sys.argv[2]))
slug = volume.fetch(sys.argv[1])
closed = (slug.path / "closed").stat().st_mode & 0o7777
volume.trees.mark_good(slug.digest, __import__("run_agent.model").model.Deploy("u", "a"), 1.0)
print(json.dumps([oct(closed), volume.trees.prune(set())]))
volume.deploys.joinpath(f"{slug.digest}.good.json").unlink()
print(json.dumps([volume.trees.prune(set()), sorted(volume.left())]))
"""


def test_read_only_folders_come_and_go_without_root_s_rights(server):
    need(os.geteuid() == 0, "only root can become somebody else")
    server.put(
        PATH,
        tarballs.slug(
            [
                tarballs.folder("closed", mode=0o555),
                tarballs.folder("closed/inner", mode=0o500),
                tarballs.file("closed/inner/file", mode=0o400),
                tarballs.folder("none", mode=0),
            ]
        ),
    )
    tests = str(Path(__file__).parents[1])
    with quick_folder() as root:  # pytest's own are root's alone: another run closes them again
        os.chown(root, 65534, 65534)
        done = subprocess.run(
            [*AS_NOBODY, sys.executable, "-c", SCRIPT, server.url(PATH), root],
            env={"PYTHONPATH": tests, "NO_PROXY": "*"},
            capture_output=True,
            check=False,
        )
    assert done.returncode == 0, done.stderr.decode()
    first, second = map(json.loads, done.stdout.splitlines())
    assert first == ["0o555", []]
    assert len(second[0]) == 1
    assert second[1] == []
