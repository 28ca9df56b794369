"""What a session leaves behind, or what its client leaves: everything of it is ended."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess

import psutil
import pytest

from run_agent.ssh.daemon.sessions.session import LINGER_SECONDS
from support.need import need
from support.ports import Ports
from support.ssh import client_environ, daemons, make_key
from support.terminal import on_terminal
from support.wait import PATIENCE_SECONDS, holds, until

ENDED_SECONDS = 8.0
"""HUP, TERM and KILL have had their time, with the load of a busy machine."""

DOUBLE_FORK = "(setsid sh -c '{} & sleep 0.1' &) </dev/null >/dev/null 2>&1; sleep 0.3"


@pytest.fixture(scope="module")
def key(tmp_path_factory):
    return make_key(tmp_path_factory.mktemp("key"))


@pytest.fixture(scope="module")
def host(tmp_path_factory, key):
    ports = Ports()
    env = {"PATH": os.environ["PATH"], "HOME": str(tmp_path_factory.mktemp("home"))}
    quick = {"SSH_KEEPALIVE_SECONDS": "1", "SSH_KEEPALIVE_MISSES": "2"}
    for daemon in daemons(tmp_path_factory.mktemp("host"), ports):
        yield daemon(key, env=env, settings=quick)
    ports.close()


@pytest.fixture
def start(tmp_path, ports):
    yield from daemons(tmp_path, ports)


@pytest.fixture
def alive():
    """Tell how many processes sleep for this long, which is the test's own number."""

    def alive(seconds: str) -> int:
        lines = [
            process.info["cmdline"] or ()
            for process in psutil.process_iter(["cmdline", "status"])
            if process.info["status"] != psutil.STATUS_ZOMBIE
        ]
        return sum(line == ["sleep", seconds] for line in lines)

    return alive


@contextlib.contextmanager
def client(host, key, *words, **streams):
    streams = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL} | streams
    argv = host.client(*words, key=key)
    with subprocess.Popen(argv, env=client_environ(), **streams) as process:
        try:
            yield process
        finally:
            process.kill()


# -- the leader has ended --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("how", "seconds"),
    [
        ("{} &", "61.001"),
        ("nohup {} &", "61.002"),
        ("setsid {} &", "61.003"),
        ("setsid nohup {} >/dev/null 2>&1 & disown", "61.004"),
        (DOUBLE_FORK, "61.005"),
        ("(trap '' HUP TERM INT; {}) &", "61.006"),
        ("env -i setsid sleep 61.007 & sleep 0.1", "61.007"),
        ("sh -c 'kill -STOP $$; exec {}' & sleep 0.1; kill -STOP $!", "61.008"),
        ("setsid sh -c 'trap \"\" HUP; {} & wait' &", "61.009"),
    ],
)
def test_nothing_outlives_its_session(host, key, alive, how, seconds):
    command = how.format(f"sleep {seconds}") + "\nsleep 0.1; exit 3"
    assert host.ssh("--", command, key=key).returncode == 3
    until(lambda: not alive(seconds), f"sleep {seconds} lives: {host.log}", ENDED_SECONDS)
    until(lambda: not host.sessions(), "something is left", ENDED_SECONDS)
    until(lambda: not zombies(host), "zombies are left", ENDED_SECONDS)


def zombies(host):
    found = []
    for child in psutil.Process(host.pid).children():
        with contextlib.suppress(psutil.NoSuchProcess):
            found += [child] if child.status() == psutil.STATUS_ZOMBIE else []
    return found


def test_a_command_ends_at_once_where_nobody_holds_its_output(host, key, alive):
    command = "nohup sleep 61.020 >/dev/null 2>&1 </dev/null &"
    host.ssh("--", command, key=key)
    assert host.until_said("session closed", command=command)["duration_seconds"] < LINGER_SECONDS
    until(lambda: not alive("61.020"), "it lives", ENDED_SECONDS)


def test_what_others_still_write_when_the_leader_has_ended_arrives(host, key):
    """As with `exec > >(tee log)` at the head of a script."""
    ended = host.ssh("--", "(sleep 0.5; echo late) & echo early; exit 4", key=key)
    assert (ended.stdout, ended.returncode) == (b"early\nlate\n", 4)


def test_who_writes_for_ever_does_not_hold_a_session_open(host, key):
    ended = host.ssh("--", "yes & sleep 0.1; exit 5", key=key)
    assert ended.returncode == 5
    until(lambda: not host.sessions(), "something is left", ENDED_SECONDS)


def test_a_logout_does_not_wait_for_background_jobs(host, key, alive):
    with on_terminal(host.client(key=key), env=client_environ()) as console:
        console.until_shown(r"[#$] ")
        console.type("nohup sleep 61.030 &\n")
        until(lambda: alive("61.030"), "it does not run")
        console.type("\nexit\n")
        assert console.wait(2) == 0
    until(lambda: not alive("61.030"), "it lives", ENDED_SECONDS)


def test_a_session_keeps_what_it_has_in_the_background_while_others_end(host, key, alive):
    """What cannot be told apart lives as long as the last session that may have started it."""
    with client(host, key, "--", "env -i setsid sleep 61.040 & sleep 61.041 & wait") as process:
        until(lambda: alive("61.040") and alive("61.041"), "they do not run")
        for _ in range(3):
            host.ssh("--", "sleep 61.042 & true", key=key)
        until(lambda: not alive("61.042"), "it lives", ENDED_SECONDS)
        holds(lambda: alive("61.040") and alive("61.041"), "one was ended", seconds=1)
        process.kill()
        until(lambda: not alive("61.040") and not alive("61.041"), "they live", ENDED_SECONDS)


