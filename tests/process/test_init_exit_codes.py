"""The exit code of the container is that of the release, and one line of the log names its end."""

import signal
from concurrent.futures import ThreadPoolExecutor

import pytest

from support.long_tests import LONG

AT_ONCE = 4
"""Replicas at a time: each is a few short processes."""

STOPPED_OR_IGNORED = {"CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG", "WINCH"}
REAL_TIME = range(signal.SIGRTMIN, signal.SIGRTMAX + 1)
DEADLY = [
    *sorted(number for number in signal.Signals if number.name[3:] not in STOPPED_OR_IGNORED),
    *(REAL_TIME[1:-1] if LONG else ()),
]
SOME_CODES = (0, 1, 2, 63, 64, 65, 126, 127, 128, 129, 137, 143, 192, 193, 254, 255)
ALL_CODES = tuple(range(256)) if LONG else SOME_CODES


def codes_of(start, scripts, **options):
    """Run every shell script as a release, several at a time, and return all exit codes."""
    replicas = (["sh", "-c", script] for script in scripts)
    quiet = {"settings": {"HEALTH_PORT": "none"}} | options
    with ThreadPoolExecutor(AT_ONCE) as pool:
        return list(pool.map(lambda command: start(*command, **quiet).wait(60), replicas))


def test_every_exit_code_of_the_release_is_that_of_pid_1(start):
    scripts = [f"exit {code}" for code in ALL_CODES]
    assert codes_of(start, scripts, as_pid_1=True) == list(ALL_CODES)


def test_outside_a_container_the_codes_are_the_same(start):
    assert codes_of(start, [f"exit {code}" for code in SOME_CODES]) == list(SOME_CODES)


def test_every_signal_that_kills_the_release_gives_128_and_its_number(boot):
    scripts = [f"ulimit -c 0; kill -{int(number)} $$" for number in DEADLY]
    assert codes_of(boot, scripts) == [128 + number for number in DEADLY]


@pytest.mark.parametrize(
    ("script", "code", "named"),
    [
        ("exit 0", 0, ": exit code 0"),
        ("exit 3", 3, ": exit code 3"),
        ("exit 200", 200, ": exit code 200"),
        ("kill -9 $$", 137, ": SIGKILL, exit code 137"),
        ("kill -40 $$", 168, ": signal 40, exit code 168"),
    ],
)
def test_an_end_at_once_is_named_in_one_line(start, script, code, named):
    replica = start("sh", "-c", script)
    assert replica.wait() == code
    (line,) = replica.events("release ended")
    assert line["message"].endswith(named)
    assert line["exit_code"] == code
    assert line["severity"] == ("INFO" if code == 0 else "ERROR")


@pytest.mark.parametrize(
    ("command", "code", "reason"),
    [
        ("./missing", 127, "No such file or directory"),
        ("missing-on-the-path", 127, "No such file or directory"),
        ("./plain", 126, "Permission denied"),
        ("./folder", 126, "Permission denied"),
        ("./garbage", 126, "Exec format error"),
        ("./bad-interpreter", 127, "No such file or directory"),
    ],
)
def test_what_cannot_be_executed_ends_like_in_a_shell(boot, tmp_path, command, code, reason):
    root = tmp_path / "root"
    (root / "folder").mkdir(parents=True)
    (root / "plain").write_text("#!/bin/sh\nexit 0\n")
    for name, content in {"garbage": "\x7fELF?", "bad-interpreter": "#!/no/such\n"}.items():
        (root / name).write_text(content)
        (root / name).chmod(0o755)
    replica = boot(command, root=root)
    assert replica.wait() == code
    assert f"cannot execute {command} in {root} ({reason})" in replica.log
    assert replica.events(f"exit code {code}")


def test_a_release_that_ends_in_order_after_term_gives_its_own_code(boot):
    replica = boot("bash", "-c", "trap 'exit 42' TERM; echo up; while :; do sleep 0.05; done")
    replica.until_printed("up")
    assert replica.term().wait() == 42


def test_no_exit_code_is_lost_while_orphans_end_at_the_same_moment(boot):
    replica = boot("bash", "-c", "for i in {1..200}; do (sleep 0.1 &) ; done; sleep 0.1; exit 77")
    assert replica.wait() == 77
