"""Upgrades that fail, on whole replicas: what the build does, what is full, what is lost."""

import contextlib
import gzip
import io
import os
import subprocess
import tarfile

import psutil
import pytest

from support import long_tests, upgrade_slugs
from support.changing import NEW, OLD, STEPS, Change, Line, Site
from support.http_server import Answer
from support.need import need
from support.platform import volume

KINDS = ("mix", "relx", "distillery2")
VERIFY = {"UPGRADE_VERIFY_SECONDS": "5"}
"""Long enough for a good build on a busy machine, short enough to wait for a bad one."""


def starts(site):
    return len(site.replica.events("release started"))


# -- bad builds -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_code_change_raises(platform, kind):
    """The node reboots itself, in the same process."""
    site = Site(platform, kind)
    pid = site.replica.release_pid
    with Line(site.replica):
        ended = site.upgrade("raising").end()
    assert (ended.code, ended.outcome["verdict"]) == (12, "failed and recovered"), ended
    assert ended.outcome["serves"] == OLD
    assert "0.1.0 serves again" in ended.outcome["message"]
    assert (site.replica.release_pid, starts(site)) == (pid, 1)
    site.assert_sound(OLD)


@pytest.mark.parametrize("kind", KINDS)
def test_not_ready_in_time(platform, kind):
    """Back by the relup: whoever is connected stays so."""
    site = Site(platform, kind, VERIFY)
    pid = site.replica.release_pid
    with Line(site.replica) as line:
        ended = site.upgrade("hanging").end()
        assert (ended.code, ended.outcome["serves"]) == (12, OLD), ended
        assert "(UPGRADE_VERIFY_SECONDS)" in ended.outcome["message"]
        site.assert_sound(OLD)
        line.assert_goes_on()
    assert (site.replica.release_pid, starts(site)) == (pid, 1)


def test_the_vm_crashes_soon_after(platform):
    """PID 1 starts the old version again, whatever RESTART says."""
    site = Site(platform, "mix", {"UPGRADE_SETTLE_SECONDS": "5", "RESTART": "never"})
    ended = site.upgrade("crashing").end()
    assert (ended.code, ended.outcome["serves"]) == (12, OLD), ended
    assert "crashed on it" in ended.outcome["message"]
    assert starts(site) == 2
    site.assert_sound(OLD)


def test_not_ready_and_no_way_back(platform):
    site = Site(platform, "mix", VERIFY | {"RESTART": "never"})
    platform.deploy(hanging_without_way_back(), version="one-way")
    ended = Change(site.replica, "upgrade").end()
    assert (ended.code, ended.outcome["serves"]) == (12, OLD), ended
    assert any("no way back to 0.1.0" in note for note in ended.outcome["notes"])
    assert starts(site) == 2
    site.assert_sound(OLD)


def hanging_without_way_back():
    """Return the slug of the build that hangs, with the relup of the one without a way down."""
    name = f"releases/{NEW}/relup"
    with tarfile.open(upgrade_slugs.slug("mix", NEW, "one_way")) as tar:
        relup = tar.extractfile(name).read()
    packed = io.BytesIO()
    with (
        tarfile.open(upgrade_slugs.slug("mix", NEW, "hanging")) as source,
        gzip.GzipFile("", "wb", 1, packed, mtime=0) as stream,
        tarfile.open(mode="w", fileobj=stream) as target,
    ):
        for member in source:
            content = source.extractfile(member) if member.isreg() else None
            if member.name == name:
                content, member.size = io.BytesIO(relup), len(relup)
            target.addfile(member, content)
    return packed.getvalue()


@pytest.mark.skipif(
    not long_tests.LONG, reason="a node has a minute to answer again; RUN_AGENT_LONG_TESTS=1"
)
def test_the_vm_hangs_once_it_is_installed(platform):
    """What cannot be asked is started again, in the old version."""
    site = Site(platform, "mix", VERIFY | {"UPGRADE_SETTLE_SECONDS": "5", "RESTART": "never"})
    vm = psutil.Process(site.replica.release_pid)
    change = site.upgrade().until("verifying")
    vm.suspend()
    ended = change.end()
    assert (ended.code, ended.outcome["serves"]) == (12, OLD), (ended, site.replica.log)
    assert starts(site) == 2
    site.assert_sound(OLD)


@pytest.mark.parametrize("kind", KINDS)
def test_no_relup_and_then_one(platform, kind):
    site = Site(platform, kind)
    with Line(site.replica) as line:
        ended = site.upgrade("no_relup").end()
        assert (ended.code, ended.outcome["verdict"]) == (10, "refused"), ended
        assert "it has no releases/0.2.0/relup" in ended.outcome["message"]
        site.assert_sound(OLD)
        line.assert_goes_on()


