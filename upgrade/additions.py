"""What hot upgrades add to the node's own tree, and how all of it is taken away again.

Owns the record of it, which also keeps what was there before. Must not touch what the slug
brought, but for the two files that release_handler rewrites. Calls block for as long as the
volume does; asyncio code makes them in a thread, and one at a time.
"""

import contextlib
import errno
import json
import os
import shutil
import stat
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from run_agent import files
from run_agent.errors import RunAgentError
from run_agent.slug import staging
from upgrade.outcome import RefusedError

START = "start_erl.data"
REWRITTEN = ("RELEASES", START)
"""Files in `releases/` that release_handler replaces (release_handler(3))."""

PARTIAL = ".partial-"
"""Before the name of what is not whole: no longer, or not yet."""

_NO_LINK = {errno.EXDEV, errno.EPERM, errno.EMLINK, errno.EOPNOTSUPP, errno.ENOSYS}
"""Another device, not our file (proc(5), protected_hardlinks), or a file system without links."""

_OWNER = 0o700


@dataclass(frozen=True, slots=True)
class _Version:
    """What a version has beyond the slug's own files; another one may have the same paths."""

    digest: str | None
    paths: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Record:
    """What `releases/` was, its rewritten files as text, and what came to the tree since."""

    names: tuple[str, ...]
    originals: Mapping[str, str | None]
    versions: Mapping[str, _Version]


class Additions:
    """What was added to the tree `root`, by the file `record`, which lies outside of it.

    A process may be killed at any point in here: the next one calls `restore` before a release is
    started from the tree, or `place` or `undo` once more while the node runs.
    """

    def __init__(self, root: Path, record: Path) -> None:
        self._root = root
        self._releases = root / "releases"
        self._record = record

    def place(self, tree: Path, version: str, *, digest: str | None) -> None:
        """Add what `version` in `tree` has and the root lacks; `digest` is that of its slug.

        Libraries are linked or else copied; what a start script may write into is copied. Nothing
        is overwritten. Raises `RunAgentError`, and then leaves nothing: 74 for trouble with the
        disk, 73 where the root has that version already, 65 for one that is no name.
        """
        self._refuse(version)
        self.undo(version)
        record = self._read()
        try:
            with self._changing(f"place the files of {version}"):
                record = record or self._begun()
                paths = self._lacked(tree, version, record)
                self._write(_with(record, version, _Version(digest, paths)))
                for path in paths:
                    self._add(tree, path)
        except RunAgentError:
            with contextlib.suppress(RunAgentError):  # then it is done before the next start
                self.undo(version)
            raise

    def require_writable(self) -> None:
        """Raise `RefusedError` where nothing can be added: an image's root may be read-only."""
        for folder in (self._releases, self._root / "lib"):
            if not os.access(folder, os.W_OK):
                raise RefusedError(
                    f"cannot change the release in place: new files would go into {folder}, which "
                    "is read-only here; make it writable (readOnlyRootFilesystem: false, and our "
                    "account as its owner), or build the new version into the image"
                )

    def undo(self, version: str) -> None:
        """Remove what was added for `version` alone, if anything; raises `RunAgentError` (74)."""
        record = self._read()
        if record is None or version not in record.versions:
            return
        shared = _paths(record, but=version)
        with self._changing(f"remove the files of {version}"):
            # What tells the tree of the version goes first.
            for path in reversed(record.versions[version].paths):
                if path not in shared:
                    self._remove(self._root / path)
            self._write(_with(record, version, None))

    def restore(self) -> None:
        """Make the tree what its slug holds, and forget the additions; raises `RunAgentError` (74).

        To be called before a release is started from it: what a running node uses may go.
        """
        record = self._read()
        if record is None:
            return
        with self._changing("remove what hot upgrades have added"):
            for path in _paths(record):
                self._remove(self._root / path)
            for name in {path.name for path in self._releases.iterdir()} - {*record.names}:
                self._remove(self._releases / name)
            for name in REWRITTEN:
                self._put_back(name, record)
            self._put_configurations_back()
            self._record.unlink(missing_ok=True)

    def put_back_start(self) -> None:
        """Have a start from this tree boot the version of its slug; raises `RunAgentError` (74)."""
        record = self._read()
        if record is not None:
            with self._changing("put the boot version back"):
                self._put_back(START, record)

    def start_from(self, version: str) -> None:
        """Have a start from this tree boot `version`; raises `RunAgentError` (74)."""
        path = self._releases / START
        with self._changing(f"have a start boot {version}"):
            self._discard_half_written(path)
            erts = (_text(path) or "").split()[:1]
            content = " ".join([*erts, version])
            if erts and _text(path) != content:
                files.atomic_write(path, content.encode(), mode=0o644, fsync=True)

    def digest_of(self, version: str) -> str | None:
        """Return the digest of the slug that `version` was added from; none for no addition.

        Raises `RunAgentError` (74).
        """
        record = self._read()
        added = record and record.versions.get(version)
        return added.digest if added else None

    def digests(self) -> set[str]:
        """Return the digests of the slugs that anything was added from; raises as `digest_of`."""
        record = self._read()
        versions = record.versions.values() if record else ()
        return {added.digest for added in versions if added.digest is not None}

    # -- the tree -------------------------------------------------------------------------------

    def _refuse(self, version: str) -> None:
        if version in {"", ".", ".."} or {*version} & {"/", "\0"}:
            raise RunAgentError(
                f"cannot place version {version!r}: releases/VERSION must be a folder; build the "
                "release with another version",
                exit_code=os.EX_DATAERR,
            )
        if _exists(there := self._releases / version):
            raise RunAgentError(
                f"cannot place version {version}: {there} is there already; raise the version, or "
                "deploy it the ordinary way (restart the replica)",
                exit_code=os.EX_CANTCREAT,
            )

    def _lacked(self, tree: Path, version: str, record: _Record) -> tuple[str, ...]:
        """Return the paths that are the additions of `version`.

        Its folder in `releases/` is the last of them: where that is there, so are the others.
        """
        libraries = (f"lib/{path.name}" for path in (tree / "lib").iterdir())
        scripts = (path.name for path in (tree / "bin").iterdir())
        of_version = (f"bin/{name}" for name in scripts if name.endswith(f"-{version}"))
        wanted = (*sorted(libraries), *sorted(of_version), f"releases/{version}")
        added = _paths(record)
        return tuple(path for path in wanted if path in added or not _exists(self._root / path))

    def _add(self, tree: Path, path: str) -> None:
        target = self._root / path
        if _exists(target):
            return  # another version has it as well
        partial = _partial(target)
        _discard(partial)
        _copy(tree / path, partial, by=_link if path.startswith("lib/") else shutil.copy2)
        partial.rename(target)

    def _remove(self, path: Path) -> None:
        """Remove it, if it is there, such that no part of it is ever seen under its name."""
        partial = _partial(path)
        _discard(partial)
        with contextlib.suppress(FileNotFoundError):
            path.rename(partial)
        _discard(partial)

    def _put_back(self, name: str, record: _Record) -> None:
        path, original = self._releases / name, record.originals[name]
        self._discard_half_written(path)
        if original is None:
            path.unlink(missing_ok=True)
        elif _text(path) != original:
            content = original.encode(errors="surrogateescape")
            files.atomic_write(path, content, mode=0o644, fsync=True)

    def _discard_half_written(self, path: Path) -> None:
        """Remove what an agent that was killed has left of a file that it was replacing."""
        for left in path.parent.glob(f".{path.name}.*.new"):
            left.unlink(missing_ok=True)

    def _put_configurations_back(self) -> None:
        """Undo what an install leaves that ended with the VM (`erl/run_agent_install.erl`)."""
        for computed in self._releases.glob("*/sys.config.new"):
            computed.unlink()
        for original in self._releases.glob("*/sys.config.original"):
            original.rename(original.with_suffix(""))

    # -- the record -----------------------------------------------------------------------------

    def _begun(self) -> _Record:
        return _Record(
            names=tuple(sorted(path.name for path in self._releases.iterdir())),
            originals={name: _text(self._releases / name) for name in REWRITTEN},
            versions={},
        )

    def _write(self, record: _Record) -> None:
        content = json.dumps(asdict(record), indent=1).encode("ascii")
        files.atomic_write(self._record, content, fsync=True)

    def _read(self) -> _Record | None:
        try:
            kept = json.loads(self._record.read_bytes())
            return _Record(
                names=tuple(kept["names"]),
                originals={name: kept["originals"][name] for name in REWRITTEN},
                versions={
                    version: _Version(added["digest"], tuple(added["paths"]))
                    for version, added in kept["versions"].items()
                },
            )
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError, LookupError, AttributeError) as error:
            raise RunAgentError(
                f"cannot read {self._record} ({type(error).__name__}), which tells what hot "
                f"upgrades have added to {self._root}; remove both, and the slug is fetched again",
                exit_code=os.EX_IOERR,
            ) from error

    @contextlib.contextmanager
    def _changing(self, what: str) -> Iterator[None]:
        """Say in the user's words what keeps us from writing there; raises `RunAgentError` (74)."""
        try:
            yield
        except OSError as error:
            path = error.filename2 or error.filename or self._root
            raise RunAgentError(
                f"cannot {what} in {self._root} ({path}: {error.strerror or error}); make that "
                "writable, with room for it, or deploy the ordinary way (restart the replica)",
                exit_code=os.EX_IOERR,
            ) from error


