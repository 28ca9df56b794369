"""The image's own Python: fetched, verified, trimmed (scripts/image/python).

The real one cannot be fetched everywhere, so it is stood in for by a tarball of the interpreter
that runs this test, laid out as uv's builds are; what does the fetching is the real uv.
"""

import hashlib
import io
import json
import os
import platform
import subprocess
import sys
import sysconfig
import tarfile
from pathlib import Path

import pytest

from support.house import ROOT

SCRIPT = ROOT / "scripts" / "image" / "python"
VERSION = platform.python_version()
LIB = f"python/lib/python{sys.version_info[0]}.{sys.version_info[1]}"

LEFT_OUT = {"__pycache__", "site-packages", "test", "ensurepip", "idlelib", "lib-dynload"}
"""What makes the stand-in large, or is put there empty to see it go."""

TRIMMED = (
    "python/bin/pip3",
    "python/bin/python3-config",
    "python/include/python3/Python.h",
    "python/lib/libpython3.so",
    "python/lib/tcl9.0/init.tcl",
    f"{LIB}/config-3-x86_64-linux-gnu/libpython.a",
    f"{LIB}/ensurepip/__init__.py",
    f"{LIB}/idlelib/__init__.py",
    f"{LIB}/site-packages/pip/__init__.py",
    f"{LIB}/test/__init__.py",
)

DEADLINE_SECONDS = 120


@pytest.fixture(scope="module")
def tarball(tmp_path_factory):
    """Pack this interpreter, with empty files of what is to be trimmed."""
    path = tmp_path_factory.mktemp("python") / "python.tar.gz"
    with tarfile.open(path, "w:gz", compresslevel=1) as tar:
        tar.add(Path(sys.executable).resolve(), "python/bin/python3")
        tar.add(sysconfig.get_path("stdlib"), LIB, filter=_leave_out)
        tar.add(_extensions(), f"{LIB}/lib-dynload")
        for name in TRIMMED:
            tar.addfile(tarfile.TarInfo(name), io.BytesIO())
    return path


@pytest.fixture
def install(tarball, tmp_path):
    """Run the script with a uv that knows the stand-in only, by this digest."""

    def install(digest: str, python: str = "standalone") -> subprocess.CompletedProcess[str]:
        known = tmp_path / "known.json"
        known.write_text(json.dumps(_known(tarball, digest)))
        uv = {"UV_PYTHON_DOWNLOADS_JSON_URL": known.as_uri(), "UV_CACHE_DIR": str(tmp_path / "uv")}
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        return subprocess.run(
            [SCRIPT, tmp_path / "made"],
            env=uv | {"PATH": path}
            | {"RUN_AGENT_PYTHON": python, "RUN_AGENT_PYTHON_VERSION": VERSION},
            capture_output=True, text=True, timeout=DEADLINE_SECONDS, check=False,
        )  # fmt: skip

    return install


def test_it_becomes_an_environment_of_its_own(install, tarball, tmp_path):
    done = install(hashlib.sha256(tarball.read_bytes()).hexdigest())
    assert done.returncode == 0, done.stderr
    made = tmp_path / "made"
    asked = "import json, sys; print(sys.prefix, sys.base_prefix, json.__cached__)"
    told = subprocess.check_output([made / "bin" / "python", "-I", "-c", asked], text=True)
    prefix, base_prefix, cached = told.split()
    assert (prefix, base_prefix) == (str(made), str(made / "python"))
    assert Path(cached).read_bytes()[4:8] == b"\1\0\0\0", "an unchecked hash (PEP 552)"
    assert [name for name in TRIMMED if (made / name).exists()] == []
    assert sorted(path.name for path in made.iterdir()) == ["bin", "python", "pyvenv.cfg"]


def test_another_tarball_than_the_pinned_one_is_refused(install):
    done = install("0" * 64)
    assert done.returncode != 0
    assert "Hash mismatch" in done.stderr


def test_there_is_no_third_kind_of_python(install):
    done = install("0" * 64, python="conda")
    assert (done.returncode, done.stderr) == (
        os.EX_USAGE, "cannot use RUN_AGENT_PYTHON=conda: say standalone or base\n"
    )  # fmt: skip


def _leave_out(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
    return None if LEFT_OUT & set(Path(member.name).parts) else member


def _extensions() -> Path:
    """Return the folder of the standard library's compiled modules."""
    import _json

    return Path(_json.__file__).parent


def _known(tarball: Path, digest: str) -> dict[str, object]:
    """Return uv's list of builds with one entry."""
    major, minor, patch = sys.version_info[:3]
    machine = os.uname().machine
    about = {
        "name": "cpython", "arch": {"family": machine, "variant": None}, "os": "linux",
        "libc": "gnu", "major": major, "minor": minor, "patch": patch, "prerelease": "",
        "url": tarball.as_uri(), "sha256": digest, "variant": None, "build": "20260101",
    }  # fmt: skip
    return {f"cpython-{VERSION}-linux-{machine}-gnu": about}
