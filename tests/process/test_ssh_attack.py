"""A whole replica under attack: who has a key gets in, the release notices nothing, it ends well.

All of it comes from 127.0.0.x. Everybody who logs in does so from an address of their own, since
one that has logged in before is trusted, and would be let in sooner.
"""

import itertools
import json
import logging
import re
import resource
import socket
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from support import small_slugs
from support.long_tests import LONG
from support.need import need
from support.platform import ask
from support.replica import Replica, cpu_seconds
from support.ssh import Key, make_key
from support.ssh_attacker import Attack, attack
from support.ssh_replica import daemon, ssh, until_open
from support.wait import PATIENCE_SECONDS, until

ATTACKERS = tuple(f"127.0.1.{host}" for host in range(1, 21))

NEVER = 2000
NEVER_PER_SECOND = 400
"""So that they keep coming while people log in."""

KEYS_PER_SECOND = 200
KEYS_SECONDS = 30 if LONG else 10

LOGIN_SECONDS = 1.0
"""What a login may take, by the median; the client's own start included."""

WORST_LOGIN_SECONDS = 3.0
"""The worst one, on two cores that others use as well."""

MIB = 1 << 20

AGENT_BYTES, DAEMON_BYTES = 16 * MIB, 32 * MIB
"""What they may grow by: a hundred connections that have not logged in, and their key exchanges."""

LOG_BYTES = 32 << 10
"""What an attack may add to the log: some lines, and their sums."""

log = logging.getLogger("figures")  # to be seen with `-o log_cli=true --log-cli-level=info`


class Fort:
    """A replica that serves a page, and one key to it."""

    def __init__(self, replica: Replica, key: Key) -> None:
        self.replica, self._key = replica, key
        self.port = int(replica.environ["SSH_PORT"])
        self._people = (f"127.0.2.{host}" for host in itertools.count(1))
        self._log_bytes = replica.err.stat().st_size

    def log_in(self, source: str | None = None) -> float:
        """Log in, from an address that was never seen unless one is given; return the seconds."""
        began = time.monotonic()
        options = {"BindAddress": source or next(self._people)}
        done = ssh(self.replica, self._key, "--", "echo in", options=options)
        assert done.stdout == b"in\n", (done, self.counts())
        return time.monotonic() - began

    def fail_to_log_in(self, wrong: Key, source: str) -> bytes:
        """Log in with a key that is not known; return what the client shows with `-v`."""
        options = {"BindAddress": source, "LogLevel": "DEBUG1"}
        done = ssh(self.replica, wrong, "--", "true", options=options)
        assert done.returncode == 255, done
        return done.stderr

    def fail_until_refused(self, wrong: Key, source: str) -> None:
        """Fail to log in until the client is told why: a penalty passes, so more often if slow."""
        for _ in range(10):
            if b"too many failed logins from your address" in self.fail_to_log_in(wrong, source):
                return
        raise AssertionError(f"nobody is refused: {self.counts()}")

    def counts(self) -> dict[str, int]:
        """Return what `run-agent status` says of the door."""
        done = self.replica.verb("status", "--json")
        return json.loads(done.stdout)["ssh"]["door"]

    def warnings(self) -> str:
        """Return what was logged since the first login, less what people did who got in."""
        said = self.replica.err.read_bytes()[self._log_bytes :].decode(errors="replace")
        return "\n".join(line for line in said.splitlines() if '"severity": "INFO"' not in line)

    def processes(self) -> dict[str, int]:
        """Return the pid of those that face the attacker."""
        return {"agent": self.replica.agent_pid, "daemon": daemon(self.replica)}


@pytest.fixture
def build(platform, tmp_path, ports) -> Callable[..., Fort]:
    """Boot a replica, with `settings`, and log in once so that its daemon runs."""
    key = make_key(tmp_path)

    def build(**settings: str) -> Fort:
        platform.controller.ssh_keys = [key.line]
        platform.deploy(small_slugs.serving())
        usual = {"SSH_PORT": str(ports.free())}
        replica = platform.boot(settings=usual | settings)
        return Fort(until_open(replica.until_ready(), key), key)

    return build


