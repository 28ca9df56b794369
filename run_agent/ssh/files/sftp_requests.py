"""The requests of SFTP version 3 and of its usual extensions, one function for each.

draft-ietf-secsh-filexfer-02, 6; OpenSSH's PROTOCOL, 4. Each does its work at once and returns its
answer: a kind, and the parts that follow. Raises `OSError` where the system refuses, `Malformed`
where the client errs.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable

from run_agent.ssh.files import ledger
from run_agent.ssh.files.opened import LONGEST_READ, File, Folder, expand_home, long_name
from run_agent.ssh.files.sftp_client import MOST_HANDLES, Client
from run_agent.ssh.files.sftp_packet import (
    LONGEST_PACKET,
    Packet,
    attributes,
    string,
    uint32,
    uint64,
)

LONGEST_WRITE = LONGEST_READ

STATUS, HANDLE, DATA, NAME, ATTRS, EXTENDED_REPLY = 101, 102, 103, 104, 105, 201
"""Kinds of answers (7)."""

OK, EOF, NO_SUCH_FILE, PERMISSION_DENIED, FAILURE, BAD_MESSAGE = range(6)
UNSUPPORTED = 8
"""Codes of a status (7)."""

READ, WRITE, APPEND, CREATE, TRUNCATE, EXCLUSIVE = 1, 2, 4, 8, 16, 32
"""How a file is opened (6.3)."""

ACCESS = {WRITE: os.O_WRONLY, READ | WRITE: os.O_RDWR}
MORE = {
    APPEND: os.O_APPEND,
    CREATE: os.O_CREAT,
    TRUNCATE: os.O_TRUNC,
    EXCLUSIVE: os.O_EXCL,
}
DIRECTIONS = {WRITE: ledger.WRITE, READ | WRITE: ledger.BOTH}

MOUNT_FLAGS = os.ST_RDONLY | os.ST_NOSUID
"""Those that `statvfs@openssh.com` knows."""

Answer = tuple[int, tuple[bytes, ...]]
Request = Callable[[Client, Packet], Answer]


def status(code: int, text: str) -> Answer:
    """Answer with a code and words."""
    return STATUS, (uint32(code), string(os.fsencode(text)), string(b""))


DONE = status(OK, "Success")


# -- files ----------------------------------------------------------------------------------------


def open_file(client: Client, packet: Packet) -> Answer:
    """Open a file, or create it."""
    path, wanted, mode = client.path(packet), packet.uint32(), packet.attributes().mode
    client.need_handle()
    access = wanted & (READ | WRITE)
    # not to wait for the other end of a FIFO; a file knows no difference
    flags = ACCESS.get(access, os.O_RDONLY) | os.O_NONBLOCK
    for asked, flag in MORE.items():
        flags |= flag if wanted & asked else 0
    line = client.ledger.opened(path, DIRECTIONS.get(access, ledger.READ))
    try:
        descriptor = os.open(path, flags, 0o666 if mode is None else mode & 0o7777)
    except OSError as error:
        line.close(error=error.strerror)
        raise
    return HANDLE, (string(client.keep(File(descriptor, line))),)


def read(client: Client, packet: Packet) -> Answer:
    """Read from a file; at its end the answer is a status."""
    file, offset, length = client.file(packet), packet.uint64(), packet.uint32()
    content = file.read(min(length, LONGEST_READ), offset)
    if not content:
        return status(EOF, "End of file")
    return DATA, (uint32(len(content)), content)


def write(client: Client, packet: Packet) -> Answer:
    """Write all of it; the file stays as far as it came where that fails."""
    file, offset, content = client.file(packet), packet.uint64(), packet.view()
    file.write(content, offset)
    return DONE


def close(client: Client, packet: Packet) -> Answer:
    """Close a file or folder."""
    client.give_back(packet)
    return DONE


def fstat(client: Client, packet: Packet) -> Answer:
    """Tell an open file's attributes."""
    return ATTRS, (attributes(os.fstat(client.file(packet).descriptor)),)


