"""Keys from a real controller, as people with a console open live through their changes."""

import contextlib
import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from support import small_slugs
from support.need import need
from support.platform import Platform, until_kept, volume
from support.replica import Replica
from support.ssh import Key, client_environ, make_key
from support.ssh_replica import argv, ssh, until_open
from support.terminal import OnTerminal, on_terminal
from support.wait import PATIENCE_SECONDS, holds, until

POLL_SECONDS = 1.0

ONE_POLL_SECONDS = 3.0
"""A poll, the tenth that it may take longer, and what a loaded machine adds to it."""

SELDOM = {"SSH_KEYS_SECONDS": "36000"}

FIVE_MB = b'{"data": ["' + b"x" * 5_000_000 + b'"]}'


class People:
    """A controller, and the people that it lets in."""

    def __init__(self, platform: Platform, folder: Path, port: int) -> None:
        self.platform, self.controller, self._port = platform, platform.controller, port
        self.me, self.you = make_key(folder, "me"), make_key(folder, "you")
        self.controller.ssh_keys = [self.me.line, self.you.line]
        self.digest = platform.deploy(small_slugs.serving())

    @property
    def settings(self) -> dict[str, str]:
        return {"SSH_PORT": str(self._port), "SSH_KEYS_SECONDS": str(POLL_SECONDS)}

    def boot(self, **settings: str) -> Replica:
        """Boot a replica that they can log in to."""
        return until_open(self.platform.boot(settings=self.settings | settings), self.me)

    def until_asked_again(self, times: int = 2) -> None:
        """Wait until the controller has been asked from now on, and has answered all but once."""
        asked = self.controller.count("ssh_keys")
        until(lambda: self.controller.count("ssh_keys") >= asked + times, "the next polls")


@pytest.fixture
def people(platform, tmp_path, ports) -> People:
    return People(platform, tmp_path / "keys", ports.free())


@contextlib.contextmanager
def console(replica: Replica, key: Key) -> Iterator[OnTerminal]:
    """Hold a shell open, which has answered."""
    with on_terminal(argv(replica, key, "-t"), env=client_environ()) as opened:
        opened.type("echo o''pen\n")
        opened.until_shown("\nopen\n")
        yield opened


def seconds_until_it_ends(opened: OnTerminal) -> float:
    began = time.monotonic()
    assert opened.wait() == 255
    return time.monotonic() - began


def closed_logins(replica: Replica, key: Key) -> list[str]:
    """Return why the logins of a key have been closed, the last one last."""
    events = replica.events("login closed")
    return [event["reason"] for event in events if event["key_comment"] == key.path.name]


def keys_state(replica: Replica) -> dict:
    return replica.get("/readyz").body["ssh_keys"]


def logs_in(replica: Replica, key: Key) -> bool:
    return ssh(replica, key, "--", "echo in").stdout == b"in\n"


# -- a key that goes ------------------------------------------------------------------------------


def test_a_removed_key_ends_its_open_console_within_one_poll_and_says_why(people):
    replica = people.boot()
    with console(replica, people.me) as mine, console(replica, people.you) as yours:
        people.controller.ssh_keys = [people.you.line]
        assert seconds_until_it_ends(mine) < ONE_POLL_SECONDS
        why = re.search(r"Received disconnect from .*:11: (.*)\n", mine.shown())
        assert why, mine.shown()
        assert "its key is no longer admitted" in why[1]
        until(lambda: len(closed_logins(replica, people.me)) > 1, lambda: replica.log)
        assert closed_logins(replica, people.me)[-1] == why[1].strip()
        assert not logs_in(replica, people.me)
        yours.type("echo st''ill\n")
        yours.until_shown("\nstill\n")
        assert logs_in(replica, people.you)
    until(lambda: replica.events("session closed"), lambda: replica.log)


def test_with_the_session_go_its_processes(people):
    replica = people.boot()
    with console(replica, people.me) as mine:
        # without nohup's own words, which could come in the middle of the line waited for
        mine.type("nohup sleep 4321 2>/dev/null & setsid sleep 4321 & echo sta''rted\n")
        mine.until_shown("\nstarted\n")
        until(lambda: sleeping(replica) == 2, lambda: f"{replica.commands()}")
        people.controller.ssh_keys = [people.you.line]
        seconds_until_it_ends(mine)
    until(lambda: sleeping(replica) == 0, lambda: f"{replica.commands()}")


def sleeping(replica: Replica) -> int:
    return list(replica.commands().values()).count("sleep 4321")


def test_options_that_change_end_what_they_no_longer_permit(people):
    replica = people.boot()
    with console(replica, people.me) as mine:
        people.controller.ssh_keys = [people.me.with_options("no-pty"), people.you.line]
        assert seconds_until_it_ends(mine) < ONE_POLL_SECONDS
        assert "the options of its key have changed" in mine.shown()
    assert logs_in(replica, people.me)


