"""Slugs of the example application, built once per machine and kept in `.cache/slugs`.

    path = slugs.slug("mix")                       # or relx, distillery1, distillery2
    slugs.unpack(slugs.slug("relx", "0.2.0"), tmp_path / "app")

The name of a kept slug holds a hash of all that goes into it, so a changed source or another
Erlang makes a new one. Safe under pytest-xdist: one worker builds, the others wait for it.
"""

import contextlib
import fcntl
import hashlib
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

from support.need import need

REPOSITORY = Path(__file__).resolve().parents[2]
EXAMPLE = REPOSITORY / "examples" / "hello"
SOURCES = (EXAMPLE, REPOSITORY / "tests" / "release" / "distillery")
CACHE = REPOSITORY / ".cache" / "slugs"

TOOLS = ("erl", "mix", "rebar3")

BUILD_SECONDS = 240.0
"""How long a build may take; a second or two is usual, more on a machine with other work."""


def slug(kind: str, version: str = "0.1.0", suffix: str = ".tar.gz") -> Path:
    """Return the packed slug of `kind` and `version`, built if it is not there yet."""
    for tool in TOOLS:
        need(shutil.which(tool), f"no {tool} on the PATH (`make system` installs it)")
    path = CACHE / f"{kind}-{version}-{_fingerprint()}{suffix}"
    with _locked(path):
        if not path.exists():
            subprocess.run(
                (sys.executable, EXAMPLE / "build.py", kind, version, path),
                stdin=subprocess.DEVNULL,
                timeout=BUILD_SECONDS,
                check=True,
            )
    return path


def unpack(path: Path, folder: Path) -> Path:
    """Unpack a slug into `folder`, which is created, and return it."""
    if path.name.endswith(".zst"):
        import zstandard

        with (
            zstandard.open(path, "rb") as stream,
            tarfile.open(fileobj=stream, mode="r|") as tar,
        ):
            tar.extractall(folder, filter="tar")
    else:
        with tarfile.open(path) as tar:
            tar.extractall(folder, filter="tar")
    return folder


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    CACHE.mkdir(parents=True, exist_ok=True)
    with path.with_name(f"{path.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # closing it unlocks
        yield


def _fingerprint() -> str:
    digest = hashlib.sha256()
    for tool in TOOLS:
        program = Path(shutil.which(tool)).resolve()
        digest.update(f"{program} {program.stat().st_mtime_ns}\n".encode())
    for source in SOURCES:
        for path in sorted(source.rglob("*")):
            if path.is_file() and not {"_build", "__pycache__"} & set(path.parts):
                digest.update(f"{path.relative_to(REPOSITORY)} {path.stat().st_mode}\n".encode())
                digest.update(path.read_bytes())
    return digest.hexdigest()[:16]
