"""Slugs of the example in versions that upgrade each other, good and bad, kept in `.cache/slugs`.

    upgrade_slugs.slug("mix", "0.2.0")                 # or relx, distillery1, distillery2
    upgrade_slugs.slug("relx", "0.2.0", "raising")     # a bad one: see VARIANTS
    upgrade_slugs.dotted(path)                         # the same release, packed another way

0.1.0 is the example itself; what the later versions change lies in `tests/release/upgrades`.
Owns the building and packing of these; what a test does with them is the test's.
"""

import gzip
import hashlib
import os
import re
import runpy
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path

from support import slugs

UPGRADES = slugs.REPOSITORY / "tests" / "release" / "upgrades"

VERSIONS = ("0.1.0", "0.2.0", "0.3.0")

VARIANTS = {
    "good": VERSIONS,
    "fixed": ("0.2.0",),  # as good, with another digest; `GET /` shows `build=fixed`
    "raising": ("0.2.0",),  # code_change raises after the point of no return
    "crashing": ("0.2.0",),  # the application, and the VM with it, ends 2 s after the install
    "hanging": ("0.2.0",),  # the HTTP port is closed; the node, and the line protocol, live
    "no_relup": ("0.2.0",),
    "one_way": ("0.2.0",),  # the relup knows no way down
    "restarting": ("0.2.0",),  # the relup begins with restart_new_emulator
    "rebooting": ("0.2.0",),  # the relup ends with restart_emulator
    "other_erts": ("0.2.0",),
    "other_name": ("0.2.0",),  # the release is called `other`
    "migrating": ("0.1.0",),  # has a repo, migrations and an Ecto.Migrator of ours
}
"""Each way in which a build can be made, and the versions of which there is one."""

MISHAPS = ("fixed", "raising", "crashing", "hanging")
"""Variants whose code differs: the name of the build (hello_mishap.erl)."""

RELUPS = ("one_way", "restarting", "rebooting")
"""Variants whose relup differs (systools.escript)."""

OTHER_ERTS = "99.9"

PACK_LEVEL = 6
SYSTOOLS_SECONDS = 60.0
"""How long one call of systools may take; a second is usual."""


def slug(kind: str, version: str, variant: str = "good", suffix: str = ".tar.gz") -> Path:
    """Return the packed slug, built if it is not there yet. Good 0.1.0 is the example's own."""
    assert version in VARIANTS[variant], f"there is no {variant} {version}"
    if (version, variant) == ("0.1.0", "good"):
        return slugs.slug(kind, version, suffix)
    return _kept(
        f"upgrade-{kind}-{version}-{variant}",
        suffix,
        lambda output: _build(kind, version, variant, output),
    )