@pytest.fixture
def wrong(tmp_path) -> Key:
    return make_key(tmp_path, "wrong")


@pytest.fixture
def many_descriptors() -> None:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    need(hard == resource.RLIM_INFINITY or hard >= NEVER + 500, f"{NEVER} descriptors (ulimit -n)")


def pss(pid: int) -> int:
    """Return the proportional set size in bytes (proc(5), smaps_rollup)."""
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return int(re.search(r"^Pss: +(\d+) kB", rollup, re.MULTILINE)[1]) << 10


def descriptors(pid: int) -> int:
    return psutil.Process(pid).num_fds()


def logins_during(fort: Fort, attack: Attack, at_most: int) -> Iterator[float]:
    """Log in again and again while the attack is on."""
    for _ in range(at_most):
        if not attack.is_on:
            return
        yield fort.log_in()


def assert_quick(seconds: list[float]) -> None:
    """Fail where logins took longer than people like."""
    log.info("%d logins, median %.3f s, worst %.3f s", len(seconds), statistics.median(seconds),
             max(seconds))  # fmt: skip
    assert len(seconds) >= 5, seconds
    assert statistics.median(seconds) < LOGIN_SECONDS, seconds
    assert max(seconds) < WORST_LOGIN_SECONDS, seconds


# -- who never logs in ----------------------------------------------------------------------------


def test_two_thousand_who_never_log_in_keep_nobody_out(build, many_descriptors):
    fort = build(SSH_LOGIN_GRACE_SECONDS="600")
    before = {name: (pid, pss(pid), descriptors(pid)) for name, pid in fort.processes().items()}
    page = ask(fort.replica, "/")
    largest = dict.fromkeys(before, 0)
    flood = attack(
        "never", fort.port, count=NEVER, rate=NEVER_PER_SECOND, seconds=12, sources=ATTACKERS
    )
    with flood as attackers:
        seconds = []
        for login in logins_during(fort, attackers, 100):
            seconds.append(login)
            assert ask(fort.replica, "/") == page
            for name, pid in fort.processes().items():
                largest[name] = max(largest[name], pss(pid))
        counted = fort.counts()
        outcome = attackers.outcome(PATIENCE_SECONDS)
    assert outcome["connected"] == NEVER, outcome
    assert_quick(seconds)
    for name, allowed in {"agent": AGENT_BYTES, "daemon": DAEMON_BYTES}.items():
        pid, size, opened = before[name]
        log.info("the %s grew from %.1f to %.1f MiB", name, size / MIB, largest[name] / MIB)
        assert fort.processes()[name] == pid
        assert largest[name] < size + allowed, (name, size, largest)
        until(lambda pid=pid, opened=opened: descriptors(pid) <= opened, f"{name}'s descriptors")
    until(lambda: fort.counts()["unauthenticated"] == 0, lambda: f"{fort.counts()}")
    assert counted["dropped"] > NEVER - 300, counted
    assert len(fort.warnings()) < LOG_BYTES, fort.warnings()[-3000:]
    assert fort.counts()["lost"] == 0


def test_nobody_is_kept_out_by_many_sources_that_fill_all_places(build):
    full = 20
    fort = build(SSH_MAX_STARTUPS=f"5:30:{full}", SSH_LOGIN_GRACE_SECONDS="600")
    sources = [f"127.0.3.{host}" for host in range(1, 151)]
    with attack("never", fort.port, count=150, rate=50, seconds=20, sources=sources) as attackers:
        until(lambda: fort.counts()["accepted"] > full, "the first of them")
        seconds = []
        for login in logins_during(fort, attackers, 40):
            seconds.append(login)
            assert fort.counts()["unauthenticated"] <= full
        outcome = attackers.outcome(PATIENCE_SECONDS)
    assert outcome["stayed"] <= full
    assert_quick(seconds)
    assert fort.counts()["dropped"] >= 150 - full
    until(lambda: fort.counts()["unauthenticated"] == 0, lambda: f"{fort.counts()}")


