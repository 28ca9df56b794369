"""What one SFTP client has open, and what its paths mean."""

from __future__ import annotations

import errno
import os
from typing import TypeVar

from run_agent.ssh.files.ledger import Ledger
from run_agent.ssh.files.opened import File, Folder
from run_agent.ssh.files.sftp_packet import Packet, uint64

MOST_HANDLES = 512
"""Files and folders that a client may have open at once; below the usual limit of a process, so
that what one request needs for itself is left."""

Kind = TypeVar("Kind", File, Folder)


class Client:
    """Relative paths start in `folder`; `~` is `home`.

    `link_first` says in which order the client sends the two paths of a symbolic link: the
    draft's, or the one that OpenSSH made usual.
    """

    def __init__(
        self, folder: bytes, home: bytes, ledger: Ledger, *, link_first: bool = False
    ) -> None:
        self.folder, self.home, self.ledger, self.link_first = folder, home, ledger, link_first
        self._open: dict[bytes, File | Folder] = {}
        self._numbers = 0

    def path(self, packet: Packet) -> bytes:
        """Take a path, absolute from here on."""
        return os.path.join(self.folder, packet.string())

    def need_handle(self) -> None:
        """Raise `OSError` where no more may be open."""
        if len(self._open) >= MOST_HANDLES:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    def keep(self, opened: File | Folder) -> bytes:
        """Return the handle under which the client names it from now on."""
        self._numbers += 1
        handle = uint64(self._numbers)
        self._open[handle] = opened
        return handle

    def file(self, packet: Packet) -> File:
        """Take a file's handle. Raises `OSError` where it is none."""
        return self._opened(packet.string(), File)

    def listing(self, packet: Packet) -> Folder:
        """Take a folder's handle. Raises `OSError` where it is none."""
        return self._opened(packet.string(), Folder)

    def _opened(self, handle: bytes, kind: type[Kind]) -> Kind:
        opened = self._open.get(handle)
        if not isinstance(opened, kind):
            raise OSError(errno.EBADF, "No such handle")
        return opened

    def give_back(self, packet: Packet) -> None:
        """Close what is open under a handle. Raises `OSError`; it is closed then, too."""
        opened = self._open.pop(packet.string(), None)
        if opened is None:
            raise OSError(errno.EBADF, "No such handle")
        opened.close()

    def close(self) -> None:
        """Close whatever has been left open."""
        while self._open:
            _, left = self._open.popitem()
            try:
                left.close()
            except OSError:
                continue  # nobody is there to be told; the ledger has it
