"""Podman and runc with a storage of their own, so that nobody else's containers are touched."""

import hashlib
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

from support.need import need

CACHE = Path(__file__).resolve().parents[2] / ".cache" / "container"

COMMAND_SECONDS = 600.0
"""How long one command may take: a build beside other tests is the slowest."""

LIMITS = ("--ulimit=nofile=1000:1000", "--ulimit=nproc=1000:1000")
"""podman asks for more than it may have where limits are fixed."""


def need_podman() -> None:
    """Skip the test where containers cannot be run or their base cannot be made."""
    need(os.geteuid() == 0, "root, for containers")
    for program in ("podman", "runc", "debootstrap"):
        need(shutil.which(program), f"no {program} on the PATH (`make system` installs it)")


def argv(*arguments: object) -> list[str]:
    """Return a podman command in our own storage."""
    # podman wants a short path for what lives in memory: it holds Unix sockets
    place = f"/run/run-agent-tests/{hashlib.sha256(bytes(CACHE)).hexdigest()[:8]}"
    return [
        "podman", "--root", f"{CACHE}/storage", "--runroot", place, "--tmpdir", f"{place}/podman",
        "--storage-driver=overlay",
        "--storage-opt=overlay.skip_mount_home=true",  # so that .cache can be removed
        "--runtime=runc", "--cgroup-manager=cgroupfs", "--events-backend=none",
        *map(str, arguments),
    ]  # fmt: skip


def run(*arguments: object, **options: Any) -> "subprocess.CompletedProcess[str]":
    """Run podman to its end; fails with what it said."""
    return command(*argv(*arguments), **options)


def command(*words: object, **options: Any) -> "subprocess.CompletedProcess[str]":
    """Run any program to its end; fails with what it said."""
    options = {"stdin": subprocess.DEVNULL, "timeout": COMMAND_SECONDS} | options
    done = subprocess.run(
        list(map(str, words)), capture_output=True, text=True, check=False, **options
    )
    said = f"{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
    assert done.returncode == 0, f"{words} ended with {done.returncode}:\n{said}"
    return done