def fsetstat(client: Client, packet: Packet) -> Answer:
    """Set an open file's attributes."""
    file, wanted = client.file(packet), packet.attributes()
    if wanted.told():
        with client.ledger.change("set attributes", file.line.path, **wanted.told()):
            wanted.apply(file.descriptor)
    else:  # times, or the size to which an upload came: the file's own line tells enough
        wanted.apply(file.descriptor)
    return DONE


def fsync(client: Client, packet: Packet) -> Answer:
    """Bring a file to the disk (fsync@openssh.com)."""
    os.fsync(client.file(packet).descriptor)
    return DONE


def fstatvfs(client: Client, packet: Packet) -> Answer:
    """Tell of an open file's file system (fstatvfs@openssh.com)."""
    return _statvfs(os.fstatvfs(client.file(packet).descriptor))


def copy(client: Client, packet: Packet) -> Answer:
    """copy-data (draft-ietf-secsh-filexfer-extensions-00, 7): length 0 is up to the end."""
    source, start, length = client.file(packet), packet.uint64(), packet.uint64()
    target, at = client.file(packet), packet.uint64()
    if os.path.samestat(os.fstat(source.descriptor), os.fstat(target.descriptor)):
        raise OSError(errno.EINVAL, "Cannot copy a file into itself")
    end = start + length if length else None
    while end is None or start < end:
        size = LONGEST_READ if end is None else min(LONGEST_READ, end - start)
        if not (content := source.read(size, start)):
            break
        target.write(memoryview(content), at)
        start, at = start + len(content), at + len(content)
    return DONE


# -- folders --------------------------------------------------------------------------------------


def open_folder(client: Client, packet: Packet) -> Answer:
    """Open a folder, to list it."""
    path = client.path(packet)
    client.need_handle()
    return HANDLE, (string(client.keep(Folder(path))),)


def read_folder(client: Client, packet: Packet) -> Answer:
    """List the next names of a folder; at its end the answer is a status."""
    entries = client.listing(packet).next_entries()
    if not entries:
        return status(EOF, "End of folder")
    listed = (
        string(name) + string(long_name(name, found)) + attributes(found) for name, found in entries
    )
    return NAME, (uint32(len(entries)), *listed)


def make_folder(client: Client, packet: Packet) -> Answer:
    """Make a folder."""
    path, mode = client.path(packet), packet.attributes().mode
    with client.ledger.change("make folder", path):
        os.mkdir(path, 0o777 if mode is None else mode & 0o7777)
    return DONE


def remove_folder(client: Client, packet: Packet) -> Answer:
    """Remove an empty folder."""
    path = client.path(packet)
    with client.ledger.change("remove folder", path):
        os.rmdir(path)
    return DONE


# -- names ----------------------------------------------------------------------------------------


def stat(client: Client, packet: Packet) -> Answer:
    """Tell a file's attributes; of a symbolic link, its target's."""
    return ATTRS, (attributes(os.stat(client.path(packet))),)


def lstat(client: Client, packet: Packet) -> Answer:
    """Tell a file's attributes; of a symbolic link, its own."""
    return ATTRS, (attributes(os.lstat(client.path(packet))),)


def setstat(client: Client, packet: Packet) -> Answer:
    """Set a file's attributes; of a symbolic link, its target's."""
    return _set_attributes(client, packet, follow=True)


def lsetstat(client: Client, packet: Packet) -> Answer:
    """Set the attributes of a symbolic link itself (lsetstat@openssh.com)."""
    return _set_attributes(client, packet, follow=False)


def _set_attributes(client: Client, packet: Packet, *, follow: bool) -> Answer:
    path, wanted = client.path(packet), packet.attributes()
    with client.ledger.change("set attributes", path, size=wanted.size, **wanted.told()):
        wanted.apply(path, follow=follow)
    return DONE


def remove(client: Client, packet: Packet) -> Answer:
    """Remove a file or a link."""
    path = client.path(packet)
    with client.ledger.change("remove", path):
        os.unlink(path)
    return DONE


def rename(client: Client, packet: Packet) -> Answer:
    """Rename, but never over something (6.5): clients rely on it."""
    old, new = client.path(packet), client.path(packet)
    with client.ledger.change("rename", old, target=new):
        if os.path.lexists(new):
            raise OSError(errno.EEXIST, os.strerror(errno.EEXIST))
        os.rename(old, new)
    return DONE


