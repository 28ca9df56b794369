"""The trees on the volume: which are whole, which one is booted, which ran well, which may go.

Owns the link `current` and the agent's side of the records. Must not make trees: the worker does
(`pipeline`). Calls block for as long as the volume does; asyncio code makes them in a thread.
"""

import logging
import os
from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from pathlib import Path

from run_agent import files
from run_agent.errors import RunAgentError
from run_agent.model import Deploy, Layout, Slug
from run_agent.slug import record, staging

log = logging.getLogger(__name__)

GOOD_KEPT = 2
"""Deploys that ran well and stay on the volume: the one before the current can be gone back to."""


class Trees:
    """The slugs that are unpacked on the volume of `layout`."""

    def __init__(self, layout: Layout) -> None:
        self._deploys = layout.deploys
        self._link = layout.current

    def find(self, digest: str) -> Slug | None:
        """Return the slug with that digest where its whole tree is there."""
        return find(self._deploys, digest)

    def current(self) -> str | None:
        """Return the digest of what `current` points to, whole or not."""
        try:
            target = self._link.readlink()
        except OSError:
            return None
        return target.name if target.parent.name == self._deploys.name else None

    def switch(self, digest: str) -> None:
        """Point `current` to that tree, at once and for good.

        Raises `RunAgentError` where the tree is not there or the link cannot be written.
        """
        if not _is_folder(self._deploys / digest):
            raise RunAgentError(f"cannot switch to {digest}: its tree is gone; fetch it again")
        try:
            for left in self._link.parent.glob(f".{self._link.name}.*.new"):
                left.unlink()  # by an agent that was killed: it alone writes this
            files.replace_link(self._link, Path(self._deploys.name, digest))
            files.sync_folder(self._link.parent)
        except OSError as error:
            raise RunAgentError(
                f"cannot point {self._link} to {digest} ({error.strerror}); it must be a link, "
                "or nothing, in a folder that this user may write",
                exit_code=os.EX_IOERR,
            ) from error

    def mark_good(self, digest: str, deploy: Deploy, at: float, *, app: str = "") -> None:
        """Remember that `deploy` of `app` became ready on that tree at `at` (epoch seconds)."""
        try:
            record.write_good(self._deploys, digest, record.Good(deploy, at, app))
        except OSError as error:
            raise RunAgentError(
                f"cannot note in {self._deploys} that deploy {deploy.label} is good "
                f"({error.strerror}); free space there, or make it writable",
                exit_code=os.EX_IOERR,
            ) from error

    def last_good(self, app: str = "") -> tuple[Deploy, Slug] | None:
        """Return the deploy of `app` that became ready last among those whose tree is whole."""
        for good, slug in self._good():
            if good.app == app:
                return good.deploy, slug
        return None

    def prune(self, in_use: AbstractSet[str], *, spare: int = 0) -> list[str]:
        """Remove the trees that nothing needs, and return their digests.

        Kept are the current one, those `in_use`, the last two that became ready, and of the others
        the newest `spare`. While another process fetches, nothing is removed. Trouble is logged,
        not raised.
        """
        try:
            with staging.locked(self._deploys, wait=False) as alone:
                return self._prune(in_use, spare) if alone else []
        except OSError as error:
            log.warning("cannot tidy %s (%s)", self._deploys, error.strerror)
            return []

    def _prune(self, in_use: AbstractSet[str], spare: int) -> list[str]:
        staging.sweep(self._deploys)
        kept = {slug.digest for _, slug in self._good()[:GOOD_KEPT]} | in_use
        others = record.digests(self._deploys) - kept - {self.current()}
        doomed = sorted(others, key=lambda digest: _made_at(self._deploys / digest), reverse=True)
        for digest in doomed[spare:]:
            staging.discard(self._deploys / digest)
            record.forget(self._deploys, digest)
        return sorted(doomed[spare:])

    def _good(self) -> list[tuple[record.Good, Slug]]:
        """Return what became ready and is whole, the newest first."""
        found = (
            (record.read_good(self._deploys, slug.digest), slug) for slug in _whole(self._deploys)
        )
        good = [(good, slug) for good, slug in found if good is not None]
        return sorted(good, key=lambda pair: pair[0].at, reverse=True)


def find(deploys: Path, digest: str) -> Slug | None:
    """Return the slug with that digest where its whole tree is in `deploys`."""
    unpacked = record.read_unpacked(deploys, digest)
    if unpacked is None or not unpacked.trusted:
        return None
    return unpacked.slug if _is_folder(unpacked.slug.path) else None


def find_source(deploys: Path, source: str, etag: str | None, goog_hash: str | None) -> Slug | None:
    """Return the slug that was read from `source` where its ETag or its hash is the same."""
    for slug in _whole(deploys):
        same = (etag, slug.etag), (goog_hash, slug.goog_hash)
        if slug.source == source and any(new and new == old for new, old in same):
            return slug
    return None


def _whole(deploys: Path) -> Iterator[Slug]:
    for digest in sorted(record.digests(deploys)):
        slug = find(deploys, digest)
        if slug is not None:
            yield slug


def _made_at(tree: Path) -> float:
    try:
        return tree.stat().st_mtime
    except OSError:
        return 0.0


def _is_folder(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()
