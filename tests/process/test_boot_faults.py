"""Releases that cannot be started, end badly or do not end: the exit code, and one line why."""

import os
import signal

import pytest

from support import small_slugs, tarballs
from support.platform import current
from support.wait import until

NOT_READY = {"READY_CHECK": "none"}

IGNORES_TERM = "trap '' TERM; echo up; while :; do sleep 0.1; done"
DAEMON = "setsid bash -c \"trap '' TERM HUP; echo daemon; sleep 300\" >&2 &"


def script(text: str, mode: int = 0o755) -> tarballs.Member:
    """Return bin/hello: to run-agent a release that relx built."""
    return tarballs.file("bin/hello", text.encode(), mode=mode)


def errors(replica) -> list[str]:
    return [event["message"] for event in replica.events() if event["severity"] == "ERROR"]


def until_gone(replica) -> None:
    """Wait until nothing is left: what was killed at the very end of the grace is still dying."""
    until(lambda: not replica.alive(), lambda: f"still there: {replica.commands()}")


@pytest.mark.parametrize(
    ("members", "code", "said"),
    [
        ([], os.EX_DATAERR, "it has neither bin/ nor a Procfile"),
        ([tarballs.file("Procfile", b"worker: x\n")], os.EX_DATAERR, "has no web line"),
        ([tarballs.file("bin/other", b"", mode=0o755)], os.EX_CONFIG, "its scripts are other"),
        ([script("#!/bin/sh\n", mode=0o644)], os.EX_DATAERR, "bin/hello is not executable"),
    ],
    ids=["no-bin", "no-web-line", "another-name", "not-executable"],
)
def test_what_cannot_be_started_is_told_before_anything_is(platform, members, code, said):
    platform.deploy(small_slugs.packed(*members))
    replica = platform.boot()
    assert replica.wait() == code
    (error,) = errors(replica)
    assert error.startswith("cannot start the slug at ")
    assert said in error
    assert replica.events("release started") == []
    assert current(replica.root) is None


@pytest.mark.parametrize(
    ("text", "code", "said"),
    [
        ("#!/bin/sh\nexit 3\n", 3, "exit code 3"),
        ("#!/bin/sh\nkill -9 $$\n", 137, "SIGKILL, exit code 137"),
        ("#!/no/such/interpreter\n", 127, "exit code 127"),
        ("\x7fELF, but not really", 126, "exit code 126"),
    ],
    ids=["exits", "killed", "no-interpreter", "no-program"],
)
def test_a_release_that_ends_at_once_gives_its_code_to_the_container(platform, text, code, said):
    platform.deploy(small_slugs.packed(script(text)))
    replica = platform.boot()
    assert replica.wait() == code
    (error,) = errors(replica)
    assert error.startswith("release ended after ")
    assert error.endswith(said)
    assert not replica.alive()


def test_a_given_command_that_is_not_there_is_named(platform):
    platform.deploy(small_slugs.running("exit 1"))
    replica = platform.boot("no-such-command", "argument")
    assert replica.wait() == 127
    assert "cannot execute no-such-command " in replica.log
    assert errors(replica)[0].endswith("exit code 127")


def test_an_environment_that_is_too_large_as_a_whole_is_told(platform):
    config = {f"LARGE_{number}": "x" * 100_000 for number in range(30)}
    platform.deploy(small_slugs.serving(), config=config)
    replica = platform.boot()
    assert replica.wait() == 126
    assert "(Argument list too long)" in replica.log
    assert len(replica.log) < 2000


@pytest.mark.parametrize("as_pid_1", [True, False], ids=["pid-1", "ordinary"])
@pytest.mark.parametrize("slug", ["procfile", "script"])
def test_one_that_ignores_term_is_killed_within_the_grace(platform, slug, as_pid_1):
    members = script(f"#!/bin/bash\n{IGNORES_TERM}\n")
    made = small_slugs.packed(members) if slug == "script" else small_slugs.running(IGNORES_TERM)
    platform.deploy(made)
    replica = platform.boot(settings=NOT_READY | {"GRACE_SECONDS": "2"}, as_pid_1=as_pid_1)
    replica.until_printed("up")
    assert replica.term().wait(6) == 128 + signal.SIGKILL
    told, ended = errors(replica)
    assert told == "release did not stop in time: killing it"
    assert "killed by run-agent at the end of the grace period, exit code 137" in ended
    until_gone(replica)


@pytest.mark.parametrize("as_pid_1", [True, False], ids=["pid-1", "ordinary"])
@pytest.mark.parametrize("ends_itself", [True, False])
def test_the_orphans_of_a_release_do_not_outlive_it(platform, as_pid_1, ends_itself):
    end = "exit 4" if ends_itself else "exec sleep 300"
    platform.deploy(small_slugs.running(f"{DAEMON} {DAEMON} sleep 0.2; echo up; {end}"))
    replica = platform.boot(settings=NOT_READY, as_pid_1=as_pid_1)
    replica.until_printed("up")
    if not ends_itself:
        until(lambda: replica.log.count("daemon\n") == 2, "there are no daemons")
        replica.term()
    assert replica.wait() == (4 if ends_itself else 128 + signal.SIGTERM)
    until_gone(replica)


def test_a_release_that_fails_again_is_started_from_what_is_current(platform):
    platform.deploy(small_slugs.packed(script("#!/bin/sh\npwd -P; exit 1\n")))
    replica = platform.boot(settings=NOT_READY | {"RESTART": "on-failure"})
    until(lambda: len(replica.events("release started")) >= 2, "it is not started again")
    assert len(set(replica.stdout.split())) == 1
    assert replica.term().wait() in {1, 143}
