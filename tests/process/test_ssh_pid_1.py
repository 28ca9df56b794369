"""PID 1's part in SSH: the sockets, the daemon's start and its end, and what outlives what."""

import os
import shutil
import signal
import socket
import subprocess
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from support.need import need
from support.replica import descriptors
from support.ssh import client_environ
from support.ssh_replica import argv, daemon, key_and_settings, ssh, until_open
from support.wait import PATIENCE_SECONDS, holds, until


@pytest.fixture
def opened(boot, tmp_path, ports):
    """Start something that runs, into which the key may log in."""
    key, settings = key_and_settings(tmp_path, ports)
    replica = boot("sleep", "1000", settings=settings)
    return until_open(replica, key), key


@pytest.fixture
def console(opened):
    """Hold a session in which `cat` answers what it is told."""
    replica, key = opened
    with subprocess.Popen(
        argv(replica, key, "--", "echo $$; exec cat"), stdin=subprocess.PIPE,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=client_environ(),
    ) as client:  # fmt: skip
        client.pid_of_cat = int(client.stdout.readline())
        assert say(client, b"are you cat?") == b"are you cat?"  # no longer about to become it
        yield client
        client.kill()


def say(client: subprocess.Popen, words: bytes) -> bytes:
    client.stdin.write(words + b"\n")
    client.stdin.flush()
    return client.stdout.readline().rstrip()


def test_no_port_is_open_where_nobody_tells_who_may_log_in(start, ports):
    port = ports.free()
    replica = start("sleep", "1000", settings={"SSH_PORT": str(port)}).until_ready()
    assert len(replica.events("SSH is off: nobody tells whose keys may log in")) == 1
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", port)) != 0


def test_a_port_in_use_is_named(start, tmp_path, ports):
    _, settings = key_and_settings(tmp_path, ports)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        settings["SSH_PORT"] = str(taken.getsockname()[1])
        replica = start("sleep", "1000", settings=settings)
        assert replica.wait() == os.EX_CONFIG
    assert f"cannot listen on port {settings['SSH_PORT']} for SSH" in replica.log
    assert "SSH_PORT" in replica.log.rpartition("free it")[2]


def test_it_listens_on_ipv4_and_ipv6(opened):
    replica, key = opened
    assert len(replica.events(f"SSH listens on port {replica.environ['SSH_PORT']}")) == 1
    for address in ("127.0.0.1", "::1"):
        assert ssh(replica, key, "--", "echo $SSH_CLIENT", address=address).stdout.startswith(
            f"{address} ".encode()
        )


def test_no_daemon_runs_until_somebody_speaks(start, tmp_path, ports):
    key, settings = key_and_settings(tmp_path, ports)
    replica = start("sleep", "1000", settings=settings).until_ready()
    for _ in range(20):
        socket.create_connection(("127.0.0.1", int(settings["SSH_PORT"]))).close()
    assert replica.verb("status").returncode == 0
    assert daemon(replica) is None
    until_open(replica, key)
    assert daemon(replica)


def test_the_daemon_goes_when_nobody_is_there_and_comes_again(start, tmp_path, ports):
    key, settings = key_and_settings(tmp_path, ports)
    replica = start("sleep", "1000", settings=settings | {"SSH_IDLE_SECONDS": "1"})
    first = ssh(until_open(replica, key), key, "--", "echo $PPID").stdout
    until(lambda: daemon(replica) is None, lambda: f"the daemon stays: {replica.log}")
    again = ssh(replica, key, "--", "echo $PPID").stdout
    assert int(first) != int(again)
    assert not replica.events("SSH daemon ended")


def test_a_killed_daemon_costs_its_sessions_and_nothing_else(opened):
    replica, key = opened
    before = replica.release_pid, replica.agent_pid
    left = replica.root / "left.pid"
    command = f"setsid bash -c 'echo $$ > {left}; exec sleep 1000' & cat"
    with subprocess.Popen(
        argv(replica, key, "--", command), stdin=subprocess.PIPE, stderr=subprocess.PIPE,
        env=client_environ(),
    ) as client:  # fmt: skip
        until(lambda: left.exists() and left.read_text(), "the session's program")
        os.kill(daemon(replica), signal.SIGKILL)
        client.wait(PATIENCE_SECONDS)
    # on a loaded machine one may come before PID 1 has noticed, and is turned away
    until(lambda: ssh(replica, key, "--", "echo again").stdout == b"again\n", lambda: replica.log)
    assert before == (replica.release_pid, replica.agent_pid)
    until(lambda: _running(replica, "sleep 1000") == [before[0]], "the session's end")
    assert replica.until_said("the SSH daemon ended with exit code 137")


def test_a_session_outlives_the_agent(opened, console):
    replica, key = opened
    agent, served_by = replica.agent_pid, daemon(replica)
    os.kill(agent, signal.SIGKILL)
    until(lambda: replica.agent() not in {None, agent}, "another agent")
    assert say(console, b"still here?") == b"still here?"
    assert ssh(replica, key, "--", "echo in").stdout == b"in\n"
    assert daemon(replica) == served_by


def test_a_login_waits_while_no_agent_runs(opened):
    replica, key = opened
    os.kill(replica.agent_pid, signal.SIGKILL)
    assert ssh(replica, key, "--", "echo in").stdout == b"in\n"


