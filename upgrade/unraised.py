"""Libraries whose code has changed while their version has not: what a change leaves as it was.

A relup names versions, so such code is neither placed nor loaded; a start from the slug's own tree
has it. Reads the two trees, and judges nothing.
"""

import filecmp
from collections.abc import Iterator
from pathlib import Path


def libraries(root: Path, tree: Path) -> tuple[str, ...]:
    """Return those NAME-VERSION that both have, with other modules in `tree`. Raises `OSError`."""
    common = {*_names(root / "lib")} & {*_names(tree / "lib")}
    return tuple(sorted(name for name in common if _differ(root, tree, name)))


def _differ(root: Path, tree: Path, name: str) -> bool:
    ours, theirs = (folder / "lib" / name / "ebin" for folder in (root, tree))
    modules = {path.name for path in theirs.glob("*.beam")}
    if modules != {path.name for path in ours.glob("*.beam")}:
        return True
    return any(not _same(ours / module, theirs / module) for module in modules)


def _same(one: Path, other: Path) -> bool:
    return one.samefile(other) or filecmp.cmp(one, other, shallow=False)


def _names(folder: Path) -> Iterator[str]:
    return (path.name for path in folder.iterdir())
