"""A job: one command on the current deploy, in a container of its own, and its exit code."""

import os
import re
import signal
import subprocess
import sys
import time
from contextlib import suppress

import psutil
import pytest

from support import small_slugs, tarballs
from support.platform import current, trees, until_kept, volume
from support.wait import holds, until

UNSET = {"HEALTH_PORT": ""}
"""So that no port is asked for: the tests' replicas have one."""

STUBBORN = b"trap '' TERM HUP; echo $1 up; while :; do sleep 0.1; done\n"
SCRIPT = b'#!/bin/bash\necho "$0: $#: $*"\nexit 7\n'

WAITS = "while :; do sleep 0.05; done"
"""Not one long sleep: a child that bash has just forked loses a TERM that its group gets."""

NODE = re.compile(r"job-hello-[0-9a-f]{8}@127\.0\.0\.1")


@pytest.fixture
def deploy(platform):
    """Make a slug of these members the current deploy; return its digest."""

    def deploy(*members, **options):
        return platform.deploy(small_slugs.running("exit 1", *members), **options)

    return deploy


@pytest.fixture
def job(platform):
    """Run `run-agent job --app hello -- COMMAND…`."""

    def job(*command, verb=("job", "--app", "hello", "--"), settings=None, **options):
        return platform.boot(*command, verb=verb, settings=UNSET | (settings or {}), **options)

    return job


def test_it_runs_in_the_slug_with_the_release_s_environment(deploy, job):
    digest = deploy(config={"COLOUR": "red"})
    done = job("bash", "-c", "echo $COLOUR $APP_NAME $PORT; pwd -P; cat Procfile")
    assert done.wait() == 0
    tree = volume(done.root) / "deploys" / digest
    port = done.environ["PORT"]
    assert done.stdout == f"red hello {port}\n{tree}\nweb: exit 1\n"
    assert done.alive() == []


def test_its_node_is_no_replica_and_no_other_job(deploy, job):
    deploy(config={"RELEASE_NODE": "mine@127.0.0.1"})
    names = ("MY_NODE_NAME", "RELEASE_NODE", "LIBCLUSTER_KUBERNETES_NODE_BASENAME")
    seen = []
    for _ in range(2):
        done = job("printenv", *names)
        assert done.wait() == 0
        node, again, basename = done.stdout.split()
        assert node == again
        assert NODE.fullmatch(node)
        assert basename == "hello"
        seen.append(node)
    assert len(set(seen)) == 2


@pytest.mark.parametrize(
    ("command", "code"),
    [
        (("true",), 0),
        (("bash", "-c", "exit 42"), 42),
        (("bash", "-c", "kill -9 $$"), 137),
        (("no-such-command", "x"), 127),
        (("bin/plain", "x"), 126),
        (("bin/plain",), 126),
        (("exit 9",), 9),
        (("cd bin && ls | wc -l; exit 4",), 4),
        (("./bin/script", "a b", "--help"), 7),
    ],
)
def test_it_ends_with_the_code_of_its_command(deploy, job, command, code):
    deploy(tarballs.file("bin/plain", b"true"), tarballs.file("bin/script", SCRIPT, mode=0o755))
    assert job(*command).wait() == code


def test_it_passes_the_streams_through(deploy, job, tmp_path):
    deploy()
    (tmp_path / "in").write_text("from stdin")
    with (tmp_path / "in").open() as stdin:
        done = job("cat; echo to stderr >&2", stdin=stdin)
        assert done.wait() == 0
    assert done.stdout == "from stdin"
    assert "to stderr\n" in done.log


@pytest.mark.parametrize("name", ["APP_NAME", "REPO"])
def test_the_app_may_come_from_the_environment(deploy, job, name):
    deploy()
    done = job("echo", "--app", "--", "-h", verb=("job",), settings={name: "hello"})
    assert done.wait() == 0
    assert done.stdout == "--app -- -h\n"


@pytest.mark.parametrize(
    ("verb", "settings", "said"),
    [
        (("job", "true"), {}, "the app is missing: give --app APP, or set APP_NAME"),
        (("job", "--app", "hello"), {}, "CMD is missing"),
        (("job", "--"), {"APP_NAME": "hello"}, "CMD is missing"),
        (("distillery_job", "--app"), {}, "argument --app: expected one argument"),
    ],
)
def test_wrong_usage_ends_with_64(job, verb, settings, said):
    done = job(verb=verb, settings=settings)
    assert done.wait() == os.EX_USAGE
    assert said in done.log


