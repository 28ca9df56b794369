"""From a URL to a whole tree: download, check, decompress and extract, all at the same time.

Owns the order of the stages and the verdict on what came: nothing gets a tree's name before its
digest, every announced hash and its length are right. Runs in the worker, never in the agent.
"""

import base64
import errno
import hashlib
import os
import time
from collections.abc import Callable, Generator
from contextlib import closing
from pathlib import Path
from typing import Protocol

import google_crc32c

from run_agent import storage
from run_agent.errors import RunAgentError, SlugError, UnavailableError
from run_agent.model import Slug
from run_agent.slug import decompress, extract, readahead, record, staging, tree
from run_agent.slug.archive import Archive
from run_agent.slug.messages import Progress, Request
from run_agent.slug.reason import BadSlugError

BEGINNINGS = 3
"""How often a download may begin, where the object changes while it is read."""

REPORT_SECONDS = 0.1
"""Between two reports of progress."""

Report = Callable[[Progress], None]


def fetch(request: Request, report: Report) -> Slug:
    """Return the slug's tree on the volume, fetched unless it is there already.

    Waits for another process that fetches into the same folder. Raises `UnavailableError`,
    `DeniedError`, `SlugError`, or `RunAgentError` for trouble with the volume.
    """
    try:
        with staging.locked(request.deploys):
            staging.sweep(request.deploys)
            known = tree.find(request.deploys, request.sha256) if request.sha256 else None
            return known or _download(request, report)
    except OSError as error:
        raise _volume_trouble(request, error) from error


def make_durable(deploys: Path, slug: Slug) -> None:
    """Wait until the tree would survive a power cut, and note that; raises `OSError`."""
    unpacked = record.read_unpacked(deploys, slug.digest)
    if unpacked and not unpacked.durable:
        staging.sync(deploys)
        durable = record.Unpacked(slug, unpacked.boot_id, durable=True)
        record.write_unpacked(deploys, durable, fsync=True)


def _download(request: Request, report: Report) -> Slug:
    """Fetch, and begin again where the object changes meanwhile."""
    for _ in range(BEGINNINGS):
        download = storage.open_url(request.url, digest_known=bool(request.sha256))
        known = _already_there(request, download)
        if known:
            download.close()
            return known
        try:
            return _unpack(request, download, report)
        except storage.ChangedError as error:
            changed = error
        except BadSlugError as error:
            raise SlugError(
                f"cannot use slug {request.label} from {download.source}: {error}"
            ) from error
    raise UnavailableError(
        f"cannot fetch {storage.source(request.url)}: {changed}, {BEGINNINGS} times in a row; "
        "upload each slug once, under a name of its own"
    )


def _already_there(request: Request, download: storage.Download) -> Slug | None:
    known = tree.find_source(request.deploys, download.source, download.etag, _goog_hash(download))
    return known if known and request.sha256 in {None, known.digest} else None


def _unpack(request: Request, download: storage.Download, report: Report) -> Slug:
    arrival = _Arrival(download, report)
    with (
        staging.folder(request.deploys) as folder,
        readahead.ahead(arrival.chunks(), "download") as packed,
        readahead.ahead(decompress.decompressed(packed), "decompress") as unpacked,
    ):
        limits = extract.Limits(request.max_members, request.max_bytes)
        count = extract.unpack(Archive(unpacked), folder, limits, arrival.tell)
        arrival.tell(count, now=True)
        digest = arrival.verified_digest(request.sha256)
        slug = Slug(
            digest=digest,
            path=request.deploys / digest,
            source=download.source,
            etag=download.etag,
            goog_hash=_goog_hash(download),
            packed_bytes=arrival.packed_bytes,
            unpacked_bytes=count.unpacked_bytes,
            members=count.members,
        )
        _keep(request.deploys, folder, slug)
    return slug


def _keep(deploys: Path, folder: Path, slug: Slug) -> None:
    """Make the folder the slug's tree, unless that is there: it may be in use, and is the same."""
    known = record.read_unpacked(deploys, slug.digest)
    if known and tree.find(deploys, slug.digest):
        again = record.Unpacked(slug, known.boot_id, durable=known.durable)
        record.write_unpacked(deploys, again, fsync=known.durable)
        return
    staging.adopt(folder, slug.path)
    try:
        fresh = record.Unpacked(slug, record.boot_id(), durable=False)
        record.write_unpacked(deploys, fresh, fsync=False)
    except OSError:
        staging.discard(slug.path)  # nobody would know it, and the disk may be full
        raise


class _Hash(Protocol):
    def update(self, chunk: bytes, /) -> None: ...
    def digest(self) -> bytes: ...


class _Arrival:
    """The packed bytes as they come in: counted, hashed, reported."""

    def __init__(self, download: storage.Download, report: Report) -> None:
        self.packed_bytes = 0
        self._download = download
        self._report = report
        self._next_report = 0.0
        self._sha256 = hashlib.sha256()
        makers: dict[str, Callable[[], _Hash]] = {
            "crc32c": google_crc32c.Checksum,
            "md5": lambda: hashlib.md5(usedforsecurity=False),
        }
        self._announced = {name: makers[name]() for name in download.goog_hash}

    def chunks(self) -> Generator[bytes]:
        """Yield the download, hashed before anybody works with it, and close it."""
        hashes: list[_Hash] = [self._sha256, *self._announced.values()]
        # Closed here, since that waits for a read that is under way: its thread may, ours not.
        with closing(self._download) as download:
            for chunk in download.chunks():
                for each in hashes:
                    each.update(chunk)
                self.packed_bytes += len(chunk)
                yield chunk

    def tell(self, count: extract.Count, *, now: bool = False) -> None:
        """Report how far it is, unless that was done a moment ago."""
        time_is = time.monotonic()
        if now or time_is >= self._next_report:
            self._next_report = time_is + REPORT_SECONDS
            self._report(
                Progress(
                    bytes=self.packed_bytes,
                    total=self._download.size,
                    unpacked=count.unpacked_bytes,
                    members=count.members,
                )
            )

    def verified_digest(self, announced: str | None) -> str:
        """Return the SHA-256 of what came; raises `BadSlugError` where it was to be another."""
        for name, computed in self._announced.items():
            value = base64.b64encode(computed.digest()).decode()
            wanted = self._download.goog_hash[name]
            if value != wanted:
                raise BadSlugError(
                    f"its {name} is {value}, but the storage announced {wanted}; upload it again"
                )
        digest = self._sha256.hexdigest()
        if announced not in {None, digest}:
            raise BadSlugError(
                f"its SHA-256 is {digest}, but {announced} was announced; upload it again, or "
                "correct what the controller announces"
            )
        return digest


def _goog_hash(download: storage.Download) -> str | None:
    return ",".join(f"{k}={v}" for k, v in sorted(download.goog_hash.items())) or None


def _volume_trouble(request: Request, error: OSError) -> RunAgentError:
    if error.errno in {errno.ENOSPC, errno.EDQUOT}:
        reason = "the disk is full"
        advice = "free space (or files) there, or give the volume more, and start again"
    else:
        reason = error.strerror or type(error).__name__
        advice = "check the volume, and that this user may write to it"
    return RunAgentError(
        f"cannot unpack slug {request.label} into {request.deploys} ({reason}); {advice}",
        exit_code=os.EX_IOERR,
    )
