"""The rules of the house, read from the source: who may open which door, and what PID 1 imports.

The layers are import-linter's (pyproject.toml); what really gets imported is tested in
tests/process/test_clean_interpreter.py.
"""

import ast
import sys
from collections.abc import Iterator

import pytest

from run_agent import settings
from support.house import COSTLY_FOR_PID_1, PACKAGES, ROOT

SOURCES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))

DOORS = {
    "reads the environment": (
        {"os.environ", "os.environb", "os.getenv", "os.getenvb"},
        {"entrypoint/agent.py", "entrypoint/cli.py", "entrypoint/init", "entrypoint/sshd.py"},
    ),
    "starts a process": (
        {
            "asyncio.create_subprocess_exec",
            "asyncio.create_subprocess_shell",
            "concurrent.futures.ProcessPoolExecutor",
            "multiprocessing",
            "os.fork",
            "os.forkpty",
            "os.popen",
            "os.posix_spawn",
            "os.posix_spawnp",
            "os.system",
            "pty",
            "subprocess",
        },
        {"entrypoint/init", "run_agent/process.py"},
    ),
    "prints": ({"print", "input"}, {"entrypoint/cli.py", "entrypoint/commands"}),
    "exits": (
        {"SystemExit", "exit", "os._exit", "quit", "sys.exit"},
        # Besides those that speak to a person, the programs: PID 1, agent, sshd, workers.
        {
            "entrypoint/agent.py",
            "entrypoint/cli.py",
            "entrypoint/commands",
            "entrypoint/init",
            "entrypoint/sshd.py",
            "run_agent/cluster/worker.py",
            "run_agent/slug/worker.py",
            "run_agent/ssh/files/__main__.py",
        },
    ),
    "speaks HTTP": (
        {"aiohttp", "http.client", "requests", "urllib.request", "urllib3"},
        {"run_agent/cluster/worker.py", "run_agent/controller", "run_agent/storage"},
    ),
    "holds the SSH library": ({"asyncssh"}, {"run_agent/ssh/daemon"}),
    "holds Google's library": ({"google"}, {"run_agent/storage"}),
    "holds the Kubernetes library": ({"kubernetes"}, {"run_agent/cluster"}),
}
"""What only some may do: the names that do it, and the files and folders that may."""


def uses(source: str) -> Iterator[tuple[int, str]]:
    """Yield line and dotted name of everything that `source` imports or refers to by name."""
    tree = ast.parse(source)
    origins: dict[str, str] = {}
    for line, local, origin in _imports(tree):
        origins[local] = origin
        yield line, origin
    for node in ast.walk(tree):
        if isinstance(node, ast.Name | ast.Attribute) and (name := _dotted(node)):
            first, dot, rest = name.partition(".")
            yield node.lineno, origins.get(first, first) + dot + rest


def _imports(tree: ast.AST) -> Iterator[tuple[int, str, str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                local = alias.asname or alias.name.partition(".")[0]
                yield node.lineno, local, alias.name if alias.asname else local
                yield node.lineno, alias.name, alias.name
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                yield node.lineno, alias.asname or alias.name, f"{node.module}.{alias.name}"


def _dotted(node: ast.expr) -> str | None:
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute) and (owner := _dotted(node.value)):
        return f"{owner}.{node.attr}"
    return None


def _is_or_in(name: str, owners: set[str], separator: str) -> bool:
    return any(name == owner or name.startswith(owner + separator) for owner in owners)


@pytest.mark.parametrize("door", DOORS)
def test_a_door_is_opened_only_by_its_owners(door):
    names, owners = DOORS[door]
    strangers = {
        f"{path.relative_to(ROOT)}:{line} {door} ({name})"
        for path in SOURCES
        if not _is_or_in(str(path.relative_to(ROOT)), owners, "/")
        for line, name in uses(path.read_text())
        if _is_or_in(name, names, ".")
    }
    assert not strangers, "\n".join(sorted(strangers))


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("import os\nos.environ['A']", "os.environ"),
        ("import os as o\no.environ.get('A')", "os.environ.get"),
        ("from os import environ as e\ne['A']", "os.environ"),
        ("def f():\n    from subprocess import run\n    run()", "subprocess.run"),
        ("import google.cloud\ngoogle.cloud.storage.Client()", "google.cloud.storage.Client"),
        ("import google.cloud.storage as gcs", "google.cloud.storage"),
        ("raise SystemExit(3)", "SystemExit"),
        ("[print(x) for x in y]", "print"),
    ],
)  # fmt: skip
def test_no_spelling_hides_a_use(source, name):
    assert name in {used for _, used in uses(source)}


def test_a_word_alone_is_no_use():
    source = '"os.environ"\nimport asyncio\nchild.environ\nasyncio.subprocess.PIPE\n'
    names = {name for _, name in uses(source)}
    assert not any(_is_or_in(name, {"os", "subprocess"}, ".") for name in names)


@pytest.mark.parametrize(
    "path", sorted(ROOT.glob("entrypoint/init/*.py")), ids=lambda path: path.stem
)
def test_pid_1_imports_little_and_only_the_standard_library(path):
    modules = {origin for _, _, origin in _imports(ast.parse(path.read_text()))}
    foreign = {
        module
        for module in modules
        if not _is_or_in(module, {"entrypoint.init"}, ".")
        and module.partition(".")[0] not in sys.stdlib_module_names - COSTLY_FOR_PID_1
    }
    assert not foreign


def test_the_page_of_the_settings_says_what_the_settings_are():
    page = ROOT / "docs" / "settings.md"
    assert page.read_text() == settings.markdown(), "run: make docs"