def test_a_source_that_is_no_longer_permitted_ends(people):
    replica = people.boot()
    with console(replica, people.me) as mine:
        people.controller.ssh_keys = [people.me.with_options('from="192.0.2.0/24"')]
        assert seconds_until_it_ends(mine) < ONE_POLL_SECONDS
    assert not logs_in(replica, people.me)


@pytest.fixture
def small_volume(tmp_path) -> Iterator[Path]:
    need(os.geteuid() == 0, "root, to mount a small disk")
    disk = volume(tmp_path / "root")
    disk.mkdir(parents=True)
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(disk)]
    if subprocess.run(mount, check=False, timeout=PATIENCE_SECONDS).returncode != 0:
        need(False, "a machine that lets root mount")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True, timeout=PATIENCE_SECONDS)


def test_who_has_filled_the_volume_must_go_all_the_same(people, small_volume, tmp_path):
    replica = people.platform.boot(root=tmp_path / "root", settings=people.settings)
    with console(until_open(replica, people.me), people.me) as mine:
        mine.type(f"cat /dev/zero > {small_volume}/fill; echo fu''ll\n")
        mine.until_shown("\nfull\n")
        people.controller.ssh_keys = [people.you.line]
        assert seconds_until_it_ends(mine) < ONE_POLL_SECONDS
    assert logs_in(replica, people.you)
    assert not logs_in(replica, people.me)
    assert "cannot keep the SSH keys" in keys_state(replica)["problem"]


def test_an_empty_list_is_obeyed(people):
    replica = people.boot()
    with console(replica, people.me) as mine, console(replica, people.you) as yours:
        people.controller.ssh_keys = []
        seconds_until_it_ends(mine)
        seconds_until_it_ends(yours)
    assert not logs_in(replica, people.me)
    until(lambda: keys_state(replica)["keys"] == 0, lambda: replica.log)
    people.controller.ssh_keys = [people.me.line]
    until_open(replica, people.me)


def test_keys_refresh_does_it_at_once(people):
    replica = people.platform.boot(settings=people.settings | SELDOM).until_ready()
    until_open(replica, people.me)
    with console(replica, people.me) as mine:
        people.controller.ssh_keys = [people.you.line]
        done = replica.verb("keys", "refresh")
        assert (done.returncode, done.stdout) == (0, "1 key, fetched now\n"), done.stderr
        assert seconds_until_it_ends(mine) < ONE_POLL_SECONDS
    people.controller.ssh_keys = [people.me.line]
    assert replica.verb("keys", "refresh").returncode == 0
    assert logs_in(replica, people.me)


def test_keys_refresh_from_within_a_session(people):
    """As somebody does who has just taken the key of a colleague away."""
    replica = people.platform.boot(settings=people.settings | SELDOM).until_ready()
    until_open(replica, people.me)
    with console(replica, people.you) as yours:
        people.controller.ssh_keys = [people.me.line]
        done = ssh(replica, people.me, "--", "run-agent keys refresh")
        assert (done.returncode, done.stdout) == (0, b"1 key, fetched now\n"), done.stderr
        assert seconds_until_it_ends(yours) < ONE_POLL_SECONDS


# -- a controller that fails ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "problem"),
    [
        (("status", 500), "500"),
        (("html",), "web page"),
        (("cut",), "cut"),
        (("body", FIVE_MB), "over 4 MiB"),
        (("hang",), "no (whole )?answer within"),
        (("reset",), "reach"),
        (("body", b'{"data": ["please log in"]}'), "form of a key"),
        (("status", 401), "401"),
    ],
    ids=["500", "html", "cut", "5-mb", "hang", "reset", "no-keys", "denied"],
)
def test_any_failure_keeps_the_last_good_keys_and_readyz_tells_the_age(people, fault, problem):
    replica = people.boot()
    with console(replica, people.me) as mine:
        people.controller.fault("ssh_keys", *fault)
        state = until_in_trouble(replica)  # so no question from before is still being answered
        people.controller.ssh_keys = []  # what it would say if it could
        assert re.search(problem, state["problem"]), state
        assert state["keys"] == 2
        until(lambda: keys_state(replica)["age_seconds"] >= 2, lambda: f"{keys_state(replica)}")
        assert keys_state(replica)["fetched_at"] == state["fetched_at"]
        assert logs_in(replica, people.me)
        assert logs_in(replica, people.you)
        mine.type("echo st''ill\n")
        mine.until_shown("\nstill\n")
        assert replica.get("/readyz").status == 200
        assert len(replica.events("the last good list (2 keys")) == 1
        people.controller.heal()
        seconds_until_it_ends(mine)
    until(lambda: keys_state(replica)["problem"] is None, lambda: replica.log)
    assert replica.events("the SSH keys are fetched again, after")


