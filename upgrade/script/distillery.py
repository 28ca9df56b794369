"""What is peculiar to Distillery: its script renders the configuration itself, into `var/`.

It makes the version permanent, and leaves behind what would boot the wrong one, or would make the
next upgrade fail.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from run_agent import files
from upgrade import os_vars
from upgrade.model import Change
from upgrade.script.call import Call

CONFIGURED = ("sys.config", "vm.args", "config.exs")
"""What the script replaces in `releases/VERSION` for the install; a failure leaves `.bak`."""


@contextlib.contextmanager
def prepared(change: Change, *, down: bool) -> Iterator[Call]:
    """Make ready for the script, and mend what it leaves, whichever way it ends.

    Raises `RunAgentError` (74) where the tree cannot be written.
    """
    var = Path(change.env.get("RELEASE_MUTABLE_DIR") or change.root / "var")
    rendered = var / "sys.config"
    before = _stamp(rendered)
    verb = "downgrade" if down else "upgrade"
    argv = (str(change.root / "bin" / change.name), verb, change.to_version)
    with os_vars.writing(change.root), _named(change, var), _kept_if_failed(var):
        try:
            yield Call(argv, change.env, lambda: rendered if _stamp(rendered) != before else None)
        finally:
            _put_originals_back(change.root / "releases" / change.to_version)


@contextlib.contextmanager
def _named(change: Change, var: Path) -> Iterator[None]:
    """Have the script load the parts of the running version: others may be gone.

    2.1.1 keeps a copy of the name in `var/`, which no upgrade brings up to date, and boots by it;
    without one it makes another.
    """
    copy, data = var / "start_erl.data", change.root / "releases" / "start_erl.data"
    original = data.read_bytes()
    erts, *_ = original.split() or [b""]
    running = erts + b" " + change.from_version.encode()
    copy.unlink(missing_ok=True)
    if original.split() != running.split():
        files.atomic_write(data, running, mode=0o644)
    try:
        yield
    finally:
        copy.unlink(missing_ok=True)
        if data.read_bytes() == running:  # not made permanent
            files.atomic_write(data, original, mode=0o644)


@contextlib.contextmanager
def _kept_if_failed(var: Path) -> Iterator[None]:
    """Put the running version's configuration back, which a node that reboots itself reads."""
    before = {
        path: (path.read_bytes(), path.stat().st_mode & 0o777)
        for path in map(var.joinpath, CONFIGURED)
        if path.is_file()
    }
    try:
        yield
    except BaseException:
        for path, (content, mode) in before.items():
            if not path.is_file() or path.read_bytes() != content:
                files.atomic_write(path, content, mode=mode)
        raise


def _put_originals_back(release: Path) -> None:
    for name in CONFIGURED:
        with contextlib.suppress(FileNotFoundError):
            (release / f"{name}.bak").replace(release / name)


def _stamp(path: Path) -> tuple[int, int] | None:
    """Tell one writing of a file from the next."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return status.st_ino, status.st_mtime_ns
