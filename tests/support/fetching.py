"""Fetch slugs with the real worker, as the agent does, and see what is left on the volume."""

import asyncio
import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from run_agent.model import Layout, Slug
from run_agent.slug import record
from run_agent.slug.fetch import Progress, Request, start
from run_agent.slug.tree import Trees

SECONDS = 60.0
"""More than any fetch of a test takes."""

ROOM_BYTES = 2 << 30
"""More than the volumes of all tests that run at the same time take."""


@dataclass
class Volume:
    """A volume in a folder of a test."""

    root: Path
    reports: list[Progress] = field(default_factory=list)
    environ: Mapping[str, str] = field(default_factory=lambda: {**os.environ, "NO_PROXY": "*"})

    @property
    def layout(self) -> Layout:
        return Layout(self.root)

    @property
    def deploys(self) -> Path:
        return self.layout.deploys

    @property
    def trees(self) -> Trees:
        return Trees(self.layout)

    def request(self, url: str, **fields: Any) -> Request:
        limits = {"max_members": 10_000, "max_bytes": 1 << 30}
        return Request(**{**limits, "url": url, "deploys": self.deploys, "label": "v41", **fields})

    def fetch(self, url: str, *, seconds: float = SECONDS, **fields: Any) -> Slug:
        """Fetch, and wait until the tree is durable too."""
        return asyncio.run(self._fetch(self.request(url, **fields), seconds))

    async def _fetch(self, request: Request, seconds: float) -> Slug:
        async with start(self.environ) as fetcher:
            slug = await fetcher.fetch(request, self.reports.append, seconds)
            await fetcher.finished()
            return slug

    def left(self) -> set[str]:
        """Return what is in `deploys` besides trees, their records and the lock."""
        names = {path.name for path in self.deploys.glob("*")} - {".lock"}
        return {name for name in names if not record.DIGEST.fullmatch(name.partition(".")[0])}


@contextlib.contextmanager
def quick_folder() -> Iterator[Path]:
    """Yield a folder for volumes: in memory, if there is enough of it.

    A busy disk takes seconds to remove a folder, and these tests are about what is removed.
    """
    memory = Path("/dev/shm")
    has_room = memory.is_dir() and shutil.disk_usage(memory).free > ROOM_BYTES
    with tempfile.TemporaryDirectory(dir=memory if has_room else None) as folder:
        yield Path(folder)


def snapshot(folder: Path) -> dict[str, Any]:
    """Return what is in a folder: kind, mode and content of each, by name."""
    found: dict[str, Any] = {}
    for path in sorted(folder.rglob("*")):
        status = path.lstat()
        name = str(path.relative_to(folder))
        if path.is_symlink():
            found[name] = ("link", str(path.readlink()))
        elif path.is_dir():
            found[name] = ("folder", status.st_mode & 0o7777)
        else:
            found[name] = ("file", status.st_mode & 0o7777, path.read_bytes())
    return found
