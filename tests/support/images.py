"""The image of Dockerfile.cedar14, built once per state of its sources, and what it is built on.

    tag = images.image()

No registry is reached: the base is made on the spot with debootstrap, the dependencies come from
a folder of wheels that pip has filled from the locks. All of it is kept in `.cache/container`. Safe
under pytest-xdist: one worker builds, the others wait for it.
"""

import contextlib
import fcntl
import functools
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from support import podman
from support.house import PACKAGES, ROOT
from support.podman import CACHE

DOCKERFILE = ROOT / "Dockerfile.cedar14"
LOCKS = (ROOT / "requirements.lock", ROOT / "requirements-image.lock")
SOURCES = (
    DOCKERFILE,
    ROOT / ".dockerignore",
    *LOCKS,
    ROOT / "scripts" / "image",
    *(ROOT / package for package in PACKAGES),
)

KEPT_IMAGES = 3
"""How many states of the sources keep their image: other tests may still be running in one."""

REVISION, CREATED = "0123456789abcdef", "2026-01-02T03:04:05Z"
"""What the tests' image says of its origin."""

DEBIAN = "bookworm"
OF_THE_BASE = ("ca-certificates", "libssl3", "libstdc++6", "libtinfo6", "procps", "python3")
"""What a slug's erts needs, and the stand-in for a Python of our own."""

OF_THE_BUILD = ("binutils", "python3-venv")
WITHIN_PYTHON3_VENV = ("python3.11-venv", "python3-pip-whl", "python3-setuptools-whl")

ENVS = ("CREATED", "GLIBC", "GLIBCXX", "PYTHON", "PYTHON_VERSION", "REVISION", "VERSION")
"""Variables that images to build on do set, or may: to the build they must mean nothing."""

BUILD = (
    "build",
    "--format=docker",  # the OCI format knows no HEALTHCHECK
    "--isolation=chroot",
    "--network=host",  # the only one with that isolation
    "--layers",
    "--force-rm",
    "--pull-never",
    *podman.LIMITS,
)


@functools.cache
def image() -> str:
    """Return the tag of the image as the sources are now."""
    podman.need_podman()
    tag = f"localhost/run-agent:{_digest(*SOURCES)}"
    with _locked("image"):
        if not _exists(tag):
            build(tag)
            _forget_old_images()
    return tag


def base() -> str:
    """Return the tag of the plain base: Debian with Python, and nothing of ours.

    It has no entry point: a container's arguments are the command.
    """
    return bases()[0]


@functools.cache
def bases() -> tuple[str, str]:
    """Return the tags of the base, and of what builds: the same with pip and strip."""
    podman.need_podman()
    wanted = hashlib.sha256(repr((DEBIAN, OF_THE_BASE, OF_THE_BUILD, ENVS)).encode()).hexdigest()[
        :16
    ]
    tags = (f"localhost/base:{wanted}", f"localhost/build:{wanted}")
    with _locked("base"):
        if not all(map(_exists, tags)):
            _make_bases(*tags)
    return tags


def build(tag: str, *options: str, dockerfile: Path = DOCKERFILE) -> None:
    """Build the image as `image` does; `options` of podman build win over its own.

    Raises `AssertionError` with what the build has said.
    """
    of_the_image, of_the_build = bases()
    podman.run(
        *BUILD,
        f"--file={dockerfile}",
        f"--build-arg=BASE_IMAGE={of_the_image}",
        f"--build-arg=BUILD_IMAGE={of_the_build}",
        "--build-arg=RUN_AGENT_PYTHON=base",
        f"--build-arg=RUN_AGENT_REVISION={REVISION}",
        f"--build-arg=RUN_AGENT_CREATED={CREATED}",
        f"--build-context=wheels={_wheels()}",
        *options,
        f"--tag={tag}",
        ROOT,
    )


def derive(name: str, instructions: str, context: Path, *, of: str | None = None) -> str:
    """Build `FROM of` (default: the image) and `instructions` in the folder `context`.

    Returns the new image's tag; the caller removes it with `remove`.
    """
    tag = f"localhost/derived-{name}:{os.urandom(8).hex()}"
    dockerfile = context / "Dockerfile"
    dockerfile.write_text(f"FROM {of or image()}\n{instructions}\n")
    podman.run(*BUILD, f"--tag={tag}", f"--file={dockerfile}", context)
    return tag


def remove(tag: str) -> None:
    """Remove an image, and whatever runs in it; none there is fine."""
    podman.run("image", "rm", "--force", "--ignore", tag)


def inspect(tag: str) -> Any:
    """Return what podman knows of an image."""
    return json.loads(podman.run("image", "inspect", tag).stdout)[0]


def _make_bases(base_tag: str, build_tag: str) -> None:
    with tempfile.TemporaryDirectory(dir=CACHE, prefix="debootstrap-") as folder:
        packages = ",".join((*OF_THE_BASE, *OF_THE_BUILD))
        podman.command("debootstrap", "--variant=minbase", f"--include={packages}", DEBIAN, folder)
        for downloaded in ("var/cache/apt/archives", "var/lib/apt/lists"):
            shutil.rmtree(Path(folder, downloaded))
        _import(folder, build_tag)
        more = (*OF_THE_BUILD, *WITHIN_PYTHON3_VENV)
        podman.command("chroot", folder, "dpkg", "--purge", "--force-depends", *more)
        _import(folder, base_tag)


def _import(folder: str, tag: str) -> None:
    env = [f"--change=ENV {name}=of-the-base" for name in ENVS]
    with subprocess.Popen(["tar", "-C", folder, "-c", "."], stdout=subprocess.PIPE) as tar:
        podman.run("import", "--quiet", *env, "-", tag, stdin=tar.stdout)
    assert tar.returncode == 0, f"cannot pack {folder}"


def _wheels() -> Path:
    """Return a folder with what both locks pin, for the Python of the base."""
    folder = CACHE / f"wheels-{_digest(*LOCKS)}"
    with _locked("wheels"):
        if not folder.exists():
            for old in CACHE.glob("wheels-*"):
                shutil.rmtree(old)
            new = CACHE / "wheels-new"
            machine = os.uname().machine
            podman.command(
                sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", f"--dest={new}",
                "--require-hashes", "--only-binary=:all:", "--python-version=3.11",
                f"--platform=manylinux_2_17_{machine}", f"--platform=manylinux2014_{machine}",
                *(f"--requirement={lock}" for lock in LOCKS),
            )  # fmt: skip
            new.rename(folder)
    return folder


def _forget_old_images() -> None:
    """Keep the newest images of ours, so that the cache does not grow with every change."""
    listed = podman.run("images", "--sort=created", "--format={{.Repository}}:{{.Tag}}").stdout
    ours = [tag for tag in listed.split() if tag.startswith("localhost/run-agent:")]
    for tag in ours[KEPT_IMAGES:]:
        subprocess.run(podman.argv("rmi", tag), capture_output=True, check=False)  # if not in use
    podman.run("image", "prune", "--force", "--filter=until=6h")


def _exists(tag: str) -> bool:
    return subprocess.run(podman.argv("image", "exists", tag), check=False).returncode == 0


def _digest(*sources: Path) -> str:
    digest = hashlib.sha256()
    for source in sources:
        for path in sorted(source.rglob("*")) if source.is_dir() else [source]:
            if path.is_file() and "__pycache__" not in path.parts:
                digest.update(f"{path.relative_to(ROOT)} {path.stat().st_mode}\n".encode())
                digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


@contextlib.contextmanager
def _locked(what: str) -> Iterator[None]:
    """One test worker makes it, the others wait."""
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / f"{what}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # closing it unlocks
        yield
