"""Where it can run: as anybody, on a read-only root, beside others, and where it cannot."""

import json
import os
import stat
import subprocess

import pytest

from support.need import need
from support.replica import AS_NOBODY, NOBODY, status_of

READ_ONLY = """
set -e
root=$1; shift
mkdir -p "$root/run/run-agent" "$root/var/lib/run-agent"
mount --bind "$root" "$root"
mount -t tmpfs tmpfs "$root/run/run-agent"
mount -t tmpfs tmpfs "$root/var/lib/run-agent"
mount -o remount,bind,ro "$root"
mount -o remount,bind,ro /
exec "$@"
"""


def read_only_in(root):
    """Return a wrapper: the root file system, and `root` in it, cannot be written."""
    need(os.geteuid() == 0, "root, to mount")
    return ("unshare", "--mount", "--", "bash", "-c", READ_ONLY, "bash", str(root))


def test_a_second_one_in_the_same_root_is_refused_and_the_first_goes_on(boot):
    first = boot("sleep", "600").until_ready()
    second = boot("sleep", "600", root=first.root)
    assert second.wait() == os.EX_TEMPFAIL
    (line,) = first.events("cannot start in")  # they share the file of the log
    assert line["message"] == (
        f"cannot start in {first.root}/run/run-agent: another run-agent runs there; stop it, or "
        "set RUN_AGENT_ROOT; a command beside what runs there is started by `run-agent run CMD`"
    )
    assert first.is_ready()
    assert first.verb("status").returncode == 0
    assert len(first.events("release started")) == 1
    assert first.term().wait() == 143


def test_an_ordinary_user_needs_no_more_than_two_folders(start, tmp_path):
    need(os.geteuid() == 0, "root, to be somebody else")
    root = tmp_path / "root"
    for folder in ("run/run-agent", "var/lib/run-agent"):
        (root / folder).mkdir(parents=True)
        os.chown(root / folder, NOBODY, NOBODY)
    replica = start("sleep", "600", root=root, wrapper=AS_NOBODY).until_ready()
    for pid in (replica.pid, replica.release_pid, replica.agent_pid):
        assert set(status_of(pid)["Uid"].split()) == {str(NOBODY)}
    assert replica.verb("status", wrapper=AS_NOBODY).returncode == 0
    assert replica.verb("status").returncode == 0, "root may ask"
    assert replica.term().wait() == 143
    assert replica.alive() == []


def test_a_read_only_root_file_system_needs_no_more_than_two_mounts(boot, tmp_path):
    root = tmp_path / "root"
    replica = boot("sleep", "600", root=root, wrapper=read_only_in(root)).until_ready()
    inside = ("nsenter", "--target", str(replica.pid), "--mount", "--pid", "--")
    written = subprocess.run([*inside, "touch", str(root / "x")], capture_output=True, check=False)
    assert b"Read-only file system" in written.stderr
    status = replica.verb("status", "--json", wrapper=inside, check=True)
    assert json.loads(status.stdout)["ready"]
    assert replica.term().wait() == 143


@pytest.mark.parametrize("folder", ["run/run-agent", "var/lib/run-agent"])
def test_a_folder_that_cannot_be_made_is_named_with_what_to_do(boot, tmp_path, folder):
    root = tmp_path / "root"
    (root / folder).parent.mkdir(parents=True)
    (root / folder).write_text("not a folder")
    replica = boot("sleep", "600", root=root)
    assert replica.wait() == os.EX_OSERR
    (line,) = replica.events()
    assert line["message"] == (
        f"cannot write {root}/{folder} (File exists): mount a volume there that user "
        f"{os.geteuid()} may write"
    )


@pytest.mark.parametrize("folder", ["run/run-agent", "var/lib/run-agent"])
def test_a_folder_of_somebody_else_is_named_with_what_to_do(start, tmp_path, folder):
    need(os.geteuid() == 0, "root, to be somebody else")
    root = tmp_path / "root"
    for path in ("run/run-agent", "var/lib/run-agent"):
        (root / path).mkdir(parents=True)
        if path != folder:
            os.chown(root / path, NOBODY, NOBODY)
    replica = start("sleep", "600", root=root, wrapper=AS_NOBODY)
    if folder == "run/run-agent":
        assert replica.wait() == os.EX_OSERR
    else:
        replica.until_ready()  # a command needs no volume, but a report of an unclean end does
    message = replica.events("cannot write")[0]["message"]
    assert f"cannot write {root}/{folder}/" in message
    assert "(Permission denied)" in message


def test_nothing_outside_the_root_is_written(boot, tmp_path):
    """All that appears is in the run folder and on the volume, and only for ourselves."""
    replica = boot("sleep", "600").until_ready()
    ours = {replica.root / "run", replica.root / "var", replica.out, replica.err}
    assert set(replica.root.iterdir()) == ours
    run = replica.root / "run/run-agent"
    assert stat.S_IMODE(run.stat().st_mode) == 0o700
    for file in set(run.iterdir()) - {run / "bin"}:
        assert stat.S_IMODE(file.stat().st_mode) == 0o600, file
    assert {file.name for file in (run / "bin").iterdir()} == {"run-agent", "gigalixir_run"}
    assert replica.term().wait() == 143
    assert list((replica.root / "var/lib/run-agent").iterdir()) == []
