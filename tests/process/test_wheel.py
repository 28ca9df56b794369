"""The wheel holds the three packages, whole, and nothing else."""

import subprocess
import sys
import zipfile

import pytest

from support.house import PACKAGES, ROOT

DEADLINE_SECONDS = 60


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> zipfile.Path:
    folder = tmp_path_factory.mktemp("wheel")
    argv = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(argv, cwd=ROOT, check=True, capture_output=True, timeout=DEADLINE_SECONDS)
    (path,) = folder.iterdir()
    return zipfile.Path(path)


def test_it_installs_exactly_the_three_packages(wheel):
    names = {entry.name for entry in wheel.iterdir()}
    assert {name for name in names if not name.endswith(".dist-info")} == set(PACKAGES)


def test_it_holds_every_file_of_the_packages(wheel):
    files = {name for name in wheel.root.namelist() if not name.endswith("/")}
    assert {name for name in files if ".dist-info/" not in name} == {
        str(path.relative_to(ROOT))
        for package in PACKAGES
        for path in (ROOT / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


def test_it_installs_both_commands(wheel):
    (scripts,) = (entry for entry in wheel.iterdir() if entry.name.endswith(".dist-info"))
    text = (scripts / "entry_points.txt").read_text()
    assert "run-agent = entrypoint.cli:main" in text
    assert "gigalixir_run = entrypoint.cli:main" in text