def test_settings_of_the_replicas_beside_it_do_not_disturb_it(deploy, job):
    deploy()
    settings = {
        "RESTART": "on-failure", "READY_CHECK": "port", "DRAIN_SECONDS": "15", "SSH_PORT": "22",
    }  # fmt: skip
    assert job("false", settings=settings).wait() == 1


# -- the time limit -------------------------------------------------------------------------------


def test_at_the_time_limit_everything_is_ended(deploy, job, tmp_path):
    deploy(tarballs.file("stubborn", STUBBORN))
    line = "bash stubborn beside & setsid --fork bash stubborn elsewhere; exec bash stubborn cmd"
    settings = {"JOB_TIMEOUT_SECONDS": "2", "GRACE_SECONDS": "2"}
    done = job(line, settings=settings)
    for name in ("beside", "elsewhere", "cmd"):
        done.until_printed(f"{name} up")
    assert done.wait() == 124
    assert done.events("stopping: it has run for 2 s (JOB_TIMEOUT_SECONDS)")
    # what was killed at the very end of the grace is still dying
    until(lambda: not done.alive(), lambda: f"still there: {done.commands()}")


def test_a_whole_group_is_asked_and_an_end_in_order_changes_nothing(deploy, job):
    deploy()
    line = "trap 'echo leader; wait; exit 0' TERM; (trap 'echo child; exit' TERM; sleep 60 & wait)&"
    done = job(f"{line} wait", settings={"JOB_TIMEOUT_SECONDS": "1"})
    assert done.wait() == 124
    assert sorted(done.stdout.split()) == ["child", "leader"]


def test_the_boot_does_not_count(platform, deploy, job):
    deploy()
    platform.controller.fault("any", "hang", times=1)
    done = job("sleep 0.2; exit 3", settings={"JOB_TIMEOUT_SECONDS": "1.5"})
    holds(lambda: done.process.poll() is None, "it waits for the controller", 2)
    platform.controller.refuse()
    platform.controller.accept()
    assert done.wait() == 3


@pytest.mark.parametrize("limit", ["none", "0"])
def test_there_may_be_no_limit(deploy, job, limit):
    deploy()
    assert job("sleep 0.5", settings={"JOB_TIMEOUT_SECONDS": limit}).wait() == 0


@pytest.mark.parametrize("limit", ["-1", "soon", "1e9"])
def test_a_limit_that_is_none_is_refused(job, limit):
    done = job("true", settings={"JOB_TIMEOUT_SECONDS": limit})
    assert done.wait() == os.EX_CONFIG
    assert f"JOB_TIMEOUT_SECONDS={limit!r} must be a number of seconds, 0 to 86400, or none" in (
        done.log
    )


def test_what_a_command_leaves_in_its_group_does_not_make_it_late(deploy, job):
    deploy(tarballs.file("stubborn", STUBBORN))
    line = "bash stubborn beside & sleep 0.5; exit 5"
    done = job(line, settings={"JOB_TIMEOUT_SECONDS": "3"})  # between its end and its group's
    assert done.wait() == 5
    assert done.alive() == []


# -- a stop ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["TERM", "INT"])
@pytest.mark.parametrize(
    ("line", "code"),
    [("echo up; exec sleep 60", 143), (f"trap 'exit 6' TERM; echo up; {WAITS}", 6)],
)
def test_a_stop_reaches_the_command_at_once(deploy, job, name, line, code):
    deploy()
    done = job(line)
    done.until_printed("up")
    asked_at = time.monotonic()
    done.signal(signal.Signals[f"SIG{name}"])
    assert done.wait() == code
    assert time.monotonic() - asked_at < 5
    assert done.alive() == []


def test_a_stop_before_the_command_runs_ends_with_143(platform, deploy, job):
    deploy()
    platform.controller.fault("any", "hang")
    done = job("true")
    until(lambda: platform.controller.count() > 0, "it asks the controller")
    assert done.term().wait() == 143
    assert not done.events("release started")


# -- what it opens, and what it leaves ------------------------------------------------------------


def test_it_opens_no_port_unless_it_is_asked_to(deploy, job, ports):
    deploy()
    quiet = job("echo up; exec sleep 60")
    quiet.until_printed("up")
    assert listening(quiet) == set()
    port = ports.free()
    probed = job("echo up; exec sleep 60", settings={"HEALTH_PORT": str(port)}).until_ready()
    assert listening(probed) == {port}


