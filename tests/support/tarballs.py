"""Small slugs made in memory, good and bad."""

import gzip
import io
import random
import tarfile
from collections.abc import Iterable
from typing import Any

Member = tuple[tarfile.TarInfo, bytes]


def file(name: str, content: bytes = b"content", **fields: Any) -> Member:
    return member(name, content, **{"mode": 0o644, **fields})


def folder(name: str, mode: int = 0o755) -> Member:
    return member(name, type=tarfile.DIRTYPE, mode=mode)


def symlink(name: str, target: str) -> Member:
    return member(name, type=tarfile.SYMTYPE, linkname=target, mode=0o777)


def hard_link(name: str, target: str) -> Member:
    return member(name, type=tarfile.LNKTYPE, linkname=target, mode=0o644)


def member(name: str, content: bytes = b"", **fields: Any) -> Member:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    info.mtime = 1_700_000_000
    for field, value in fields.items():
        setattr(info, field, value)
    return info, content


def tar(members: Iterable[Member], format: int = tarfile.PAX_FORMAT) -> bytes:  # noqa: A002
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=format) as archive:
        for info, content in members:
            archive.addfile(info, io.BytesIO(content))
    return out.getvalue()


def slug(members: Iterable[Member], format: int = tarfile.PAX_FORMAT) -> bytes:  # noqa: A002
    return gzip.compress(tar(members, format), 1)


def release(size: int = 1 << 20, seed: int = 1) -> bytes:
    """Return a slug that packs to about `size` bytes, in a hundred files."""
    source = random.Random(seed)
    body = [file(f"lib/app-{i}/ebin/m{i}.beam", source.randbytes(size // 100)) for i in range(100)]
    return slug([folder("bin"), file("bin/app", b"#!/bin/sh\n", mode=0o755), *body])