def test_no_controller_at_all_keeps_the_last_good_keys(people):
    replica = people.boot()
    people.controller.refuse()
    state = until_in_trouble(replica)
    assert "refused" in state["problem"]
    assert logs_in(replica, people.me)
    refused = replica.verb("keys", "refresh")
    assert refused.returncode in {os.EX_UNAVAILABLE, os.EX_TEMPFAIL}, refused
    assert "the last good list (2 keys" in refused.stderr
    people.controller.ssh_keys = [people.you.line]
    people.controller.accept()
    until(lambda: keys_state(replica)["problem"] is None, lambda: replica.log)
    until(lambda: not logs_in(replica, people.me), lambda: replica.log)
    assert logs_in(replica, people.you)


def until_in_trouble(replica: Replica) -> dict:
    """Wait until `/readyz` tells of a problem with the keys, and return what it says of them."""
    until(lambda: keys_state(replica)["problem"], lambda: f"{keys_state(replica)} {replica.log}")
    return keys_state(replica)


def test_keys_that_are_no_good_are_left_out_and_named_and_the_others_work(people, tmp_path):
    replica = people.boot()
    weak = make_key(tmp_path / "keys", "weak", "rsa", "-b", "1024")
    unknown = "ssh-newer-99 AAAADHNzaC1uZXdlci05OQ== later"
    with console(replica, people.me) as mine:
        people.controller.ssh_keys = [unknown, people.me.line, weak.line, f"frob {people.you.line}"]
        until(lambda: keys_state(replica)["rejected"] == 3, lambda: replica.log)
        assert (keys_state(replica)["keys"], keys_state(replica)["problem"]) == (1, None)
        mine.type("echo st''ill\n")
        mine.until_shown("\nstill\n")
    assert logs_in(replica, people.me)
    assert not logs_in(replica, people.you)
    assert not logs_in(replica, weak)
    named = "".join(event["message"] for event in replica.events("rejected a line of the SSH keys"))
    for line in ("line 1 (later): unknown key type", "(weak): an RSA key of 1024 bits", "'frob'"):
        assert line in named


# -- whatever ends in the meantime ----------------------------------------------------------------


def test_a_replica_that_starts_again_during_an_outage_lets_in_whom_it_knew(people):
    before = people.boot()
    until_kept(before, people.digest)
    people.controller.fault("any", "status", 503)
    replica = people.platform.boot_again(before, settings=people.settings)
    until_open(replica, people.me)
    assert logs_in(replica, people.you)
    state = until_in_trouble(replica)
    assert state["keys"] == 2
    people.controller.ssh_keys = [people.you.line]
    people.controller.heal()
    until(lambda: not logs_in(replica, people.me), lambda: replica.log)
    assert logs_in(replica, people.you)


def test_an_agent_killed_during_an_outage_changes_nothing(people):
    replica = people.boot()
    with console(replica, people.me) as mine:
        people.controller.refuse()
        fetched_at = until_in_trouble(replica)["fetched_at"]
        agent = replica.agent_pid
        os.kill(agent, signal.SIGKILL)
        until(lambda: replica.agent() not in {None, agent}, "another agent")
        assert logs_in(replica, people.you)
        until(lambda: keys_state(replica)["problem"], lambda: replica.log)
        assert keys_state(replica)["fetched_at"] == fetched_at
        mine.type("echo st''ill\n")
        mine.until_shown("\nstill\n")
        people.controller.ssh_keys = [people.you.line]
        people.controller.accept()
        seconds_until_it_ends(mine)
        assert "its key is no longer admitted" in mine.shown()


def test_a_key_removed_while_no_agent_runs_goes_with_the_next_one(people):
    replica = people.boot()
    with console(replica, people.me) as mine:
        agent = replica.agent_pid
        people.controller.ssh_keys = [people.you.line]
        os.kill(agent, signal.SIGKILL)
        seconds_until_it_ends(mine)
    assert not logs_in(replica, people.me)


def test_a_daemon_killed_during_an_outage_is_followed_by_one_that_knows_the_keys(people):
    replica = people.boot()
    people.controller.refuse()
    until_in_trouble(replica)
    with console(replica, people.me) as mine:
        daemon = next(pid for pid, it in replica.commands().items() if "entrypoint.sshd" in it)
        os.kill(daemon, signal.SIGKILL)
        assert mine.wait(PATIENCE_SECONDS) == 255
    # on a loaded machine one may come before PID 1 has noticed, and is turned away
    until(lambda: logs_in(replica, people.me), lambda: replica.log)


def test_what_stays_the_same_disturbs_nobody(people):
    replica = people.boot()
    with console(replica, people.me) as mine:
        people.until_asked_again(3)
        people.controller.ssh_keys = [people.you.line, people.me.line]  # in another order
        people.until_asked_again(3)
        holds(lambda: mine.process.poll() is None, "the console stays", 0.2)
        mine.type("echo st''ill\n")
        mine.until_shown("\nstill\n")
    changes = replica.events("the list of SSH keys has changed")
    assert len(changes) == 2, changes