def listening(replica):
    """Return the ports at which any of its processes listens."""
    found = set()
    for process in replica.alive():
        with suppress(psutil.Error):
            listeners = process.net_connections("inet")
            found |= {line.laddr.port for line in listeners if line.status == psutil.CONN_LISTEN}
    return found


def test_it_proves_no_deploy_good(deploy, job, ports):
    digest = deploy()
    done = job("echo up; exec sleep 60", settings={"HEALTH_PORT": str(ports.free())})
    done.until_ready()
    assert done.term().wait() == 143
    assert trees(done.root) == {digest}
    assert not list(done.root.rglob("*.good.json"))


def test_in_an_outage_it_takes_the_deploy_that_is_kept(platform, job):
    digest = platform.deploy(small_slugs.serving())
    replica = until_kept(platform.boot(), digest)
    replica.term().wait()
    platform.controller.refuse()
    done = job("cat server.py", root=replica.root)
    assert done.wait(60) == 0
    assert small_slugs.SERVER.decode() in done.stdout
    assert done.events("booting deploy 41 kept on the volume")
    assert current(done.root) == digest


def test_without_a_deploy_it_ends_as_init_does(platform, deploy, job):
    deploy()
    platform.controller.fault("any", "status", 404)
    done = job("true")
    assert done.wait() in {os.EX_UNAVAILABLE, os.EX_NOPERM}
    assert not done.events("release started")


def test_beside_a_replica_it_says_how_to_run_a_command_there(platform, job):
    platform.deploy(small_slugs.serving())
    replica = platform.boot().until_ready()
    beside = job("true", root=replica.root)
    assert beside.wait() == os.EX_TEMPFAIL
    assert replica.events("another run-agent runs there")
    assert "`run-agent run CMD`" in replica.events("cannot start in")[0]["message"]
    assert replica.is_ready()


def test_as_pid_1_it_ends_and_leaves_nothing(deploy, job):
    deploy()
    done = job("setsid --fork sleep 600; exit 8", as_pid_1=True)
    assert done.wait() == 8
    assert done.alive() == []


def test_an_agent_that_dies_is_not_its_end(deploy, job):
    deploy()
    done = job("echo up; until [ -e ../../../../../go ]; do sleep 0.02; done; exit 5")
    done.until_printed("up")
    agent = done.agent_pid
    os.kill(agent, signal.SIGKILL)
    until(lambda: done.agent() not in {None, agent}, "another agent")
    (done.root / "go").touch()
    assert done.wait() == 5


# -- distillery_job -------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", ["distillery_job", "distillery-job"])
def test_the_script_of_the_release_is_called_by_its_name(deploy, job, verb):
    deploy(tarballs.file("bin/hello", SCRIPT, mode=0o755), tarballs.file("releases/0.1.0/any", b""))
    done = job("command", "Elixir.Task", "migrate now", verb=(verb, "--app", "hello"))
    assert done.wait() == 7
    assert done.stdout == f"{done.root}/app/bin/hello: 3: command Elixir.Task migrate now\n"


def test_without_a_script_it_says_what_to_do(deploy, job):
    deploy()
    done = job("eval", "1", verb=("distillery_job", "--app", "hello"))
    assert done.wait() == os.EX_CONFIG
    assert done.events("the slug has no bin/hello; set customer_app_name")


def test_jobs_in_the_image_need_no_controller(job, tmp_path):
    app = tmp_path / "root" / "app"
    app.mkdir(parents=True)
    (app / "file").write_text("of the image\n")
    done = job("cat", "file", root=tmp_path / "root", settings={"CONTROLLER_URL": "none"})
    assert done.wait() == 0
    assert done.stdout == "of the image\n"


def test_a_terminal_is_the_command_s_own(deploy, job):
    deploy()
    keys, line = os.openpty()
    streams = dict.fromkeys(("stdin", "stdout"), line)
    try:
        done = job("read answer; echo got $answer", wrapper=("setsid", "--ctty"), **streams)
        os.write(keys, b"yes\n")
        assert done.wait() == 0
        shown = b""
        while b"got yes" not in shown:  # the terminal may hand it out in pieces
            shown += os.read(keys, 4096)
    finally:
        os.close(keys)
        os.close(line)


def test_help_shows_both_verbs():
    for verb in ("job", "distillery_job"):
        shown = subprocess.run(
            [sys.executable, "-I", "-m", "entrypoint.cli", verb, "--help"],
            capture_output=True, text=True, check=True, env={}, timeout=20,
        )  # fmt: skip
        assert f"usage: run-agent {verb} [-h] [--app APP] [--] C" in shown.stdout