def test_what_cannot_be_told_apart_goes_with_the_sessions_of_its_time(host, key, alive):
    command = "(env -i setsid sleep 61.070 &); read line"
    with client(host, key, "--", command, stdin=subprocess.PIPE) as process:
        until(lambda: alive("61.070"), "it does not run")
        holds(lambda: alive("61.070"), "it was ended", seconds=1.5)  # it has been noticed
        with client(host, key, "--", "sleep 61.071"):
            until(lambda: alive("61.071"), "the other does not run")
            process.stdin.close()
            until(lambda: not alive("61.070"), "it lives", ENDED_SECONDS)
            assert alive("61.071")


@pytest.mark.parametrize(
    ("command", "seconds"),
    [
        ("env -i setsid sleep 61.080 &", "61.080"),  # it holds the output
        ("env -i setsid sleep 61.081 >/dev/null 2>&1 & sleep 2.2", "61.081"),  # it was seen
        ("(env -i setsid sh -c 'sleep 61.082 >/dev/null 2>&1 & sleep 2.2' &); sleep 4",
         "61.082"),  # it was seen below what holds the output
    ],
)  # fmt: skip
def test_what_hides_ends_with_its_own_session_though_others_go_on(
    host, key, alive, command, seconds
):
    with client(host, key, "--", "sleep 61.089"):
        until(lambda: alive("61.089"), "the other does not run")
        assert host.ssh("--", command, key=key, timeout=20).returncode == 0
        until(lambda: not alive(seconds), f"it lives: {host.log}", ENDED_SECONDS)
        assert alive("61.089")


def test_an_epmd_that_a_session_started_is_the_releases_and_stays(start, key, ports):
    """With its end nobody would find the node any more, for that does not register again."""
    need(shutil.which("epmd"), "Erlang")
    port = ports.free()
    env = {"PATH": os.environ["PATH"], "ERL_EPMD_PORT": str(port), "ERL_EPMD_ADDRESS": "127.0.0.1"}
    host = start(key, env=env)
    host.ssh("--", "epmd -daemon; sleep 61.090 & sleep 0.5", key=key)
    started = [pid for pid in host.sessions() if program(pid) == "epmd"]
    try:
        until(lambda: host.sessions() == started, "something else is left", ENDED_SECONDS)
        holds(lambda: host.sessions() == started, "it was ended", seconds=1)
        host.process.send_signal(signal.SIGTERM)
        assert host.wait(3) == 0
        socket.create_connection(("127.0.0.1", port), timeout=5).close()
    finally:
        for pid in started:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def program(pid):
    with contextlib.suppress(psutil.NoSuchProcess):  # ended just now
        return psutil.Process(pid).name()
    return None


def test_orphans_that_end_while_their_session_lives_are_reaped(host, key):
    command = "for i in $(seq 50); do (true &); done; echo done; sleep 60"
    with client(host, key, "--", command, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"done\n"
        until(lambda: not zombies(host), "zombies are left", 5)


# -- the client has gone ---------------------------------------------------------------------------


@pytest.mark.parametrize(("words", "seconds"), [(["--"], "62.001"), (["-tt", "--"], "62.002")])
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
def test_a_client_that_is_killed_or_hangs_leaves_nothing(host, key, alive, words, seconds, how):
    command = f"trap '' HUP; nohup sleep {seconds} & setsid sleep {seconds} & wait"
    with client(host, key, *words, command) as process:
        until(lambda: alive(seconds) == 2, "they do not run")
        process.send_signal(how)
        until(lambda: not alive(seconds), f"they live: {host.log}", 3 + ENDED_SECONDS)
    until(lambda: not host.sessions(), "something is left", ENDED_SECONDS)


def test_an_order_is_kept_hup_first_and_time_to_obey(host, key, tmp_path):
    said = tmp_path / "said"
    command = (
        f"exec 2>/dev/null; trap 'echo HUP >> {said}' HUP; trap 'echo TERM >> {said}; exit' TERM;"
        "echo ready; while :; do sleep 0.1; done"
    )
    with client(host, key, "--", command, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"ready\n"
        process.kill()
        until(lambda: not host.sessions(), "it lives", ENDED_SECONDS)
    assert said.read_text() == "HUP\nTERM\n"


def test_a_client_gone_during_a_big_transfer_leaves_nothing(host, key):
    reader = {"stdout": subprocess.PIPE}
    with client(host, key, "--", "cat /dev/zero", **reader) as process:
        assert process.stdout.read(1 << 20)
        process.send_signal(signal.SIGSTOP)
        until(lambda: not host.sessions(), f"it lives: {host.log}", 3 + ENDED_SECONDS)
    memory = psutil.Process(host.pid).memory_info().rss
    assert memory < 200 << 20


def test_a_daemon_with_a_stray_outside_any_session_survives_and_ends_it(host, key, alive):
    host.ssh("--", "env -i setsid sh -c 'sleep 61.050' & sleep 0.2", key=key)
    until(lambda: not alive("61.050"), "it lives", ENDED_SECONDS)
    assert host.ssh("--", "echo on", key=key).stdout == b"on\n"


def test_many_leftovers_at_once_are_ended_in_time_and_cheaply(host, key, alive):
    assert shutil.which("setsid")
    host.ssh("--", "true", key=key)
    before = psutil.Process(host.pid).cpu_times()
    clients = [
        subprocess.Popen(
            host.client("--", "trap '' HUP; sleep 61.060 & setsid sleep 61.060 & true", key=key),
            env=client_environ(),
            stdin=subprocess.DEVNULL,
        )
        for _ in range(20)
    ]
    assert [process.wait(PATIENCE_SECONDS) for process in clients] == [0] * 20
    until(lambda: not alive("61.060"), "they live", 3 + ENDED_SECONDS, every=0.2)
    after = psutil.Process(host.pid).cpu_times()
    assert after.user + after.system - before.user - before.system < 4
