"""Which UTF-8 locale the image has."""

import contextlib
import mmap
from pathlib import Path

LOCALES = Path("/usr/lib/locale")
PREFERRED = ("en_US.UTF-8", "en_US.utf8")
FALLBACK = "C.UTF-8"
"""Debian's libc has it built in, as every musl has."""


def utf8(locales: Path = LOCALES) -> str:
    """Return en_US.UTF-8 where it was generated, in a folder or in the archive; else C.UTF-8."""
    if any((locales / name).is_dir() for name in PREFERRED) or _is_archived(locales):
        return PREFERRED[0]
    return FALLBACK


def _is_archived(locales: Path) -> bool:
    """Look for the name in glibc's archive, which lists its locales' normalised names."""
    with (
        contextlib.suppress(OSError, ValueError),  # there is none, or an empty one
        (locales / "locale-archive").open("rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as archive,  # all locales: 200 MB
    ):
        return archive.find(b"en_US.utf8\0") >= 0
    return False
