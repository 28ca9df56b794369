"""When the list of keys is fetched, what a failure changes (nothing), and what is told of it."""

import asyncio
import base64
import json
import logging
import stat
import threading

import pytest

from run_agent import settings
from run_agent.controller import SshKeys
from run_agent.errors import DeniedError, RunAgentError, SettingsError, UnavailableError
from run_agent.model import Layout
from run_agent.ssh import keys
from run_agent.ssh.kept import Kept, load, save
from run_agent.ssh.keys import Keeper, Pace

BLOB = base64.b64encode(b"\0\0\0\x0bssh-ed25519\0\0\0 " + bytes(range(32))).decode()
ME = f"ssh-ed25519 {BLOB} me"
YOU = f"no-pty ssh-ed25519 {BLOB} you"
BAD = f"frob ssh-ed25519 {BLOB} bad"
START = 1_700_000_000.0
HOUR = 3600.0
MODE = 0o600


def nothing(*_):
    """Do nothing."""


class Source:
    """What the keys come from: lines, or an error to raise."""

    def __init__(self, *lines):
        self.says = lines
        self.asked = 0

    def __call__(self):
        self.asked += 1
        if isinstance(self.says, Exception):
            raise self.says
        return SshKeys(tuple(self.says))


class Clock:
    """Time that passes when somebody sleeps; at `until` it ends, `then` may do something before."""

    def __init__(self):
        self.now, self.until, self.then = START, START, nothing
        self.slept = []

    async def sleep(self, seconds):
        self.slept.append(seconds)
        self.now += seconds
        self.then(self.now)
        if self.now >= self.until:
            raise asyncio.CancelledError


class Bench:
    """A keeper, its surroundings, and what it told."""

    def __init__(self, root, source=None, chances=(0.5,), app="hello"):
        self.layout, self.clock, self.source = Layout(root), Clock(), source or Source(ME)
        self.changes = self.states = 0
        chances = list(chances)
        self.keeper = Keeper(
            self.layout, app, self.source,
            period=60.0, on_change=self.on_change, on_state=self.on_state,
            pace=Pace(
                clock=lambda: self.clock.now,
                sleep=self.clock.sleep,
                chance=lambda: chances.pop(0) if len(chances) > 1 else chances[0],
                deadline=5.0,
            ),
        )  # fmt: skip

    def on_change(self, latest):
        self.changes += 1
        self.in_force = latest.lines

    def on_state(self):
        self.states += 1

    @property
    def kept(self):
        return load(self.layout, "hello")

    async def pass_time(self, seconds, then=None):
        self.clock.until = self.clock.now + seconds
        self.clock.then = then or nothing
        with pytest.raises(asyncio.CancelledError):
            await self.keeper.run()

    def run(self, seconds, then=None):
        asyncio.run(self.pass_time(seconds, then))


@pytest.fixture(name="bench")
def a_bench(tmp_path):
    return Bench(tmp_path)


def messages(caplog, level=logging.WARNING):
    return [record.getMessage() for record in caplog.records if record.levelno >= level]


# -- the file


def test_what_was_saved_is_loaded_and_nobody_else_reads_it(tmp_path):
    layout = Layout(tmp_path)
    kept = Kept("hello", START, (ME, YOU, "größe \ud800"))
    save(layout, kept)
    assert load(layout, "hello") == kept
    assert stat.S_IMODE(layout.ssh_keys.stat().st_mode) == MODE
    assert [path.name for path in layout.volume.iterdir()] == [layout.ssh_keys.name]


def test_another_apps_list_lets_nobody_in(tmp_path, caplog):
    save(Layout(tmp_path), Kept("other", START, (ME,)))
    assert load(Layout(tmp_path), "hello") is None
    assert messages(caplog) == ["the SSH keys on the volume are of the app other: left aside"]


def test_no_list_yet_is_no_problem(tmp_path, caplog):
    assert load(Layout(tmp_path), "hello") is None
    assert not messages(caplog)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b"[]",
        b"[" * 100_000,
        b'{"app": "hello"}',
        b'{"app": "hello", "fetched_at": "now", "lines": []}',
        b'{"app": "hello", "fetched_at": Infinity, "lines": []}',
        b'{"app": "hello", "fetched_at": 1e300, "lines": []}',
        b'{"app": "hello", "fetched_at": 1.0, "lines": "ssh-rsa"}',
        b'{"app": "hello", "fetched_at": 1.0, "lines": [1]}',
    ],
)
def test_a_corrupt_list_lets_nobody_in(tmp_path, caplog, content):
    layout = Layout(tmp_path)
    layout.volume.mkdir(parents=True)
    layout.ssh_keys.write_bytes(content)
    assert load(layout, "hello") is None
    assert "corrupt" in messages(caplog)[0]


def test_a_list_that_cannot_be_read_is_said(tmp_path, caplog):
    Layout(tmp_path).ssh_keys.mkdir(parents=True)
    assert load(Layout(tmp_path), "hello") is None
    assert messages(caplog)[0].startswith("cannot read ")