# -- wrong keys -----------------------------------------------------------------------------------


def test_a_flood_of_wrong_keys_is_refused_and_keeps_nobody_out(build):
    fort = build()
    page = ask(fort.replica, "/")
    flood = attack(
        "keys", fort.port, count=KEYS_PER_SECOND * KEYS_SECONDS, rate=KEYS_PER_SECOND,
        seconds=KEYS_SECONDS, sources=["127.0.0.66"],
    )  # fmt: skip
    with flood as attacker:
        seconds = []
        for login in logins_during(fort, attacker, 200):
            seconds.append(login)
            assert ask(fort.replica, "/") == page
        outcome = attacker.outcome(PATIENCE_SECONDS)
    assert_quick(seconds)
    assert outcome.get("in", 0) == 0
    counted = fort.counts()
    log.info("the attacker: %s; the door: %s", outcome, counted)
    assert counted["penalised"] == 1
    assert counted["refused"] > 0.8 * outcome["tried"], (counted, outcome)
    assert counted["wrong_keys"] < 0.2 * outcome["tried"], counted
    assert len(fort.warnings()) < LOG_BYTES, fort.warnings()[-3000:]
    fort.replica.term().wait()
    sums = fort.replica.events("connections in the last minute")
    assert any("from 127.0.0.66 (too many failed logins)" in event["message"] for event in sums)


def test_who_fails_is_refused_and_told_until_the_penalty_has_passed(build, wrong):
    fort = build(SSH_PENALTY_MAX_SECONDS="8")
    source = "127.0.0.66"
    fort.fail_until_refused(wrong, source)
    assert fort.counts()["penalised"] == 1
    until(lambda: fort.counts()["penalised"] == 0, lambda: f"{fort.counts()}")
    fort.log_in(source)


def test_a_source_that_has_just_logged_in_gets_no_penalty(build, wrong):
    fort = build()
    source = "127.0.0.5"
    fort.log_in(source)
    for _ in range(8):
        assert b"Permission denied" in fort.fail_to_log_in(wrong, source)
    fort.log_in(source)
    counted = fort.counts()
    assert (counted["failed_logins"], counted["penalised"], counted["refused"]) == (8, 0, 0)


def test_an_exempt_source_gets_no_penalty_and_the_others_do(build, wrong):
    fort = build(SSH_PENALTY_EXEMPT="127.0.0.64/30")
    for _ in range(8):
        assert b"Permission denied" in fort.fail_to_log_in(wrong, "127.0.0.66")
    assert fort.counts()["penalised"] == 0
    fort.fail_until_refused(wrong, "127.0.0.68")
    counted = fort.counts()
    assert (counted["penalised"], counted["refused"]) == (1, 1)
    fort.log_in("127.0.0.66")


# -- probers --------------------------------------------------------------------------------------


def test_a_prober_starts_no_daemon_and_costs_little(build):
    fort = build(SSH_IDLE_SECONDS="0")
    until(lambda: daemon(fort.replica) is None, "the daemon's end")
    before, agent = fort.counts(), fort.replica.agent_pid
    spent, probes = cpu_seconds(agent), 1000 if LONG else 300
    for _ in range(probes):
        socket.create_connection(("127.0.0.1", fort.port), PATIENCE_SECONDS).close()
        assert daemon(fort.replica) is None
        time.sleep(0.01)
    until(lambda: fort.counts()["probed"] == before["probed"] + probes, lambda: f"{fort.counts()}")
    each = (cpu_seconds(agent) - spent) / probes
    log.info("a probe costs the agent %.0f µs", each * 1e6)
    assert each < 0.005
    assert fort.counts()["daemon_starts"] == before["daemon_starts"]
    assert not fort.warnings()
    fort.log_in()
