"""The control socket: who may ask, from where, and what no client can do to the others."""

import json
import os
import socket
import stat
import subprocess
import sys
from contextlib import suppress

import pytest

from support.need import need
from support.ports import Ports
from support.replica import AS_NOBODY, Replica, run_agent
from support.wait import until

MANY = 200
ANSWER_SECONDS = 20.0

ASK = """
import socket, sys
connection = socket.socket(socket.AF_UNIX)
connection.settimeout(20)
connection.connect(sys.argv[1])
connection.sendall(b'{"verb": "status"}\\n')
print(connection.makefile().readline())
"""


@pytest.fixture
def replica(start):
    return start("sleep", "600").until_ready()


def control_of(replica):
    return replica.root / "run/run-agent/control.sock"


def connect(replica):
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(ANSWER_SECONDS)
    folder = os.open(control_of(replica).parent, os.O_PATH)
    try:
        connection.connect(f"/proc/self/fd/{folder}/control.sock")
    finally:
        os.close(folder)
    return connection


def ask(replica, line):
    """Send one raw line, return the answer."""
    with connect(replica) as connection, connection.makefile("rwb") as stream:
        stream.write(line)
        stream.flush()
        return json.loads(stream.readline())


STATUS = b'{"verb": "status"}\n'


def test_it_is_for_its_owner_only(boot):
    control = control_of(boot("sleep", "600").until_ready())
    assert stat.S_IMODE(control.stat().st_mode) == 0o600
    assert stat.S_IMODE(control.parent.stat().st_mode) == 0o700


def test_another_user_is_refused_even_where_the_folder_lets_him_in(replica):
    need(os.geteuid() == 0, "root, to be somebody else")
    control = control_of(replica)
    control.chmod(0o666)
    control.parent.chmod(0o711)
    asked = subprocess.run(
        [*AS_NOBODY, sys.executable, "-I", "-c", ASK, control.name],
        capture_output=True, cwd=control.parent, timeout=ANSWER_SECONDS, check=False,
    )  # fmt: skip
    assert asked.returncode == 0, asked.stderr
    answer = json.loads(asked.stdout)
    assert answer["exit"] == os.EX_NOPERM
    assert answer["error"].startswith("cannot do this for another user")
    assert replica.events("refused a request on the control socket from uid 65534")
    assert ask(replica, STATUS)["exit"] == 0


@pytest.mark.parametrize(
    "line",
    [
        b"\n", b"garbage\n", b"\xff\xfe\x00\n", b"[]\n", b"5\n", b"null\n", b'"status"\n', b"{}\n",
        b'{"verb": "no such"}\n', b'{"verb": []}\n', b'{"verb": {}}\n', b'{"verb": null}\n',
        b'{"verb": "status", "arguments": 5}\n', b'{"verb": "status", "arguments": [1]}\n',
        b"[" * 100_000 + b"\n", b"x" * (2 << 20) + b"\n", b'{"verb": "sta',
    ],
    ids=lambda line: line[:20].decode(errors="replace").strip(),
)  # fmt: skip
def test_what_is_no_request_is_refused_and_harms_nothing(shared, line):
    agent = shared.agent_pid
    with connect(shared) as connection:
        with suppress(BrokenPipeError, ConnectionResetError):
            connection.sendall(line)
            connection.shutdown(socket.SHUT_WR)
        with suppress(ConnectionResetError), connection.makefile("rb") as answers:
            answer = json.loads(answers.readline())
            assert answer["exit"] == os.EX_USAGE
            assert answer["error"].startswith("cannot understand the request")
    assert ask(shared, STATUS)["exit"] == 0
    assert shared.agent_pid == agent
    assert "Traceback" not in shared.log


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    ports = Ports()
    replica = Replica(tmp_path_factory.mktemp("root"), ["exec", "sleep", "600"], ports=ports)
    try:
        yield replica.until_ready()
    finally:
        replica.end()
        ports.close()


def test_silent_clients_by_the_hundred_keep_nobody_waiting(replica):
    silent = [connect(replica) for _ in range(MANY)]
    try:
        for connection in silent[::2]:
            connection.send(b'{"verb": ')
        assert ask(replica, STATUS)["exit"] == 0
        assert replica.get("/livez").status == 200
        for connection in silent:
            answer = json.loads(connection.makefile().readline())
            assert answer["exit"] == os.EX_TEMPFAIL
            assert answer["error"].startswith("cannot wait longer for the request")
    finally:
        for connection in silent:
            connection.close()
    assert ask(replica, STATUS)["exit"] == 0


def test_a_client_that_leaves_before_the_answer_harms_nothing(replica):
    for _ in range(MANY):
        with connect(replica) as connection:
            connection.send(STATUS)
    assert ask(replica, STATUS)["exit"] == 0
    assert "Traceback" not in replica.log


def test_its_path_may_be_longer_than_a_sockets(boot, tmp_path):
    root = tmp_path / ("long-" * 20) / ("longer-" * 20)
    replica = boot("sleep", "600", root=root).until_ready()
    assert len(str(control_of(replica))) > 108
    assert replica.verb("status").returncode == 0
    assert replica.verb("drain").returncode == 0
    until(lambda: not replica.is_ready(), "it drains")


def test_where_nothing_runs_a_verb_says_so(replica):
    assert replica.verb("status").returncode == 0
    replica.term().wait()
    for environ in (replica.environ, replica.environ | {"RUN_AGENT_ROOT": "/no/such/root"}):
        asked = run_agent("status", environ=environ)
        assert asked.returncode == os.EX_UNAVAILABLE
        assert asked.stdout == ""
        assert asked.stderr.startswith("run-agent: cannot reach the replica at ")
        assert "start it with `run-agent init APP`" in asked.stderr
