"""What a line says, that nobody can forge one, and that a flood of refusals is summed up."""

import json
import logging
from types import SimpleNamespace

import pytest

from run_agent import logs
from run_agent.ssh.authorized_keys import AuthorizedKey
from run_agent.ssh.daemon import audit
from run_agent.ssh.daemon.site import Login

KEY = AuthorizedKey("ssh-ed25519", b"", comment="alice@laptop", fingerprint="SHA256:abc")
ALICE = Login(7, "root", KEY, ("127.0.0.1", 53211), ("127.0.0.1", 22))


class Clock:
    """A clock that the test turns, and the one timer that waits for it."""

    def __init__(self) -> None:
        self.now = 100.0
        self.due: float | None = None

    def __call__(self) -> float:
        return self.now

    def call_later(self, seconds, callback):
        assert self.due is None, "one timer is enough"
        self.due, self.callback = self.now + seconds, callback
        return SimpleNamespace(cancel=self._cancel)

    def _cancel(self):
        self.due = None

    def turn(self, seconds):
        self.now += seconds
        if self.due is not None and self.now >= self.due:
            self.due = None
            self.callback()


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def lines(caplog, monkeypatch):
    """Collect what is written, in order."""
    caplog.set_level(logging.INFO)
    written: list[logging.LogRecord] = []
    monkeypatch.setattr(caplog.handler, "emit", written.append)
    return written


@pytest.fixture
def our(clock):
    return audit.Audit(clock, clock.call_later)


def as_text(record) -> str:
    return logs._text_formatter().format(record)


def as_json(record) -> dict:
    logs.Context().filter(record)
    text = logs._json_formatter().format(record)
    assert "\n" not in text
    return json.loads(text)


def test_the_opening_line_says_in_text_who_did_what_from_where(our, lines):
    our.open("session", ALICE, command="gigalixir_run remote_console", terminal=True)
    assert as_text(lines[0]).endswith(
        "INFO    ssh: session opened: alice@laptop SHA256:abc from 127.0.0.1:53211: "
        "gigalixir_run remote_console"
    )


def test_the_opening_line_has_every_field_in_json(our, lines):
    our.open("session", ALICE, command="true", terminal=False)
    said = as_json(lines[0])
    assert (
        said
        | {
            "event": "session opened",
            "component": "ssh",
            "severity": "INFO",
            "user": "root",
            "key_fingerprint": "SHA256:abc",
            "key_comment": "alice@laptop",
            "source_address": "127.0.0.1",
            "source_port": 53211,
            "connection": 7,
            "command": "true",
            "terminal": False,
        }
        == said
    )


def test_the_closing_line_repeats_who_it_was_and_adds_how_it_went(our, lines, clock):
    entry = our.open("session", ALICE, command="true")
    clock.turn(1.25)
    entry.close(exit_status=3, bytes_in=5, bytes_out=77)
    assert lines[1].getMessage() == (
        "session closed: alice@laptop SHA256:abc from 127.0.0.1:53211: true "
        "(1.25 s, exit status 3, bytes in 5, bytes out 77)"
    )
    said = as_json(lines[1])
    assert (said["event"], said["command"], said["exit_status"]) == ("session closed", "true", 3)
    assert (said["duration_seconds"], said["bytes_in"], said["bytes_out"]) == (1.25, 5, 77)


def test_what_closes_twice_is_written_once(our, lines):
    entry = our.open("session", ALICE)
    entry.close(exit_status=0)
    entry.close(reason="the connection has closed")
    assert [line.event for line in lines] == ["session opened", "session closed"]


def test_what_is_not_known_is_left_out(our, lines):
    our.open("session", ALICE, command=None).close(exit_status=None, signal="TERM")
    assert not hasattr(lines[0], "command")
    assert lines[1].getMessage().endswith(" (0.0 s, signal TERM)")


@pytest.mark.parametrize(
    "nasty",
    [
        "true\n2026-01-01T00:00:00Z INFO    ssh: login opened: root",
        "\x1b[2J\x1b[1;1H",
        "a\r\0b\x07",
        "\u202etxt.exe",
        "\u2028line\x85separators",
        "\udcff",
    ],
)
def test_what_a_client_sends_can_neither_break_a_line_nor_forge_one(our, lines, nasty):
    key = AuthorizedKey("ssh-ed25519", b"", comment=nasty, fingerprint="SHA256:abc")
    login = Login(1, nasty, key, ("::1", 1), ("::1", 22))
    our.open("transfer", login, path=nasty).close(reason=nasty)
    our.refuse("login", nasty, nasty, user=nasty)
    for line in lines:
        assert as_text(line).isprintable()
        as_json(line)


