"""What the ELF files of a tree need of the machine that loads them: `elf_floor.py TREE…`.

Fails, and names the files, where one needs a newer glibc or libstdc++ than the ceilings, or a
library that neither the tree nor the ceilings' machine has. The defaults are those of the
manylinux2014 policy (PEP 599), which hold for heroku/cedar:14 (glibc 2.19, gcc 4.8).
"""
# ruff: noqa: INP001, T201 - a program, which prints for a person

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from elftools.elf.dynamic import DynamicSegment, DynamicTag
from elftools.elf.elffile import ELFFile
from elftools.elf.gnuversions import GNUVerNeedSection

GLIBC = frozenset(
    {
        "ld-linux-aarch64.so.1",
        "ld-linux-x86-64.so.2",
        "libc.so.6",
        "libcrypt.so.1",
        "libdl.so.2",
        "libm.so.6",
        "libpthread.so.0",
        "libresolv.so.2",
        "librt.so.1",
        "libutil.so.1",
    }
)
OF_THE_MACHINE = GLIBC | {"libgcc_s.so.1", "libstdc++.so.6"}
"""What every base has: glibc's own libraries, and gcc's."""

Version = tuple[int, ...]


class Need(NamedTuple):
    """What one file wants of one library: a version symbol such as GLIBC_2.14."""

    path: Path
    library: str
    symbol: str


class Elf(NamedTuple):
    """What one ELF file gives and takes."""

    path: Path
    soname: str | None
    libraries: tuple[str, ...]
    needs: tuple[Need, ...]


def problems(files: list[Elf], ceilings: dict[str, Version]) -> Iterator[str]:
    """Tell, file by file, what could not be loaded under the ceilings."""
    shipped = {elf.path.name for elf in files} | {elf.soname for elf in files}
    for elf in files:
        for library in elf.libraries:
            if library not in shipped | OF_THE_MACHINE:
                yield f"{elf.path} needs {library}, which is neither shipped nor in every base"
        for need in elf.needs:
            if need.library in OF_THE_MACHINE and not _is_met(need.symbol, ceilings):
                yield f"{elf.path} needs {need.symbol} of {need.library}"


def highest(files: list[Elf]) -> dict[str, Version]:
    """Return the newest version of each kind that is needed: {"GLIBC": (2, 17)}."""
    found: dict[str, Version] = {}
    for elf in files:
        for need in elf.needs:
            kind, version = _parse(need.symbol)
            if need.library in OF_THE_MACHINE and version:
                found[kind] = max(version, found.get(kind, ()))
    return found


def elf_files(trees: list[Path]) -> Iterator[Elf]:
    """Read every ELF file there; what a link leads to is read where it lies."""
    for tree in trees:
        inside = (path for path in sorted(tree.rglob("*")) if not path.is_symlink())
        for path in inside if tree.is_dir() else [tree]:
            if path.is_file():
                with path.open("rb") as file:
                    if file.read(4) == b"\x7fELF":
                        yield _read(path, ELFFile(file))


def _read(path: Path, elf: ELFFile) -> Elf:
    dynamic = [
        tag
        for segment in elf.iter_segments()
        if isinstance(segment, DynamicSegment)
        for tag in segment.iter_tags()
    ]
    return Elf(
        path,
        next(_named(dynamic, "soname"), None),
        tuple(_named(dynamic, "needed")),
        tuple(
            Need(path, str(library.name), str(symbol.name))
            for section in elf.iter_sections()
            if isinstance(section, GNUVerNeedSection)
            for library, symbols in section.iter_versions()
            for symbol in symbols
        ),
    )


def _named(tags: list[DynamicTag], what: str) -> Iterator[str]:
    """Give the names in the tags DT_SONAME or DT_NEEDED."""
    return (getattr(tag, what) for tag in tags if tag.entry.d_tag == f"DT_{what.upper()}")


def _is_met(symbol: str, ceilings: dict[str, Version]) -> bool:
    """Compare; what has no number (GLIBC_PRIVATE, GLIBC_ABI_DT_RELR) is never met."""
    kind, version = _parse(symbol)
    return bool(version) and kind in ceilings and version <= ceilings[kind]


def _parse(symbol: str) -> tuple[str, Version]:
    kind, _, number = symbol.rpartition("_")
    return kind, _version(number) if number.replace(".", "").isdecimal() else ()


def _version(text: str) -> Version:
    return tuple(map(int, text.split(".")))


def main() -> int:
    """Check the trees that were named; print what is wrong, or the newest that is needed."""
    parser = argparse.ArgumentParser(description="What the ELF files of a tree need to be loaded.")
    parser.add_argument("--glibc", type=_version, default="2.17")
    parser.add_argument("--glibcxx", type=_version, default="3.4.19")
    parser.add_argument("--cxxabi", type=_version, default="1.3.7")
    parser.add_argument("--gcc", type=_version, default="4.8.0")
    parser.add_argument("trees", metavar="TREE", nargs="+", type=Path)
    given = parser.parse_args()
    ceilings = {"GLIBC": given.glibc, "GLIBCXX": given.glibcxx, "CXXABI": given.cxxabi,
                "GCC": given.gcc}  # fmt: skip
    if missing := [str(tree) for tree in given.trees if not tree.exists()]:
        parser.error(f"cannot find {', '.join(missing)}")
    files = list(elf_files(given.trees))
    found = sorted(set(problems(files, ceilings)))
    for problem in found:
        print(f"cannot ship this: {problem}", file=sys.stderr)
    newest = highest(files).items()
    needed = ", ".join(f"{kind}_{'.'.join(map(str, version))}" for kind, version in newest)
    print(f"{len(files)} ELF files need at most {needed or 'nothing'}")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
