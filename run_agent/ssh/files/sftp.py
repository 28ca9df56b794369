"""SFTP version 3: packets in, answers out, in order (draft-ietf-secsh-filexfer-02).

Nothing is hidden from the client: what the account may do is all that limits it.
"""

from __future__ import annotations

import errno
import struct
from collections.abc import Iterator

from run_agent.ssh.files import sftp_requests
from run_agent.ssh.files.sftp_client import Client
from run_agent.ssh.files.sftp_packet import LONGEST_PACKET, Malformed, Packet, string, uint32
from run_agent.ssh.files.sftp_requests import (
    BAD_MESSAGE,
    FAILURE,
    NO_SUCH_FILE,
    PERMISSION_DENIED,
    UNSUPPORTED,
    Answer,
)
from run_agent.ssh.files.stream import Stream

OURS = 3

INIT, VERSION = 1, 2

COLLECTED_BYTES = 256 << 10
COLLECTED_PARTS = 512
"""So much is collected before it is sent while requests are waiting; writev(2) takes 1024 parts."""

CODES = {
    errno.ENOENT: NO_SUCH_FILE,
    errno.ENOTDIR: NO_SUCH_FILE,
    errno.ELOOP: NO_SUCH_FILE,
    errno.EACCES: PERMISSION_DENIED,
    errno.EPERM: PERMISSION_DENIED,
    errno.EROFS: PERMISSION_DENIED,
    errno.EOPNOTSUPP: UNSUPPORTED,
}
"""What has a code of its own in version 3; the rest is FAILURE, in the system's words."""


def serve(stream: Stream, client: Client) -> int:
    """Answer until the client goes; return the exit status. Leaves nothing open."""
    rest = b""
    try:
        while arrived := stream.receive():
            packets = memoryview(rest + arrived)
            used = 0
            answers = Answers(stream)
            for packet in _whole_packets(packets):
                used += 4 + len(packet)
                answers.add(answer(client, packet))
            answers.send()
            rest = bytes(packets[used:])
    except (Malformed, ConnectionError):
        return 1
    finally:
        client.close()
    return 0


class Answers:
    """Answers on their way: to many small requests at once, to a large one alone."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._parts: list[bytes] = []
        self._bytes = 0

    def add(self, parts: tuple[bytes, ...]) -> None:
        """Add one; sends where enough have come together. Raises `ConnectionError`."""
        self._parts += parts
        self._bytes += sum(map(len, parts))
        if self._bytes >= COLLECTED_BYTES or len(self._parts) >= COLLECTED_PARTS:
            self.send()

    def send(self) -> None:
        """Send what there is. Raises `ConnectionError`."""
        if self._parts:
            self._stream.send(self._parts)
            self._parts, self._bytes = [], 0


def answer(client: Client, content: memoryview) -> tuple[bytes, ...]:
    """Do what one packet asks for; return the packet that answers it, in parts.

    Raises `Malformed` where not even that it is a request can be made out.
    """
    packet = Packet(content)
    kind = packet.byte()
    if kind == INIT:
        return _framed(VERSION, (uint32(OURS), *_extensions()))
    number = uint32(packet.uint32())
    try:
        kind, parts = sftp_requests.REQUESTS.get(kind, sftp_requests.unknown)(client, packet)
    except Malformed as error:
        kind, parts = sftp_requests.status(BAD_MESSAGE, str(error))
    except OSError as error:
        kind, parts = _refusal(error)
    except (ValueError, OverflowError) as error:  # a NUL in a path; an offset beyond 2**63
        kind, parts = sftp_requests.status(FAILURE, str(error))
    return _framed(kind, (number, *parts))


def _refusal(error: OSError) -> Answer:
    code = CODES.get(error.errno or 0, FAILURE)
    return sftp_requests.status(code, error.strerror or str(error))


def _extensions() -> Iterator[bytes]:
    for name, (version, _) in sftp_requests.EXTENSIONS.items():
        yield string(name) + string(version.encode())


def _framed(kind: int, parts: tuple[bytes, ...]) -> tuple[bytes, ...]:
    first, *others = parts
    header = struct.pack(">IB", 1 + sum(map(len, parts)), kind)
    if sum(map(len, others)) < 4096:  # joining is cheaper than a part for each
        return (header + b"".join(parts),)
    return header + first, *others


def _whole_packets(arrived: memoryview) -> Iterator[memoryview]:
    at = 0
    while len(arrived) - at >= 4:
        length = int.from_bytes(arrived[at : at + 4], "big")
        if not 1 <= length <= LONGEST_PACKET:
            raise Malformed(f"a packet of {length} bytes")
        if len(arrived) - at < 4 + length:
            return
        yield arrived[at + 4 : at + 4 + length]
        at += 4 + length
