"""What is peculiar to relx: its script renders no configuration but its own version's.

release_handler reads `releases/VERSION/sys.config` as it lies there, templates and all. So what a
boot of the version would make of it lies there while the script runs.
"""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from run_agent import files
from upgrade import os_vars
from upgrade.model import Change
from upgrade.script.call import Call

NOT_PERMANENT = "--no-permanent"
"""Leaves the version current; scripts of before rebar3 3.11 do not know it."""

KEPT = ".sys.config.kept"
"""What `sys.config` was, for the time of the install, unless `.orig` is that already."""


SCRATCH = "relx-"
"""Begins the name of the private folder, in the run folder."""


@contextlib.contextmanager
def prepared(change: Change, *, down: bool) -> Iterator[Call]:
    """Make ready for the script, and put everything back.

    What the script renders for itself goes to a private folder: the running version's files,
    which a node that reboots itself reads again, stay as they are. Raises `RunAgentError` (74)
    where the tree cannot be written.
    """
    _sweep(change)
    config = _configuration(change)
    script = change.root / "bin" / change.name
    with (
        os_vars.writing(change.root),
        tempfile.TemporaryDirectory(prefix=SCRATCH, dir=change.run) as scratch,
        _unchanged(script),
        _in_place(change, config),
    ):
        # The tool's node is a visible one: every node of the cluster would connect to it.
        flags = f"{change.env.get('ERL_ZFLAGS', '')} -hidden"
        env = {**change.env, "RELX_OUT_FILE_PATH": scratch, "ERL_ZFLAGS": flags}
        env.pop("RELX_MULTI_NODE", None)
        yield Call(
            _argv(change, script, down=down),
            env,
            lambda: _own(change) if config is not None else None,
        )


def _sweep(change: Change) -> None:
    """Put back what an agent had taken that was killed."""
    with os_vars.writing(change.root):
        for scratch in change.run.glob(f"{SCRATCH}*"):
            shutil.rmtree(scratch)
        with contextlib.suppress(FileNotFoundError):
            _own(change).with_name(KEPT).replace(_own(change))


def _argv(change: Change, script: Path, *, down: bool) -> tuple[str, ...]:
    # `bin/NAME` is the script of the version that the tree came with, which may be gone.
    own = script.with_name(f"{change.name}-{change.from_version}")
    program = own if os.access(own, os.X_OK) else script
    verb = "downgrade" if down else "upgrade"
    with contextlib.suppress(OSError):
        if NOT_PERMANENT in (change.root / "bin" / "install_upgrade.escript").read_text():
            return str(program), verb, NOT_PERMANENT, change.to_version
    return str(program), verb, change.to_version


def _configuration(change: Change) -> bytes | None:
    """Return the sys.config with which the script of the new version would boot it."""
    path = _source(change)
    template, original = _beside(path, ".src"), _beside(path, ".orig")
    if template.is_file():
        return os_vars.replaced(template.read_bytes(), change.env)
    source = original if original.is_file() else path
    if not source.is_file():
        return None
    replaces = _replaces(change.env)
    return os_vars.replaced(source.read_bytes(), change.env) if replaces else source.read_bytes()


def _source(change: Change) -> Path:
    given = change.env.get("RELX_CONFIG_PATH")
    return change.root / (given or _own(change))


def _own(change: Change) -> Path:
    return change.root / "releases" / change.to_version / "sys.config"


def _replaces(env: Mapping[str, str]) -> bool:
    return bool(env.get("RELX_REPLACE_OS_VARS"))


def _beside(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)


@contextlib.contextmanager
def _in_place(change: Change, config: bytes | None) -> Iterator[None]:
    """Have `config` in the place of the version's sys.config, readable for us only.

    Should we be killed meanwhile, the script finds the original as `.orig`, as it does its own.
    """
    path = _own(change)
    if config is None or (path.is_file() and path.read_bytes() == config):
        yield
        return
    original = _beside(path, ".orig")
    takes_original = _replaces(change.env) and not original.exists()
    kept = original if takes_original else path.with_name(KEPT)
    kept.unlink(missing_ok=True)
    if path.is_file():
        shutil.copy2(path, kept)
    try:
        files.atomic_write(path, config)
        yield
    finally:
        if kept.is_file():
            kept.replace(path)
        else:
            path.unlink(missing_ok=True)


@contextlib.contextmanager
def _unchanged(script: Path) -> Iterator[None]:
    """Keep `bin/NAME` what it was: making a version permanent, the tool puts its script there."""
    before, mode = script.read_bytes(), script.stat().st_mode & 0o777
    try:
        yield
    finally:
        if script.read_bytes() != before:
            files.atomic_write(script, before, mode=mode)
