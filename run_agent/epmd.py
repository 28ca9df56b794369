"""The port mapper (epmd): which node is registered here, and on which port it takes connections.

Asks on the wire, in a millisecond and without starting anything. Knows nothing of cookies: that a
node is registered says that its VM runs, not that it answers.
"""

import contextlib
import re
import socket
from collections.abc import Mapping

DEFAULT_PORT = 4369
"""Unless `ERL_EPMD_PORT` says otherwise (epmd(1))."""

ANSWER_SECONDS = 3.0
"""How long epmd may take to answer; it needs less than a millisecond."""

LOOPBACK = ("127.0.0.1", "::1")
"""Where epmd listens always, on which addresses ever else (epmd(1), `-address`)."""

_PORT_PLEASE2_REQ = 122
_PORT2_RESP = 119


def port_in(env: Mapping[str, str]) -> int:
    """Return the port of the epmd that a VM with this environment uses; the usual one for none."""
    given = env.get("ERL_EPMD_PORT", "")
    port = int(given) if re.fullmatch("[0-9]{1,5}", given) else 0
    return port if 1 <= port <= 65535 else DEFAULT_PORT


def distribution_port(node: str, port: int) -> int | None:
    """Return the port on which `node` (`name@host`, of this host) takes other nodes.

    None if no such node is registered with the epmd on `port`, or no epmd runs there.
    Source: OTP, ERTS User's Guide, Distribution Protocol, "Get the Distribution Port of a Node".
    """
    name = node.partition("@")[0].encode()
    request = (len(name) + 1).to_bytes(2) + bytes([_PORT_PLEASE2_REQ]) + name
    answer = next(filter(None, (_ask(address, port, request) for address in LOOPBACK)), b"")
    if len(answer) < 4 or answer[0] != _PORT2_RESP or answer[1] != 0:
        return None
    return int.from_bytes(answer[2:4])


def _ask(address: str, port: int, request: bytes) -> bytes:
    """Return what epmd answers before it closes the connection; nothing if it is not there."""
    answer = b""
    with (
        contextlib.suppress(OSError),
        socket.create_connection((address, port), timeout=ANSWER_SECONDS) as connection,
    ):
        connection.sendall(request)
        while part := connection.recv(4096):
            answer += part
    return answer
