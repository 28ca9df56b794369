"""What a fresh interpreter really loads: PID 1 and the resident agent stay small."""

import json
import subprocess
import sys

import pytest

from support.house import COSTLY_FOR_PID_1, ROOT

DEADLINE_SECONDS = 60

HEAVY = {"aiohttp", "asyncssh", "google", "isal", "kubernetes", "pydantic", "zstandard"}
"""What the resident agent never holds: workers and sshd do, and take it with them."""

SCRIPT = """
import importlib, json, sys
sys.path.insert(0, sys.argv[1])
for module in sys.argv[2:]:
    importlib.import_module(module)
print(json.dumps(sorted(sys.modules.keys() - {"__main__"})))
"""


def _loaded(*modules: str, flags: tuple[str, ...] = ()) -> set[str]:
    """Import `modules` in an interpreter of their own and return the packages it then holds."""
    argv = [sys.executable, "-I", *flags, "-c", SCRIPT, str(ROOT), *modules]
    child = subprocess.run(argv, capture_output=True, timeout=DEADLINE_SECONDS, check=False)
    assert child.returncode == 0, child.stderr.decode()
    return {name.partition(".")[0] for name in json.loads(child.stdout)}


@pytest.fixture(scope="module")
def pid_1() -> set[str]:
    files = (ROOT / "entrypoint" / "init").glob("*.py")
    # Without site (-S) not even a third party's start-up file is there to help.
    return _loaded(*(f"entrypoint.init.{file.stem}" for file in files), flags=("-S",))


def test_pid_1_holds_the_standard_library_only(pid_1):
    assert pid_1 - sys.stdlib_module_names <= {"entrypoint"}


def test_pid_1_holds_nothing_costly(pid_1):
    assert not pid_1 & COSTLY_FOR_PID_1


def test_the_resident_agent_holds_nothing_heavy():
    assert not _loaded("entrypoint.agent", "entrypoint.ssh") & HEAVY


def test_the_program_for_files_holds_the_standard_library_only():
    held = _loaded("run_agent.ssh.files.__main__", flags=("-S",))
    assert held - sys.stdlib_module_names <= {"run_agent"}
    assert not held & {"asyncio", "logging"}  # it starts for every transfer


@pytest.mark.parametrize("verb", ["shell", "run", "remote_console", "observer"])
def test_a_verb_starts_without_what_only_the_agent_needs(verb):
    assert not _loaded(f"entrypoint.commands.{verb}") & (HEAVY | {"asyncio", "requests"})
