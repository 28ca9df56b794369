"""Wrong settings end a boot before anything is written, all of them in one message."""

import os

import pytest

from support.replica import environment, run_agent

WRONG = {
    "CONTROLLER_URL": "ftp://nowhere",
    "PORT": "http",
    "HEALTH_PORT": "0",
    "READY_CHECK": "tcp",
    "DRAIN_SECONDS": "-1",
    "GRACE_SECONDS": "soon",
    "RESTART": "always",
    "LOG_FORMAT": "xml",
    "SLUG_MAX_BYTES": "many",
}


def boot(root, *arguments, **settings):
    return run_agent(*arguments, environ=environment(root) | settings)


def test_all_wrong_settings_are_listed_at_once_and_nothing_is_written(tmp_path):
    done = boot(tmp_path / "root", "init", "no/name", **WRONG)
    assert done.returncode == os.EX_CONFIG
    first, *problems = done.stderr.splitlines()
    assert first == "run-agent: cannot start with these settings:"
    assert all(f"  - {name}=" in done.stderr for name in WRONG)
    assert "the app's name 'no/name'" in done.stderr
    assert len(problems) == len(WRONG) + 1
    assert (done.stdout, (tmp_path / "root").exists()) == ("", False)


def test_what_is_missing_and_what_contradicts_is_listed_too(tmp_path):
    done = boot(tmp_path / "root", "init", "hello", PORT="x", DRAIN_SECONDS="30")
    assert done.returncode == os.EX_CONFIG
    assert [line[4:].partition(" ")[0] for line in done.stderr.splitlines()[1:]] == [
        "PORT='x'", "DRAIN_SECONDS=30", "APP_KEY",
    ]  # fmt: skip
    assert not (tmp_path / "root").exists()


def test_a_malformed_secret_is_not_shown(tmp_path):
    done = boot(tmp_path / "root", "init", "hello", APP_KEY="s3cret", PORT="x")
    assert "s3cret" not in done.stderr + done.stdout


@pytest.mark.parametrize("arguments", [["init"], ["bootstrap", "hello"], ["exec"], ["nonsense"]])
def test_wrong_usage_ends_with_64_and_says_how_it_is_right(tmp_path, arguments):
    done = boot(tmp_path / "root", *arguments)
    assert done.returncode == os.EX_USAGE
    assert "--help" in done.stderr
    assert not (tmp_path / "root").exists()
