"""Build the example application as a slug: `python examples/hello/build.py KIND VERSION OUTPUT`.

KIND is relx, mix, distillery1 or distillery2 (start scripts of ours over the mix release, see
tests/release/distillery). OUTPUT ends in .tar.gz or .tar.zst and appears at once, complete. The
build happens in a private copy, offline; the checkout is only read. Same sources, same bytes.
"""

import argparse
import contextlib
import gzip
import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, BinaryIO, cast

EXAMPLE = Path(__file__).resolve().parent
DISTILLERY = EXAMPLE.parents[1] / "tests" / "release" / "distillery"

SOURCE_VERSION = "0.1.0"
VERSIONED = ("rebar.config", "src/hello.app.src", "mix.exs")
"""The files that name the version; in the copy it becomes the one that was asked for."""

BUILD_SECONDS = 240.0
"""How long one build tool may take; a second or two is usual."""

GZIP_LEVEL = 6
ZSTD_LEVEL = 3


def main(arguments: list[str]) -> None:
    """Build what the command line asks for; exits 1 with the build tool's output if it fails."""
    parser = argparse.ArgumentParser(prog="build.py", description="Build the example as a slug.")
    parser.add_argument("kind", choices=sorted(BUILDERS))
    parser.add_argument("version", help="such as 0.1.0")
    parser.add_argument("output", type=Path, help="a file that ends in .tar.gz or .tar.zst")
    options = parser.parse_args(arguments)
    if not options.output.name.endswith((".tar.gz", ".tar.zst")):
        parser.error(f"{options.output} must end in .tar.gz or .tar.zst")
    build(options.kind, options.version, options.output)


def build(kind: str, version: str, output: Path) -> None:
    """Build a release of `kind` and pack it into `output`, whose folder is created."""
    with tempfile.TemporaryDirectory(prefix="hello-") as folder:
        tree = BUILDERS[kind](Path(folder), version)
        output.parent.mkdir(parents=True, exist_ok=True)
        pack(tree, output)


def pack(tree: Path, output: Path) -> None:
    """Write the tar whose root is `tree`, without owners or times; atomic."""
    with tempfile.NamedTemporaryFile(dir=output.parent, delete=False) as partial:
        try:
            with (
                _compressed(partial, output.name) as stream,
                tarfile.open(mode="w|", fileobj=stream, format=tarfile.PAX_FORMAT) as tar,
            ):
                for path in sorted(tree.rglob("*")):
                    tar.add(path, path.relative_to(tree), recursive=False, filter=_anonymous)
            os.fchmod(partial.fileno(), 0o644)
            os.replace(partial.name, output)  # noqa: PTH105 - a name, not a path
        except BaseException:
            os.unlink(partial.name)  # noqa: PTH108
            raise


@contextlib.contextmanager
def _compressed(raw: IO[bytes], name: str) -> Iterator[BinaryIO]:
    if name.endswith(".zst"):
        import zstandard  # noqa: PLC0415 - a .tar.gz does without

        with zstandard.ZstdCompressor(level=ZSTD_LEVEL).stream_writer(raw, closefd=False) as stream:
            yield cast("BinaryIO", stream)
    else:
        with gzip.GzipFile("", "wb", GZIP_LEVEL, raw, mtime=0) as stream:
            yield cast("BinaryIO", stream)


def _anonymous(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    member.mtime = 0
    return member


def _relx(folder: Path, version: str) -> Path:
    source = _copy("relx", folder, version)
    _run(("rebar3", "release"), source, folder)
    return source / "_build" / "default" / "rel" / "hello"


def _mix(folder: Path, version: str) -> Path:
    source = _copy("mix", folder, version)
    _run(("mix", "release", "--quiet"), source, folder)
    tree = source / "_build" / "prod" / "rel" / "hello"
    # Mix draws a cookie for each build: one of its own for each version keeps that, and the bytes.
    cookie = hashlib.sha256(f"hello {version}".encode()).hexdigest()
    (tree / "releases" / "COOKIE").write_text(cookie)
    return tree


def _distillery1(folder: Path, version: str) -> Path:
    tree = _distillery(folder, version, DISTILLERY / "1.5")
    # escript boots it; mix leaves it out
    shutil.copy(_erlang() / "bin" / "no_dot_erlang.boot", tree / "bin")
    return tree


def _distillery2(folder: Path, version: str) -> Path:
    tree = _distillery(folder, version, DISTILLERY / "2.x")
    release = tree / "releases" / version
    shutil.copy(release / "start_clean.boot", release / "config.boot")
    return tree


def _distillery(folder: Path, version: str, line: Path) -> Path:
    """Put Distillery's files in the place of those of a mix release."""
    tree = _mix(folder, version)
    release = tree / "releases" / version
    for name in ("elixir", "env.sh", "iex", "remote.vm.args", "runtime.exs", "../COOKIE"):
        (release / name).unlink()
    shutil.rmtree(tree / "bin")
    shutil.copytree(line / "bin", tree / "bin")
    shutil.copytree(DISTILLERY / "libexec", release / "libexec")
    for name in ("vm.args", "sys.config"):
        shutil.copy(DISTILLERY / name, release / name)
    create = (
        "[Dir, File] = init:get_plain_arguments(),"
        "ok = release_handler:create_RELEASES([], Dir, File, []), halt()."
    )
    releases = tree / "releases"
    _run(
        ("erl", "-noinput", "-eval", create, "-extra", str(releases), str(release / "hello.rel")),
        tree,
        folder,
    )
    return tree


def _copy(language: str, folder: Path, version: str) -> Path:
    source = folder / "hello"
    shutil.copytree(EXAMPLE / language, source, ignore=shutil.ignore_patterns("_build"))
    for path in (source / name for name in VERSIONED):
        if path.exists():
            path.write_text(path.read_text().replace(SOURCE_VERSION, version))
    return source


def _erlang() -> Path:
    program = shutil.which("erl")
    if program is None:
        sys.exit("cannot build the example: there is no erl on the PATH; install Erlang/OTP")
    return Path(program).resolve().parents[1]


def _run(argv: tuple[str, ...], cwd: Path, folder: Path) -> None:
    done = subprocess.run(
        argv,
        cwd=cwd,
        env=_environment(folder / "home"),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=BUILD_SECONDS,
        check=False,
    )
    if done.returncode != 0:
        output = done.stdout.decode(errors="replace")
        sys.exit(f"cannot build the example: {argv[0]} ended with {done.returncode}\n{output}")


def _environment(home: Path) -> Mapping[str, str]:
    home.mkdir(exist_ok=True)
    return {
        "PATH": os.environ["PATH"],
        "LC_ALL": "C.UTF-8",
        "HOME": str(home),
        "MIX_HOME": str(home / "mix"),
        "MIX_ENV": "prod",
        "HEX_HOME": str(home / "hex"),
        "HEX_OFFLINE": "1",
        "REBAR_CACHE_DIR": str(home / "rebar3"),
        "ERL_COMPILER_OPTIONS": "[deterministic]",
    }


BUILDERS = {
    "relx": _relx,
    "mix": _mix,
    "distillery1": _distillery1,
    "distillery2": _distillery2,
}

if __name__ == "__main__":
    main(sys.argv[1:])