def rename_over(client: Client, packet: Packet) -> Answer:
    """Rename as rename(2) does (posix-rename@openssh.com)."""
    old, new = client.path(packet), client.path(packet)
    with client.ledger.change("rename", old, target=new):
        os.replace(old, new)
    return DONE


def hard_link(client: Client, packet: Packet) -> Answer:
    """Make a hard link (hardlink@openssh.com)."""
    old, new = client.path(packet), client.path(packet)
    with client.ledger.change("hard link", new, target=old):
        os.link(old, new, follow_symlinks=False)
    return DONE


def symbolic_link(client: Client, packet: Packet) -> Answer:
    """Make a symbolic link; a relative target is kept as it is."""
    target, link = packet.string(), packet.string()
    if client.link_first:
        target, link = link, target
    link = os.path.join(client.folder, link)
    with client.ledger.change("symbolic link", link, target=target):
        os.symlink(target, link)
    return DONE


def read_link(client: Client, packet: Packet) -> Answer:
    """Tell what a symbolic link holds."""
    return _one_name(os.readlink(client.path(packet)))


def real_path(client: Client, packet: Packet) -> Answer:
    """Tell the absolute path, without links and dots."""
    return _one_name(os.path.realpath(client.path(packet)))


def expand_path(client: Client, packet: Packet) -> Answer:
    """Tell the absolute path of one that may start with `~` (expand-path@openssh.com)."""
    path = expand_home(packet.string(), client.home)
    return _one_name(os.path.realpath(os.path.join(client.folder, path)))


def statvfs(client: Client, packet: Packet) -> Answer:
    """Tell of the file system at a path (statvfs@openssh.com)."""
    return _statvfs(os.statvfs(client.path(packet)))


def _one_name(name: bytes) -> Answer:
    return NAME, (uint32(1), string(name), string(name), uint32(0))


def _statvfs(found: os.statvfs_result) -> Answer:
    numbers = (
        found.f_bsize, found.f_frsize, found.f_blocks, found.f_bfree, found.f_bavail,
        found.f_files, found.f_ffree, found.f_favail, found.f_fsid, found.f_flag & MOUNT_FLAGS,
        found.f_namemax,
    )  # fmt: skip
    return EXTENDED_REPLY, tuple(map(uint64, numbers))


# -- the rest -------------------------------------------------------------------------------------


def limits(_client: Client, _packet: Packet) -> Answer:
    """Tell how much goes into one request (limits@openssh.com)."""
    numbers = (LONGEST_PACKET, LONGEST_READ, LONGEST_WRITE, MOST_HANDLES)
    return EXTENDED_REPLY, tuple(map(uint64, numbers))


def extended(client: Client, packet: Packet) -> Answer:
    """Do one of the extensions."""
    _, request = EXTENSIONS.get(packet.string(), ("", unknown))
    return request(client, packet)


def unknown(_client: Client, _packet: Packet) -> Answer:
    """Say that there is no such request."""
    return status(UNSUPPORTED, "This server does not know such a request")


REQUESTS: dict[int, Request] = {
    3: open_file,
    4: close,
    5: read,
    6: write,
    7: lstat,
    8: fstat,
    9: setstat,
    10: fsetstat,
    11: open_folder,
    12: read_folder,
    13: remove,
    14: make_folder,
    15: remove_folder,
    16: real_path,
    17: stat,
    18: rename,
    19: read_link,
    20: symbolic_link,
    200: extended,
}

EXTENSIONS: dict[bytes, tuple[str, Request]] = {
    b"posix-rename@openssh.com": ("1", rename_over),
    b"statvfs@openssh.com": ("2", statvfs),
    b"fstatvfs@openssh.com": ("2", fstatvfs),
    b"hardlink@openssh.com": ("1", hard_link),
    b"fsync@openssh.com": ("1", fsync),
    b"lsetstat@openssh.com": ("1", lsetstat),
    b"limits@openssh.com": ("1", limits),
    b"expand-path@openssh.com": ("1", expand_path),
    b"copy-data": ("1", copy),
}
"""Each with its version."""