# -- the rhythm


def test_the_first_fetch_is_at_once_the_second_anywhere_then_a_tenth_about(tmp_path):
    bench = Bench(tmp_path, chances=[0.25, 0.0, 1.0, 0.5])
    bench.run(250)
    assert bench.clock.slept == pytest.approx([15.0, 54.0, 66.0, 60.0, 60.0])
    assert bench.source.asked == 5


def test_a_list_is_kept_and_told_once(bench):
    bench.run(300)
    assert bench.kept.lines == (ME,)
    assert bench.changes == 1
    assert bench.states == bench.source.asked == 6
    assert bench.keeper.state() == {
        "keys": 1,
        "rejected": 0,
        "fetched_at": "2023-11-14T22:17:50Z",
        "age_seconds": 60,
        "problem": None,
    }


def test_a_changed_list_is_told_again(bench):
    def change(now):
        if now > START + 100:
            bench.source.says = (ME, YOU)

    bench.run(300, change)
    assert bench.kept.lines == (ME, YOU)
    assert bench.changes == 2


def test_an_empty_list_is_obeyed(bench):
    def empty(now):
        bench.source.says = ()

    bench.run(90, empty)
    assert bench.kept.lines == ()
    assert bench.keeper.state()["keys"] == 0
    assert bench.keeper.state()["problem"] is None
    assert bench.changes == 2


def test_a_bad_line_is_logged_by_name_once_per_list(bench, caplog):
    bench.source.says = (ME, BAD)
    bench.run(HOUR)
    told = "rejected a line of the SSH keys: line 2 (bad): unknown option 'frob'"
    assert messages(caplog) == [told]
    assert bench.keeper.state()["rejected"] == 1
    assert BLOB not in caplog.text


def test_a_thousand_bad_lines_are_summed_up(bench, caplog):
    bench.source.says = (ME, *[BAD] * 1000)
    bench.run(1)
    assert len(messages(caplog)) == 21
    assert messages(caplog)[-1] == "rejected 980 more lines"


def test_a_successor_goes_on_with_the_list_and_tells_the_daemon_once(tmp_path, bench):
    bench.run(90)
    heir = Bench(tmp_path)
    heir.clock.now = bench.clock.now
    assert heir.keeper.state() == bench.keeper.state()
    heir.run(300)
    assert heir.changes == 1


# -- failures


DOWN = UnavailableError("cannot reach the controller at http://c (refused, 3 tries in 12 s); wait")


def test_an_hour_of_failures_keeps_the_list_and_is_logged_when_it_begins_and_hourly(bench, caplog):
    ages = []

    def fail(now):
        bench.source.says = UnavailableError(str(DOWN).replace("12 s", f"{now % 7:.0f} s"))
        ages.append(bench.keeper.state()["age_seconds"])

    bench.run(2.5 * HOUR, fail)
    assert bench.kept.lines == (ME,)
    assert bench.changes == 1
    assert bench.source.asked > 140
    assert ages[60:62] == [3630, 3690]
    assert [line.partition("; wait; ")[2] for line in messages(caplog)] == [
        "the last good list (1 key, 30 s old) stays",
        "the last good list (1 key, 60 min old) stays",
        "the last good list (1 key, 120 min old) stays",
    ]
    assert bench.keeper.state()["problem"].startswith("cannot reach the controller")
    assert bench.states == bench.source.asked


def test_another_failure_and_the_recovery_are_logged(bench, caplog):
    caplog.set_level(logging.INFO)

    def fail(now):
        bench.source.says = DOWN if now < START + HOUR else DeniedError("cannot get it (403); ask")
        if now > START + 2 * HOUR:
            bench.source.says = (ME,)

    bench.run(3 * HOUR, fail)
    assert [line[:42] for line in messages(caplog)] == [
        "cannot reach the controller at http://c (r",
        "cannot get it (403); ask; the last good li",
    ]
    last = messages(caplog, logging.INFO)[-1]
    assert last == "the SSH keys are fetched again, after 120 min: 1 key"
    assert bench.keeper.state()["problem"] is None


@pytest.mark.parametrize(
    "lines", [("<!DOCTYPE html>", "<p>log in</p>"), ("maintenance",), ("key" * 1000,) * 1000]
)
def test_what_is_no_list_of_keys_is_a_failure(bench, lines):
    def spoil(now):
        bench.source.says = lines

    bench.run(300, spoil)
    assert bench.kept.lines == (ME,)
    assert bench.kept.fetched_at == START
    assert "none of its" in bench.keeper.state()["problem"]


def test_with_no_list_at_all_the_log_says_that_nobody_gets_in(bench, caplog):
    bench.source.says = DOWN
    bench.run(300)
    assert messages(caplog) == [f"{DOWN}; there is no list yet, so nobody gets in"]
    assert bench.keeper.state()["fetched_at"] is None
    assert bench.keeper.state()["age_seconds"] is None
    assert bench.changes == 0


