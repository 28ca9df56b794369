"""The records beside the trees, as JSON: what a tree is, and which deploy became ready on it.

Owns their names, and the form of these two. A record has one writer: the worker that made the tree
writes `DIGEST.json`, the agent `DIGEST.good.json`, which holds secrets (the config). Must not
touch the trees.
"""

import json
import logging
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from run_agent import files
from run_agent.model import Deploy, Slug

T = TypeVar("T")

log = logging.getLogger(__name__)

DIGEST = re.compile(r"[0-9a-f]{64}")
"""A slug's SHA-256; whatever else is in the folder is not ours."""

UNPACKED, GOOD, ADDED = ".json", ".good.json", ".added.json"
"""After the digest, in the names of the records that go with their tree."""

MODE = 0o600

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
"""Another one after each boot of the kernel (proc(5))."""


@dataclass(frozen=True, slots=True)
class Unpacked:
    """A tree and how far it may be trusted.

    Until it is `durable` a power cut may leave empty files in it, so it counts only for the
    kernel's boot in which it was written.
    """

    slug: Slug
    boot_id: str
    durable: bool

    @property
    def trusted(self) -> bool:
        """Whether all of the tree can be expected to be there."""
        return self.durable or self.boot_id == boot_id()


@dataclass(frozen=True, slots=True)
class Good:
    """A deploy that became ready, when (seconds since the epoch), and as which app."""

    deploy: Deploy
    at: float
    app: str = ""


def boot_id() -> str:
    """Return what tells this boot of the kernel from all others."""
    return BOOT_ID.read_text(encoding="ascii").strip()


def write_unpacked(deploys: Path, unpacked: Unpacked, *, fsync: bool) -> None:
    """Put the record of a tree beside it; raises `OSError`."""
    value = {
        "slug": slug_to_json(unpacked.slug),
        "boot_id": unpacked.boot_id,
        "durable": unpacked.durable,
    }
    _write(_unpacked_path(deploys, unpacked.slug.digest), value, fsync=fsync)


def read_unpacked(deploys: Path, digest: str) -> Unpacked | None:
    """Return the record of a tree; none, and a warning, for one that cannot be used."""

    def judge(value: dict[str, Any]) -> Unpacked:
        slug = slug_from_json(value["slug"], deploys)
        if slug.digest != digest:
            raise ValueError("it is of another tree")
        return Unpacked(slug, _text(value["boot_id"]), _is(bool, value["durable"]))

    return _read(_unpacked_path(deploys, digest), judge)


def write_good(deploys: Path, digest: str, good: Good) -> None:
    """Remember for good that `good.deploy` became ready on the tree; raises `OSError`."""
    _write(
        _good_path(deploys, digest),
        {"deploy": deploy_to_json(good.deploy), "good_at": float(good.at), "app": good.app},
        fsync=True,
    )


def read_good(deploys: Path, digest: str) -> Good | None:
    """Return the last deploy that became ready on the tree; none where there is none."""

    def judge(value: dict[str, Any]) -> Good:
        deploy, at = deploy_from_json(value["deploy"]), _is(float, value["good_at"])
        return Good(deploy, at, _text(value["app"]))

    return _read(_good_path(deploys, digest), judge)


def added_path(deploys: Path, digest: str) -> Path:
    """Return where hot upgrades keep what they have added to the tree."""
    return deploys / f"{digest}{ADDED}"


def forget(deploys: Path, digest: str) -> None:
    """Remove the records that go with a tree; raises `OSError`."""
    for suffix in (UNPACKED, GOOD, ADDED):
        (deploys / f"{digest}{suffix}").unlink(missing_ok=True)


def digests(deploys: Path) -> set[str]:
    """Return what has a tree or a record that goes with one, whole and readable or not."""
    names = (path.name.partition(".") for path in deploys.glob("[!.]*"))
    return {
        digest
        for digest, dot, rest in names
        if DIGEST.fullmatch(digest) and dot + rest in {"", UNPACKED, GOOD, ADDED}
    }


def slug_to_json(slug: Slug) -> dict[str, Any]:
    """Return what `slug_from_json` reads; where the tree is follows from its digest."""
    names = ("digest", "source", "etag", "goog_hash", "packed_bytes", "unpacked_bytes", "members")
    return {name: getattr(slug, name) for name in names}


def slug_from_json(value: dict[str, Any], deploys: Path) -> Slug:
    """Parse a slug; raises `ValueError`, `TypeError` or `LookupError`."""
    digest = _text(value["digest"])
    return Slug(
        digest=digest,
        path=deploys / digest,
        source=_text(value["source"]),
        etag=_text_or_none(value["etag"]),
        goog_hash=_text_or_none(value["goog_hash"]),
        packed_bytes=_is(int, value["packed_bytes"]),
        unpacked_bytes=_is(int, value["unpacked_bytes"]),
        members=_is(int, value["members"]),
    )


_OPTIONAL = (
    "version",
    "cloud",
    "distillery_eval",
    "distillery_remote_command",
    "slug_sha256",
    "sha",
    "summary",
    "created_at",
)
"""The fields of a deploy that are a text or absent."""


def deploy_to_json(deploy: Deploy) -> dict[str, Any]:
    """Return what `deploy_from_json` reads: all of the deploy, secrets included."""
    optional = {name: getattr(deploy, name) for name in _OPTIONAL}
    named = {"slug_url": deploy.slug_url, "app_name": deploy.app_name}
    return {**named, "config": dict(deploy.config), **optional}


def deploy_from_json(value: dict[str, Any]) -> Deploy:
    """Parse a deploy; raises `ValueError`, `TypeError` or `LookupError`."""
    config: Mapping[str, Any] = _is(dict, value["config"])
    return Deploy(
        slug_url=_text(value["slug_url"]),
        app_name=_text(value["app_name"]),
        config={name: _text(text) for name, text in config.items()},
        **{name: _text_or_none(value[name]) for name in _OPTIONAL},
    )


def _unpacked_path(deploys: Path, digest: str) -> Path:
    return deploys / f"{digest}{UNPACKED}"


def _good_path(deploys: Path, digest: str) -> Path:
    return deploys / f"{digest}{GOOD}"


def _write(path: Path, value: dict[str, Any], *, fsync: bool) -> None:
    content = json.dumps(value, indent=1).encode("ascii")
    files.atomic_write(path, content, mode=MODE, fsync=fsync)


def _read(path: Path, judge: Callable[[dict[str, Any]], T]) -> T | None:
    try:
        return judge(_is(dict, json.loads(path.read_bytes())))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, LookupError) as error:
        # What is wrong in it may be a secret, so only the kind of trouble is told.
        log.warning(
            "cannot use the record %s (%s); its tree is ignored", path, type(error).__name__
        )
        return None


def _is(kind: type[T], value: object) -> T:
    if not isinstance(value, kind):
        raise TypeError(f"not {kind}")
    return value


def _text(value: object) -> str:
    return _is(str, value)


def _text_or_none(value: object) -> str | None:
    return None if value is None else _text(value)
