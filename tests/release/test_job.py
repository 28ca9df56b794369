"""Jobs on real releases: commands of their scripts, and a node of their own."""

import re

import psutil
import pytest

from support import slugs
from support.wait import until

NODE_SECONDS = 60.0
"""How long a node may take to boot beside others on two cores."""

UNSET = {"HEALTH_PORT": ""}
NODE = re.compile(r"job-hello-[0-9a-f]{8}@127\.0\.0\.1")

GREETING = 'Application.load(:hello); IO.puts("#{System.get_env("GREETING")} #{node()}"); '


@pytest.fixture
def job(platform):
    """Run a job on a slug of that kind, as `run-agent VERB --app hello -- COMMAND`."""

    def job(kind, *command, verb="job", settings=None):
        platform.deploy(slugs.slug(kind).read_bytes(), config={"GREETING": "Grüße"})
        return platform.boot(
            *command, verb=(verb, "--app", "hello", "--"), settings=UNSET | (settings or {})
        )

    return job


@pytest.mark.parametrize(
    ("end", "code"), [("System.halt(0)", 0), ("System.halt(42)", 42), ('raise "our reason"', 1)]
)
def test_eval_of_a_mix_release_and_its_exit_code(job, end, code):
    done = job("mix", "bin/hello", "eval", GREETING + end)
    assert done.wait(NODE_SECONDS) == code
    assert done.stdout == "Grüße nonode@nohost\n"
    assert ("our reason" in done.log) == (code == 1)
    assert done.alive() == []


@pytest.mark.parametrize(
    ("kind", "command", "code"),
    [
        ("mix", ("eval", 'IO.puts("migrated"); System.halt(3)'), 3),
        ("distillery1", ("command", "Elixir.IO", "puts", "migrated"), 0),
        ("distillery2", ("command", "Elixir.IO", "puts", "migrated"), 0),
        ("distillery2", ("command", "Elixir.IO", "no_such_function"), 1),
    ],
)
def test_a_command_of_the_release_s_script(job, kind, command, code):
    done = job(kind, *command, verb="distillery_job")
    assert done.wait(NODE_SECONDS) == code
    assert ("migrated" in done.stdout) == ("migrated" in str(command))
    assert done.alive() == []


@pytest.mark.parametrize("kind", ["mix", "relx"])
def test_a_node_of_its_own_beside_a_replica_of_the_same_app(platform, job, kind):
    """At the same address, and with the same port mapper: both get their name."""
    slug = slugs.slug(kind).read_bytes()
    platform.deploy(slug)
    replica = platform.boot().until_ready(NODE_SECONDS)
    start = {"mix": "start", "relx": "foreground"}[kind]
    settings = {"HELLO_PORT": "none", "TCP_PORT": ""}
    done = job(kind, f"bin/hello {start}", settings=settings)
    names = until(lambda: nodes(done), lambda: done.log, NODE_SECONDS, every=0.2)
    assert "hello" in names
    (own,) = names - {"hello"}
    seen = done.verb("shell", "--", "printenv", "RELEASE_NODE").stdout.strip()
    assert NODE.fullmatch(seen)
    assert seen.partition("@")[0] == own
    assert replica.is_ready()
    assert done.term().wait(NODE_SECONDS) == 0
    assert not [process for process in done.alive() if process.name() != "epmd"]
    assert replica.term().wait() == 0


def nodes(replica):
    """Return the names that epmd knows, once there are two."""
    asked = replica.verb("shell", "--", "epmd", "-names")
    names = set(re.findall(r"^name (\S+) at port", asked.stdout, re.MULTILINE))
    return names if len(names) == 2 else None


@pytest.mark.parametrize("kind", ["mix", "relx"])
def test_a_release_as_a_job_is_ended_at_the_time_limit(job, kind):
    start = {"mix": "start", "relx": "foreground"}[kind]
    done = job(kind, "bin/hello", start, settings={"JOB_TIMEOUT_SECONDS": "4"})
    assert done.wait(NODE_SECONDS) == 124
    assert done.events("stopping: it has run for 4 s (JOB_TIMEOUT_SECONDS)")
    assert done.alive() == []
    assert not [process for process in psutil.process_iter() if str(done.root) in command(process)]


def command(process):
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""
