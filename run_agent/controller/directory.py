"""The directory controller: a folder with `release.json`, `ssh_keys` and the slugs.

Owns reading these two files, anew at every call, so that a change is picked up at the next one.
Must not write there, nor open a slug. Nothing is retried: a file is there or it is not.
"""

# ruff: noqa: ARG002 - a folder has no use for patience, host names or app names

import os
import stat
from pathlib import Path

from run_agent.controller import parse
from run_agent.controller.parse import SshKeys
from run_agent.errors import UnavailableError
from run_agent.model import Deploy

FILE_LIMIT_BYTES = 4 << 20
"""Largest file that is read, as for the answer of an HTTP controller."""


class DirectoryController:
    """A `Controller` that is a folder on this machine."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def current_deploy(self, patience: float = 0.0) -> Deploy:
        """Return the deploy of `release.json`: the `data` object, wrapped in `data` or not."""
        path = self._folder / "release.json"
        try:
            found = parse.loads(read(path))
        except FileNotFoundError:
            raise UnavailableError(
                f"cannot read {path} (no such file); put it there, or check CONTROLLER_URL"
            ) from None
        except parse.AnswerError as problem:
            raise UnavailableError(
                f"cannot use {path}: {problem}; it may be half-written: write it whole under "
                "another name and rename it"
            ) from None
        if isinstance(found, dict) and "slug_url" not in found:
            found = found.get("data", found)
        return parse.deploy(found, str(path), folder=self._folder)

    def ssh_keys(self, patience: float = 0.0) -> SshKeys:
        """Return the lines of `ssh_keys`; without that file there are no keys.

        A folder that is not there (a volume not mounted) says nothing about keys: that raises.
        """
        path = self._folder / "ssh_keys"
        try:
            return SshKeys(parse.lines(read(path).decode()))
        except FileNotFoundError:
            if self._folder.is_dir():
                return SshKeys(())
            raise UnavailableError(
                f"cannot read {path} (no such folder); mount it, or check CONTROLLER_URL"
            ) from None
        except UnicodeDecodeError as error:
            line = error.object.count(b"\n", 0, error.start) + 1
            raise UnavailableError(
                f"cannot use {path}: line {line} is not UTF-8; correct it there"
            ) from None

    def host_index(self, hostname: str, patience: float = 0.0) -> None:
        """Return none: a folder numbers no replicas."""

    def migrate_expression(self, app_name: str, patience: float = 0.0) -> None:
        """Return none: a folder knows no migrations."""


def read(path: Path) -> bytes:
    """Read a small file; raises `FileNotFoundError`, or `UnavailableError` for anything else."""
    try:
        # Without O_NONBLOCK the open of a FIFO waits for a writer that may never come.
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise UnavailableError(f"cannot read {path}: it is not a file; put one there")
            body = file.read(FILE_LIMIT_BYTES + 1)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise UnavailableError(
            f"cannot read {path} ({error.strerror}); check the file and its folder"
        ) from error
    if len(body) > FILE_LIMIT_BYTES:
        raise UnavailableError(f"cannot use {path}: it is over 4 MiB; put a smaller one there")
    return body
