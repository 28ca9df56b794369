"""Everything that the image ships runs on glibc 2.17 (cedar:14 has 2.19), on both architectures.

cedar:14 itself cannot be run everywhere; this is what proves that it would load each file.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from support.house import ROOT
from support.need import need

CHECK = ROOT / "scripts" / "image" / "elf_floor.py"
LOCK = ROOT / "requirements.lock"
UV = Path(sys.executable).with_name("uv")

DEADLINE_SECONDS = 280

NO_INDEX = ("error sending request", "Connection refused", "dns error")
"""What uv says where the package index cannot be reached."""


def check(*arguments: object) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, CHECK, *map(str, arguments)]
    return subprocess.run(
        argv, capture_output=True, text=True, timeout=DEADLINE_SECONDS, check=False
    )


@pytest.fixture(params=["x86_64", "aarch64"])
def wheels(request, tmp_path):
    """Install every wheel of the lock that fits glibc 2.17 on that machine, and nothing else."""
    done = subprocess.run(
        [
            UV, "pip", "install", "--quiet", f"--target={tmp_path}", "--python-version=3.11",
            f"--python-platform={request.param}-manylinux_2_17", "--only-binary=:all:",
            "--no-deps", "--require-hashes", f"--requirement={LOCK}",
        ],
        capture_output=True, text=True, timeout=DEADLINE_SECONDS, check=False,
    )  # fmt: skip
    need(not any(sign in done.stderr for sign in NO_INDEX), "the package index")
    assert done.returncode == 0, f"a wheel is missing for {request.param}: {done.stderr}"
    yield tmp_path
    shutil.rmtree(tmp_path)


def test_every_wheel_of_the_lock_fits(wheels):
    done = check(wheels)
    assert done.returncode == 0, done.stderr
    assert "GLIBC_2." in done.stdout
    assert int(done.stdout.split()[0]) > 20, "so many of them are compiled"


def test_a_file_that_is_too_new_is_named_with_what_it_needs(tmp_path):
    program = shutil.copy(sys.executable, tmp_path / "program")
    done = check("--glibc=2.0", tmp_path)
    assert done.returncode == 1
    assert f"cannot ship this: {program} needs GLIBC_2." in done.stderr
    assert " of libc.so.6\n" in done.stderr


def test_this_machines_programs_would_not_do():
    """Debian 12's and later ones, which a build on the wrong image would take."""
    need(os.confstr("CS_GNU_LIBC_VERSION").split()[1] >= "2.34", "a glibc of today")
    done = check(shutil.which("ls"))
    assert done.returncode == 1
    assert " needs GLIBC_2.34 of libc.so.6" in done.stderr


def test_a_library_that_neither_ships_nor_is_everywhere_is_named(tmp_path):
    (extension,) = Path(sys.executable).parents[1].rglob("google_crc32c/_crc32c*.so")
    (library,) = Path(sys.executable).parents[1].rglob("google_crc32c.libs/libcrc32c*.so*")
    shutil.copy(extension, tmp_path)
    done = check(tmp_path)
    assert done.returncode == 1
    assert f"needs {library.name}, which is neither shipped nor in every base" in done.stderr
    shutil.copy(library, tmp_path)
    assert check(tmp_path).returncode == 0


def test_a_tree_without_programs_is_fine(tmp_path):
    (tmp_path / "elf").write_bytes(b"\x7fEL")
    assert check(tmp_path).stdout == "0 ELF files need at most nothing\n"


def test_a_tree_that_is_not_there_is_an_error(tmp_path):
    done = check(tmp_path / "missing")
    assert done.returncode != 0
    assert "missing" in done.stderr