def test_a_list_that_cannot_be_kept_is_in_force_all_the_same(bench):
    bench.layout.volume.parent.mkdir(parents=True)
    bench.layout.volume.write_text("in the way")
    bench.run(90)
    assert bench.keeper.state()["problem"].startswith("cannot keep the SSH keys in ")
    assert (bench.changes, bench.in_force) == (1, (ME,))
    bench.layout.volume.unlink()
    bench.run(90)
    assert bench.keeper.state()["problem"] is None
    assert bench.kept.lines == bench.in_force


def test_a_fetch_that_hangs_fails_in_time_and_no_other_one_piles_up(tmp_path):
    go_on = threading.Event()
    source = Source(ME)

    def hang():
        source.asked += 1
        go_on.wait(20)
        return SshKeys((ME,))

    keeper = Keeper(Layout(tmp_path), "hello", hang, period=60.0, on_change=nothing,
                    on_state=nothing, pace=Pace(deadline=0.01))  # fmt: skip

    async def refresh_thrice():
        problems = []
        for _ in range(3):
            with pytest.raises(RunAgentError) as caught:
                await keeper.refresh()
            problems.append(str(caught.value))
        go_on.set()
        await asyncio.wait({keeper._asking})
        assert source.asked == 1
        keeper._fetch, keeper._pace = Source(YOU), Pace()  # what came too late is too old
        assert (await keeper.refresh())["keys"] == 1
        return problems

    assert all("no answer within 0.01 s" in text for text in asyncio.run(refresh_thrice()))
    assert load(Layout(tmp_path), "hello").lines == (YOU,)


def test_a_bug_in_a_fetch_is_not_taken_for_a_failure(bench):
    bench.source.says = ZeroDivisionError("a bug")
    with pytest.raises(ZeroDivisionError):
        asyncio.run(bench.keeper.run())


# -- refresh


def test_a_refresh_fetches_now_and_names_what_was_rejected(bench):
    bench.source.says = (ME, BAD)
    answer = asyncio.run(bench.keeper.refresh())
    assert answer == {
        "keys": 1,
        "rejected": 1,
        "fetched_at": "2023-11-14T22:13:20Z",
        "age_seconds": 0,
        "problem": None,
        "rejected_lines": ["line 2 (bad): unknown option 'frob'"],
    }
    json.dumps(answer)


def test_a_refresh_that_fails_says_what_stays(bench):
    async def twice():
        await bench.keeper.refresh()
        bench.clock.now += 300
        bench.source.says = DeniedError("cannot get it (403); check APP_KEY")
        await bench.keeper.refresh()

    with pytest.raises(RunAgentError) as caught:
        asyncio.run(twice())
    assert str(caught.value) == (
        "cannot get it (403); check APP_KEY; the last good list (1 key, 5 min old) stays"
    )
    assert caught.value.exit_code == DeniedError.exit_code


def test_refreshes_wait_for_a_fetch_that_runs_and_then_share_one(tmp_path):
    started, go_on = threading.Event(), threading.Event()
    answers = [(ME,), (ME, YOU)]
    asked = []

    def fetch():
        asked.append(answers.pop(0))
        started.set()
        assert go_on.wait(20)
        return SshKeys(asked[-1])

    keeper = Keeper(Layout(tmp_path), "hello", fetch, period=60.0,
                    on_change=nothing, on_state=nothing)  # fmt: skip

    async def scenario():
        running = asyncio.create_task(keeper.run())
        await asyncio.to_thread(started.wait, 20)
        refreshes = [asyncio.create_task(keeper.refresh()) for _ in range(5)]
        await asyncio.sleep(0)  # they have asked
        go_on.set()
        found = await asyncio.gather(*refreshes)
        running.cancel()
        return found

    # The fetch that ran began before they asked, so it may have missed what they ask for.
    assert [answer["keys"] for answer in asyncio.run(scenario())] == [2] * 5
    assert len(asked) == 2


# -- where from


def test_a_file_of_keys_is_read_anew_each_time(tmp_path):
    path = tmp_path / "keys"
    path.write_text(f"{ME}\n\n{YOU}\n")
    options = settings.load({"SSH_KEYS_FILE": str(path), "CONTROLLER_URL": "none"})
    fetch = keys.source(options, None)
    assert fetch().lines == (ME, YOU)
    path.write_text("")
    assert fetch().lines == ()


def test_a_file_of_keys_that_is_missing_or_no_text_is_a_failure(tmp_path):
    path = tmp_path / "keys"
    options = settings.load({"SSH_KEYS_FILE": str(path), "CONTROLLER_URL": "none"})
    fetch = keys.source(options, None)
    with pytest.raises(UnavailableError, match=r"no such file.*SSH_KEYS_FILE"):
        fetch()
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(UnavailableError, match="not UTF-8"):
        fetch()


def test_without_any_source_the_settings_are_wrong():
    with pytest.raises(SettingsError, match="SSH_KEYS_FILE"):
        keys.source(settings.load({"CONTROLLER_URL": "none"}), None)