def _with(record: _Record, version: str, added: _Version | None) -> _Record:
    others = {name: kept for name, kept in record.versions.items() if name != version}
    return replace(record, versions=others | ({version: added} if added else {}))


def _paths(record: _Record, *, but: str | None = None) -> set[str]:
    """Return what was added for any version, `but` for that one."""
    versions = (added for version, added in record.versions.items() if version != but)
    return {path for added in versions for path in added.paths}


def _copy(source: Path, target: Path, *, by: Callable[[Path, Path], object]) -> None:
    """Put a file, a link or a folder there; what is below it is put there `by` that."""
    if source.is_symlink():
        target.symlink_to(source.readlink())
    elif source.is_dir():
        target.mkdir(mode=_OWNER)
        for path in source.iterdir():
            _copy(path, target / path.name, by=by)
        target.chmod(stat.S_IMODE(source.stat().st_mode))
    else:
        by(source, target)


def _link(source: Path, target: Path) -> None:
    try:
        target.hardlink_to(source)
    except OSError as error:
        if error.errno not in _NO_LINK:
            raise
        shutil.copy2(source, target)


def _discard(path: Path) -> None:
    """Remove a file, a link or a folder, if it is there."""
    if path.is_dir() and not path.is_symlink():
        staging.remove(path)
    else:
        path.unlink(missing_ok=True)


def _partial(path: Path) -> Path:
    return path.with_name(f"{PARTIAL}{path.name}")


def _exists(path: Path) -> bool:
    return path.is_symlink() or path.exists()


def _text(path: Path) -> str | None:
    try:
        return path.read_bytes().decode(errors="surrogateescape")
    except FileNotFoundError:
        return None