def truncated(path: Path) -> Path:
    """Return a copy of the packed slug that ends in the middle."""
    content = path.read_bytes()
    return _kept_copy(path, "truncated", lambda out: out.write_bytes(content[: len(content) // 2]))


def dotted(path: Path) -> Path:
    """Return the slug packed as `tar -C TREE .` does: names start with `./`."""
    return _kept_copy(path, "dotted", lambda output: _pack_dotted(path, output))


def systools_tar(version: str) -> Path:
    """Return the mix release as `systools:make_tar` packs it: neither env.sh nor bin/."""
    return _kept(f"systools-{version}", ".tar.gz", lambda output: _make_tar(version, output))


def _kept(name: str, suffix: str, make: Callable[[Path], object]) -> Path:
    """Return the file of `.cache/slugs` that `make` writes; one test worker makes it."""
    path = slugs.CACHE / f"{name}-{_fingerprint()}{suffix}"
    with slugs._locked(path):
        if not path.exists():
            partial = path.with_name(f"partial-{path.name}")
            make(partial)
            partial.replace(path)
    return path


def _kept_copy(path: Path, name: str, make: Callable[[Path], object]) -> Path:
    stem = path.name.removesuffix(".tar.gz")
    assert stem != path.name, "this is for .tar.gz"
    return _kept(f"{name}-{stem}", ".tar.gz", make)


def _fingerprint() -> str:
    digest = hashlib.sha256(slugs._fingerprint().encode())
    for path in (Path(__file__), *sorted(UPGRADES.rglob("*"))):
        if path.is_file():
            digest.update(f"{path.relative_to(slugs.REPOSITORY)}\n".encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def _build(kind: str, version: str, variant: str, output: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="hello-upgrade-") as name:
        folder = Path(name)
        stage = _stage(folder / "stage", version, variant)
        program = stage / "examples" / "hello" / "build.py"
        built = folder / "built.tar.gz"
        subprocess.run(
            (sys.executable, program, kind, version, built),
            stdin=subprocess.DEVNULL,
            timeout=slugs.BUILD_SECONDS,
            check=True,
        )
        tree = slugs.unpack(built, folder / "tree")
        _alter_release(tree, version, variant)
        _place_appups(stage, kind, tree)
        if variant not in {"no_relup", "migrating"}:
            _make_relup(kind, version, variant, tree, folder)
        runpy.run_path(str(program))["pack"](tree, output)


def _stage(stage: Path, version: str, variant: str) -> Path:
    """Copy the example and its build program, and lay over it what `version` changes."""
    example = stage / "examples" / "hello"
    for source in slugs.SOURCES:
        ignored = shutil.ignore_patterns("_build", "__pycache__")
        shutil.copytree(source, stage / source.relative_to(slugs.REPOSITORY), ignore=ignored)
    places = {
        "both": (example / "mix", example / "relx"),
        "mix": (example / "mix",),
        "relx": (example / "relx",),
        "distillery": (stage / "tests" / "release" / "distillery",),
    }
    layers = [*VERSIONS[1 : VERSIONS.index(version) + 1], variant]
    for layer in layers:
        for name, targets in places.items():
            for target in targets:
                _overlay(UPGRADES / name / layer, target)
    if variant in MISHAPS:
        for mishap in stage.rglob("hello_mishap.erl"):
            _replace(mishap, "    good.", f"    {variant}.")
    return stage


def _overlay(source: Path, target: Path) -> None:
    """Copy `source`, if there is such a folder, over `target`; an empty file removes."""
    for path in sorted(source.rglob("*")):
        place = target / path.relative_to(source)
        if path.is_dir():
            place.mkdir(exist_ok=True)
        elif path.stat().st_size:
            shutil.copy(path, place)
        else:
            place.unlink()


def _place_appups(stage: Path, kind: str, tree: Path) -> None:
    """Put the appups into the release: rebar3 3.19 and mix leave them out."""
    language = "relx" if kind == "relx" else "mix"
    for appup in (stage / "examples" / "hello" / language).rglob("*.appup"):
        [ebin] = tree.glob(f"lib/{appup.stem}-*/ebin")
        shutil.copy(appup, ebin)


def _make_relup(kind: str, version: str, variant: str, tree: Path, folder: Path) -> None:
    """Write the relup of `version` from and to each version before it."""
    way = variant if variant in RELUPS else "usual"
    olds = [
        _release(slugs.unpack(slug(kind, old), folder / old), old)
        for old in reversed(VERSIONS[: VERSIONS.index(version)])
    ]
    _systools(folder, "relup", way, _release(tree, version), *olds)


def _alter_release(tree: Path, version: str, variant: str) -> None:
    if variant == "other_erts":
        [erts] = tree.glob("erts-*")
        erts.rename(tree / f"erts-{OTHER_ERTS}")
        (tree / "releases" / "start_erl.data").write_text(f"{OTHER_ERTS} {version}")
        pattern, value = r'(\{erts,\s*)"[^"]*"', rf'\1"{OTHER_ERTS}"'
    elif variant == "other_name":
        for path in (*tree.glob("bin/hello*"), *tree.glob(f"releases/{version}/hello.*")):
            path.rename(path.with_name(path.name.replace("hello", "other", 1)))
        pattern, value = r'(\{release,\s*\{)"hello"', r'\1"other"'
    else:
        return
    for rel in tree.glob("releases/**/*.rel"):
        text, count = re.subn(pattern, value, rel.read_text())
        assert count == 1, f"{rel} is not as expected:\n{text}"
        rel.write_text(text)


def _make_tar(version: str, output: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="hello-systools-") as name:
        folder = Path(name)
        release = _release(slugs.unpack(slug("mix", version), folder / "tree"), version)
        shutil.copy(release.with_name("start.boot"), release.with_name("hello.boot"))
        _systools(folder, "tar", release, folder)
        shutil.move(folder / "hello.tar.gz", output)


def _pack_dotted(path: Path, output: Path) -> None:
    with (
        tarfile.open(path) as source,
        output.open("wb") as raw,
        gzip.GzipFile("", "wb", PACK_LEVEL, raw, mtime=0) as stream,
        tarfile.open(mode="w", fileobj=stream, format=tarfile.PAX_FORMAT) as target,
    ):
        for member in source:
            content = source.extractfile(member) if member.isreg() else None
            member.name = f"./{member.name}"
            target.addfile(member, content)


def _release(tree: Path, version: str) -> Path:
    """Return the release's file without its `.rel`, as systools wants it."""
    [rel] = (tree / "releases" / version).glob("*.rel")
    return rel.with_suffix("")


def _systools(folder: Path, *arguments: str | Path) -> None:
    done = subprocess.run(
        ("escript", UPGRADES / "systools.escript", *arguments),
        env={"PATH": os.environ["PATH"], "HOME": str(folder), "LC_ALL": "C.UTF-8"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=SYSTOOLS_SECONDS,
        check=False,
    )
    assert done.returncode == 0, f"cannot make what systools makes:\n{done.stdout}"


def _replace(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert text.count(old) == 1, f"{path} has {old!r} {text.count(old)} times"
    path.write_text(text.replace(old, new))