def test_a_stop_ends_the_sessions(opened, console):
    replica, _ = opened
    assert say(console, b"hello") == b"hello"
    assert replica.term().wait() == 143
    assert console.wait(PATIENCE_SECONDS) != 0
    assert not replica.alive()


def test_the_kernel_takes_sessions_before_the_release(opened, console):
    replica, _ = opened
    scores = {"daemon": daemon(replica), "session": replica.outside(console.pid_of_cat)}
    scores = {name: _oom_score(pid) for name, pid in scores.items()}
    above = _oom_score(replica.release_pid) + 500
    assert scores == {"daemon": above, "session": above}


def test_the_daemon_knows_no_socket_but_its_own(opened, console):
    replica, _ = opened
    links = descriptors(daemon(replica)).values()
    listeners = {f"socket:[{inode}]" for inode in _listening(int(replica.environ["SSH_PORT"]))}
    assert listeners
    assert not listeners & set(links)


def test_a_session_inherits_nothing_of_the_daemons(opened):
    replica, key = opened
    listed = ssh(replica, key, "--", "ls -l /proc/self/fd").stdout.decode()
    held = {line.split(" -> ")[0].split()[-1] for line in listed.splitlines() if " -> " in line}
    assert held == {"0", "1", "2", "3"}, listed  # the last one is that of the listing itself


def test_what_is_restarted_inherits_nothing_of_the_agents(start, tmp_path, ports):
    """The release is PID 1's child, but helpers of the agent are not to hold its sockets."""
    key, settings = key_and_settings(tmp_path, ports)
    replica = until_open(start("sleep", "1000", settings=settings), key)
    for pid in (replica.agent_pid, daemon(replica)):
        sockets = [name for name, what in descriptors(pid).items() if "socket:" in what]
        flags = [flag for name in sockets if (flag := _flags(pid, name)) is not None]
        assert flags
        assert all(flag & os.O_CLOEXEC for flag in flags)


def test_a_daemon_that_dies_young_is_not_started_for_ever(start, tmp_path, ports):
    key, settings = key_and_settings(tmp_path, ports)
    (tmp_path / "broken").write_text("no key at all")
    replica = start("sleep", "1000", settings=settings | {"SSH_HOST_KEY": str(tmp_path / "broken")})
    replica.until_ready()
    clients = []

    def has_ended():
        clients.append(ssh(replica, key, "--", "true"))
        return replica.events("SSH daemon ended")

    until(has_ended, "its end")
    # whoever waited meanwhile may have it started once more, but nobody else does
    holds(lambda: len(replica.events("SSH daemon ended")) <= len(clients), "started by itself", 3)
    until(lambda: daemon(replica) is None, "no daemon")
    assert replica.verb("status").returncode == 0
    assert "SSH_HOST_KEY" in replica.log


def test_an_epmd_outlives_the_session_and_the_daemon_that_it_came_from(opened, ports):
    replica, key = opened
    need(shutil.which("epmd"), "Erlang")
    epmd = f"{shutil.which('epmd')} -port {ports.free()}"
    try:
        assert ssh(replica, key, "--", f"{epmd} -daemon").returncode == 0
        until(lambda: _answers(epmd), lambda: f"no port mapper: {replica.log}")
        os.kill(daemon(replica), signal.SIGKILL)
        assert replica.until_said("the SSH daemon ended with exit code 137")
        # PID 1 says so first, and then turns away who waits: a daemon that dies young
        until_open(replica, key)
        assert _answers(epmd)
    finally:
        subprocess.run([*epmd.split(), "-kill"], check=False, capture_output=True)


def test_a_root_whose_sockets_have_long_paths(start, tmp_path, ports):
    key, settings = key_and_settings(tmp_path, ports)
    root = tmp_path / ("a" * 60) / ("b" * 60)
    until_open(start("sleep", "1000", root=root, settings=settings), key)


def _answers(epmd: str) -> bool:
    return (
        subprocess.run([*epmd.split(), "-names"], check=False, capture_output=True).returncode == 0
    )


def _flags(pid: int, descriptor: str) -> int | None:
    """Return how a descriptor was opened (proc(5), fdinfo); None where it is closed by now."""
    with suppress(FileNotFoundError):
        for line in Path(f"/proc/{pid}/fdinfo/{descriptor}").read_text().splitlines():
            if line.startswith("flags:"):
                return int(line.split()[1], 8)
    return None


def _running(replica, command: str) -> list[int]:
    return [pid for pid, its_command in replica.commands().items() if its_command == command]


def _oom_score(pid: int) -> int:
    return int(Path(f"/proc/{pid}/oom_score_adj").read_text())


def _listening(port: int) -> list[str]:
    """Return the inodes of the sockets that listen on a port (proc(5), /proc/net/tcp)."""
    found = []
    for name in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[1].endswith(f":{port:04X}") and fields[3] == "0A":
                found.append(fields[9])
    return found


def test_daemon_is_no_zombie_after_its_end(start, tmp_path, ports):
    key, settings = key_and_settings(tmp_path, ports)
    replica = start("sleep", "1000", settings=settings | {"SSH_IDLE_SECONDS": "0"})
    until_open(replica, key)
    until(lambda: daemon(replica) is None, "the daemon's end")
    until(lambda: not replica.zombies(), "that it is reaped")
    assert psutil.pid_exists(replica.release_pid)
