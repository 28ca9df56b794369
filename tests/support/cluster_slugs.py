"""Slugs of an application whose nodes find each other and talk, kept in `.cache/slugs`.

    cluster_slugs.slug("relx", "1.0.0")     # or mix; 1.1.0 upgrades it, and back

The sources are `tests/release/cluster_app`; 1.1.0 lays its folder there over 1.0.0. Built offline,
by the example's own build program where that is possible.
"""

import hashlib
import runpy
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from support import slugs, upgrade_slugs

APP = slugs.REPOSITORY / "tests" / "release" / "cluster_app"

OLD, NEW = "1.0.0", "1.1.0"

BUILDS: dict[str, tuple[tuple[str, ...], str]] = {
    "relx": (("rebar3", "release"), "_build/default/rel/chatter"),
    "mix": (("mix", "release", "--quiet"), "_build/prod/rel/chatter"),
}
"""By kind: what builds it, and where its tree is then."""

VERSIONED = ("rebar.config", "mix.exs", "src/chatter.app.src")


def slug(kind: str, version: str = OLD) -> Path:
    """Return the packed slug, built if it is not there yet."""
    assert version in (OLD, NEW)
    for tool in slugs.TOOLS:
        slugs.need(shutil.which(tool), f"no {tool} on the PATH (`make system` installs it)")
    path = slugs.CACHE / f"cluster-{kind}-{version}-{_fingerprint()}.tar.gz"
    with slugs._locked(path):
        if not path.exists():
            _build(kind, version, path)
    return path


def _fingerprint() -> str:
    digest = hashlib.sha256(upgrade_slugs._fingerprint().encode())
    for path in (Path(__file__), *sorted(APP.rglob("*"))):
        if path.is_file():
            digest.update(f"{path.relative_to(slugs.REPOSITORY)}\n".encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def _build(kind: str, version: str, output: Path) -> None:
    program: dict[str, Callable[..., Any]] = runpy.run_path(str(slugs.EXAMPLE / "build.py"))
    argv, place = BUILDS[kind]
    with tempfile.TemporaryDirectory(prefix="chatter-") as name:
        folder = Path(name)
        source = shutil.copytree(APP, folder / "chatter", ignore=shutil.ignore_patterns(NEW))
        if version == NEW:
            shutil.copytree(APP / NEW, source, dirs_exist_ok=True)
        for path in (source / name for name in VERSIONED):
            path.write_text(path.read_text().replace(OLD, version))
        program["_run"](argv, source, folder)
        tree = source / place
        if version == NEW:
            [ebin] = tree.glob("lib/chatter-*/ebin")
            shutil.copy(source / "appup" / "chatter.appup", ebin)
            old = slugs.unpack(slug(kind, OLD), folder / "old")
            releases = [upgrade_slugs._release(*each) for each in ((tree, NEW), (old, OLD))]
            upgrade_slugs._systools(folder, "relup", "usual", *releases)
        program["pack"](tree, output)
