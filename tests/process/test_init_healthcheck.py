"""The image's HEALTHCHECK, asked of a real replica."""

import subprocess
import sys

import pytest

from entrypoint.init import healthcheck
from run_agent.settings import Settings
from support.wait import until

ARGV = [sys.executable, "-I", "-m", "entrypoint.init.healthcheck"]


def ask(**environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ARGV, env=environ, capture_output=True, text=True, timeout=20, check=False
    )


def test_a_replica_is_alive_whether_ready_or_not(start):
    replica = start("sleep", "600").until_ready()
    port = replica.environ["HEALTH_PORT"]
    assert ask(HEALTH_PORT=port).returncode == 0
    assert replica.verb("drain").returncode == 0
    until(lambda: replica.get("/readyz").status == 503, "it drains")
    assert ask(HEALTH_PORT=port).returncode == 0


def test_it_is_alive_while_it_boots(start):
    replica = start(verb=("bootstrap", "hello", "http://127.0.0.1:1/slug.tar.gz"))
    until(lambda: ask(HEALTH_PORT=replica.environ["HEALTH_PORT"]).returncode == 0, "alive")


def test_where_nobody_answers_it_says_so(ports):
    port = str(ports.free())
    asked = ask(HEALTH_PORT=port)
    assert asked.returncode == 1
    assert asked.stderr.startswith(f"cannot reach /livez on port {port}: ")


@pytest.mark.parametrize("port", ["x", "99999"])
def test_a_port_that_is_none_is_unhealthy(port):
    assert ask(HEALTH_PORT=port).returncode == 1


def test_without_probes_there_is_nothing_to_ask():
    assert ask(HEALTH_PORT="none").returncode == 0


def test_its_default_is_that_of_the_settings():
    default = Settings.__dataclass_fields__["health_port"].metadata["default"]
    assert default == healthcheck.DEFAULT_PORT