def test_what_failed_is_tried_again_by_force_alone(platform):
    site = Site(platform, "mix")
    with Line(site.replica):
        assert site.upgrade("raising").end().code == 12
    refused = site.upgrade("raising").end()
    assert refused.code == 10, refused
    assert "--force tries again" in refused.outcome["message"]
    assert site.upgrade("raising", "--force").end().code == 0  # nobody is connected now
    site.assert_sound(NEW)


# -- full disks -----------------------------------------------------------------------------------


class Disk:
    """A file system of its own at `folder`, which can be filled to the last byte."""

    def __init__(self, folder, megabytes):
        need(os.geteuid() == 0, "a small file system can be mounted by root only")
        self.folder = folder
        folder.mkdir(parents=True)
        mount = ("mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", folder)
        done = subprocess.run(mount, capture_output=True, check=False)
        need(done.returncode == 0, f"no tmpfs can be mounted here: {done.stderr.decode()}")

    def fill(self):
        ballast = os.open(self.folder / "ballast", os.O_WRONLY | os.O_CREAT)
        try:
            for size in (1 << 20, 1 << 12, 1):
                with contextlib.suppress(OSError):
                    while os.write(ballast, bytes(size)):
                        pass
        finally:
            os.close(ballast)

    def free(self):
        (self.folder / "ballast").unlink(missing_ok=True)

    def unmount(self):
        subprocess.run(("umount", "--lazy", self.folder), check=True)


@pytest.fixture
def disk(request):
    """Return what mounts a disk at a folder."""

    def mount(folder, megabytes):
        disk = Disk(folder, megabytes)
        request.addfinalizer(disk.unmount)
        return disk

    return mount


FULL_SECONDS = 2.0
"""How long the run folder stays full: nothing can be asked of the node meanwhile."""


def test_the_volume_is_full(platform, disk, tmp_path):
    """At whichever step it fills up, one version serves, and with room again upgrades work."""
    small = disk(volume(tmp_path / "replica"), 200)
    site = Site(platform, "mix", root=tmp_path / "replica")
    for step in STEPS:
        change = site.upgrade_anew(until=step)
        small.fill()
        ended = change.end()
        assert ended.code in {0, 11, 12}, (step, ended, site.replica.log)
        site.until_quiet()
        site.assert_told()
        small.free()
        site.assert_sound(ended.outcome["serves"])
        site.back()


def test_the_run_folder_is_full_for_a_while(platform, disk, tmp_path):
    small = disk(tmp_path / "replica" / "run" / "run-agent", 8)
    site = Site(platform, "mix", root=tmp_path / "replica")
    for step in STEPS:
        change = site.upgrade_anew(until=step)
        small.fill()
        change.ends_within(FULL_SECONDS)
        small.free()
        ended = change.end()
        assert ended.code in {0, 11, 12}, (step, ended, site.replica.log)
        site.assert_sound(ended.outcome["serves"])
        site.back()


# -- lost services --------------------------------------------------------------------------------


def test_what_is_lost_before_the_fetch(platform):
    site = Site(platform, "mix")
    with Line(site.replica) as line:
        platform.controller.refuse()
        ended = site.upgrade().end()
        assert (ended.code, ended.outcome["serves"]) == (11, OLD), ended
        assert ended.outcome["verdict"] == "failed, nothing changed"
        assert "nothing has changed" not in ended.outcome["message"], "it would say so twice"
        platform.controller.accept()
        for lost in (Answer(status=503), Answer(cut_after=1_000_000, ranges=False)):
            ended = site.upgrade(usual=lost).end()
            assert (ended.code, ended.outcome["serves"]) == (11, OLD), ended
        site.assert_sound(OLD)
        line.assert_goes_on()


def test_what_is_lost_after_the_fetch_is_not_missed(platform):
    site = Site(platform, "mix")
    change = site.upgrade().until("checking")
    platform.controller.refuse()
    platform.storage.close()
    ended = change.end()
    assert (ended.code, ended.outcome["serves"]) == (0, NEW), ended
    site.until_quiet()
    assert site.assert_told() == NEW
    site.back()


# -- others at the same time ----------------------------------------------------------------------


def test_one_change_at_a_time_and_its_client_may_go(platform):
    site = Site(platform, "mix", {"UPGRADE_SETTLE_SECONDS": "2", "UPGRADE_VERIFY_SECONDS": "60"})
    vm = psutil.Process(site.replica.release_pid)
    change = site.upgrade().until("verifying")
    vm.suspend()  # so that it lasts until all have asked
    since = site.status()["change"]["since"]
    others = ("upgrade",), ("downgrade", OLD), ("reconfigure",), ("migrate",)
    for verb in others:
        done = site.replica.verb(*verb)
        assert done.returncode == 14, (verb, done)
        assert f"the upgrade to the current deploy is under way since {since}" in done.stderr
    change.kill()
    vm.resume()
    site.replica.until_said("upgrade: done: 0.2.0 serves")
    site.assert_sound(NEW)
