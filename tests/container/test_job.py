"""`job` in a container of its own: output, exit code, time limit."""

import pytest

from support import small_slugs, tarballs


@pytest.fixture
def job(host):
    """Run `run-agent job --app hello -- COMMAND…` on a slug with a file in it."""
    file = tarballs.file("greeting", b"hello\n")
    host.deploy(small_slugs.running("exit 1", file), config={"COLOUR": "red"})

    def job(*command, **options):
        return host.boot(*command, verb=("job", "--app", "hello", "--"), network="none", **options)

    return job


@pytest.mark.parametrize("user", [None, "4242:4242"])
def test_it_runs_in_the_slug_and_its_output_and_code_are_the_containers(job, user):
    done = job("cat greeting; echo $COLOUR $APP_NAME; id -u; echo oh >&2; exit 42", user=user)
    assert done.wait() == 42
    assert done.stdout == f"hello\nred hello\n{(user or '0').split(':')[0]}\n"
    assert "oh\n" in done.log


def test_stdin_is_the_containers(job, tmp_path):
    (tmp_path / "in").write_text("from outside\n")
    with (tmp_path / "in").open() as stdin:
        done = job("cat", stdin=stdin, options=("--interactive",))
        assert done.wait() == 0
    assert done.stdout == "from outside\n"


def test_at_its_time_limit_it_ends_with_124(job):
    settings = {"JOB_TIMEOUT_SECONDS": "0.5", "GRACE_SECONDS": "2"}
    done = job(
        "trap '' TERM; (setsid sleep 600 &) ; while :; do sleep 0.1; done", settings=settings
    )
    assert done.wait() == 124
    assert done.events("JOB_TIMEOUT_SECONDS")


def test_a_stop_of_the_container_reaches_it(job):
    done = job("trap 'exit 6' TERM; echo up; while :; do sleep 0.02; done")
    done.until_printed("up")
    assert done.container.stop(20) == 6