def test_escapes_are_told_from_backslashes():
    assert audit.escape("\n") != audit.escape("\\n")


def test_the_fields_keep_what_was_sent(our, lines):
    our.open("session", ALICE, command="printf 'a\nb'")
    assert as_json(lines[0])["command"] == "printf 'a\nb'"


def test_a_path_of_bytes_is_text_in_the_line(our, lines):
    our.open("transfer", ALICE, path=b"/app/\xff.bin")
    assert as_json(lines[0])["path"] == "/app/\\xff.bin"


def test_a_huge_command_is_cut_and_says_so(our, lines):
    our.open("session", ALICE, command="x" * (1 << 20)).close(exit_status=0)
    for line in lines:
        assert len(as_text(line)) < 2000
        assert as_json(line)["command"].endswith("xxx... (1048576 characters)")


def test_an_ipv6_source_has_its_port_apart(our, lines):
    our.open("login", Login(1, "root", KEY, ("fd00::1", 22), ("::", 22)))
    assert lines[0].getMessage().endswith(" from [fd00::1]:22")


def test_a_refusal_says_why_and_warns(our, lines):
    our.refuse("login", "192.0.2.7", "this key is not on the list", user="bob")
    assert as_text(lines[0]).endswith(
        "WARNING ssh: login refused: bob from 192.0.2.7: this key is not on the list"
    )
    assert as_json(lines[0])["source_address"] == "192.0.2.7"


def test_a_flood_of_refusals_is_summed_up_without_a_further_event(our, lines, clock):
    for _ in range(1000):
        our.refuse("login", "192.0.2.7", "wrong key")
    our.refuse("login", "192.0.2.8", "wrong key")
    assert len(lines) == audit.REFUSALS_IN_FULL
    clock.turn(audit.PERIOD_SECONDS)
    assert lines[-1].getMessage() == (
        "refused 981 more in 60 s: login from 192.0.2.7: wrong key: 980 times; "
        "login from 192.0.2.8: wrong key: once"
    )
    said = as_json(lines[-1])
    assert (said["event"], said["refused"], said["sources"]) == ("refusals summed up", 981, 2)
    assert said["most"][0]["times"] == 980


def test_after_a_quiet_period_refusals_are_written_in_full_again(our, lines, clock):
    for _ in range(audit.REFUSALS_IN_FULL + 1):
        our.refuse("login", "192.0.2.7", "wrong key")
    clock.turn(audit.PERIOD_SECONDS)
    clock.turn(audit.PERIOD_SECONDS)
    before = len(lines)
    our.refuse("login", "192.0.2.7", "wrong key")
    assert [line.event for line in lines[before:]] == ["login refused"]


def test_few_refusals_need_no_summary(our, lines, clock):
    our.refuse("login", "192.0.2.7", "wrong key")
    clock.turn(audit.PERIOD_SECONDS)
    our.close()
    assert len(lines) == 1


def test_the_end_sums_up_what_was_only_counted(our, lines, clock):
    for _ in range(audit.REFUSALS_IN_FULL + 5):
        our.refuse("login", "192.0.2.7", "wrong key")
    our.close()
    assert lines[-1].refused == 5
    assert clock.due is None, "no timer is left"
    our.close()
    assert lines[-1].refused == 5
    assert len(lines) == audit.REFUSALS_IN_FULL + 1


def test_memory_is_bounded_where_every_refusal_differs(our, lines, clock):
    for number in range(100_000):
        our.refuse("login", f"2001:db8::{number:x}", "wrong key " + "x" * 5000)
    assert len(our._counted) == audit.MOST_COUNTED
    clock.turn(audit.PERIOD_SECONDS)
    assert lines[-1].refused == 100_000 - audit.REFUSALS_IN_FULL
    assert len(as_text(lines[-1])) < 20_000
    assert "others: " in lines[-1].getMessage()
    assert not our._counted


def test_what_people_who_are_in_do_is_written_during_a_flood(our, lines):
    for _ in range(1000):
        our.refuse("login", "192.0.2.7", "wrong key")
    for _ in range(1000):
        our.open("session", ALICE, command="true").close(exit_status=0)
    assert len(lines) == audit.REFUSALS_IN_FULL + 2000
