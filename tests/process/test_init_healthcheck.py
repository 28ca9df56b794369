"""The image's HEALTHCHECK, asked of a real replica: wherever PID 1 answers, if it does."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from entrypoint.init.run_folder import HEALTH_PORT
from support import small_slugs
from support.wait import until

ARGV = [sys.executable, "-I", "-m", "entrypoint.init.healthcheck"]


def ask(**environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ARGV, env=environ, capture_output=True, text=True, timeout=20, check=False
    )


def ask_of(replica) -> subprocess.CompletedProcess[str]:
    return ask(**replica.environ)


@pytest.fixture
def noted(tmp_path):
    """Say that PID 1 answers there; return the environment of that run."""

    def noted(port: str) -> dict[str, str]:
        run = tmp_path / "run" / "run-agent"
        run.mkdir(parents=True)
        (run / HEALTH_PORT).write_text(port)
        return {"RUN_AGENT_ROOT": str(tmp_path)}

    return noted


def test_a_replica_is_alive_whether_ready_or_not(start):
    replica = start("sleep", "600").until_ready()
    assert ask_of(replica).returncode == 0
    assert replica.verb("drain").returncode == 0
    until(lambda: replica.get("/readyz").status == 503, "it drains")
    assert ask_of(replica).returncode == 0


def test_it_is_alive_while_it_boots(start):
    replica = start(verb=("bootstrap", "hello", "http://127.0.0.1:1/slug.tar.gz"))
    until(lambda: ask_of(replica).returncode == 0, "alive")


def test_where_a_replica_answers_is_its_own_word(start, ports):
    replica = start("sleep", "600").until_ready()
    other = replica.environ | {"HEALTH_PORT": str(ports.free())}
    assert ask(**other).returncode == 0


@pytest.mark.parametrize("port", ["", None], ids=["without probes", "with probes"])
def test_a_job_is_not_unhealthy(platform, port):
    """It has no probes unless HEALTH_PORT is set."""
    platform.deploy(small_slugs.running("exit 1"))
    job = platform.boot(
        "bash", "-c", "echo up; exec sleep 600", verb=("job", "--app", "hello", "--"),
        settings={} if port is None else {"HEALTH_PORT": port},
    )  # fmt: skip
    job.until_printed("up")
    asked = ask_of(job)
    assert asked.returncode == 0, asked.stderr
    noted = (job.root / "run" / "run-agent" / HEALTH_PORT).read_text()
    assert noted == (job.environ["HEALTH_PORT"] or "none")


def test_before_anything_runs_it_is_unhealthy(tmp_path):
    asked = ask(RUN_AGENT_ROOT=str(tmp_path))
    assert asked.returncode == 1
    path = tmp_path / "run" / "run-agent" / HEALTH_PORT
    assert asked.stderr.startswith(f"cannot read {path} (No such file or directory): ")


def test_what_an_earlier_run_said_does_not_count(start, noted):
    environ = noted("none")
    with socket.create_server(("", 0)) as taken:
        port = str(taken.getsockname()[1])
        root = Path(environ["RUN_AGENT_ROOT"])
        replica = start("sleep", "600", root=root, settings={"HEALTH_PORT": port})
        assert replica.wait() == os.EX_CONFIG
    assert ask(**environ).returncode == 1


def test_a_replica_that_cannot_say_where_it_answers_does_not_start(start, noted):
    root = Path(noted("none")["RUN_AGENT_ROOT"])
    path = root / "run" / "run-agent" / HEALTH_PORT
    path.unlink()
    path.mkdir()
    replica = start("sleep", "600", root=root)
    assert replica.wait() == os.EX_OSERR
    assert replica.events(f"cannot write {path} (Is a directory): ")


def test_where_nobody_answers_it_says_so(noted, ports):
    port = str(ports.free())
    asked = ask(**noted(port))
    assert asked.returncode == 1
    assert asked.stderr.startswith(f"cannot reach /livez on port {port}: ")


@pytest.mark.parametrize("port", ["x", "99999", ""])
def test_a_port_that_is_none_is_unhealthy(noted, port):
    asked = ask(**noted(port))
    assert asked.returncode == 1
    assert asked.stderr.startswith(f"cannot reach /livez on port {port}: ")


def test_without_probes_there_is_nothing_to_ask(noted):
    assert ask(**noted("none")).returncode == 0
