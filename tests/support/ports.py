"""Free TCP ports that no other test of this machine gets at the same time."""

import random
import socket
from contextlib import suppress

FIRST, LAST = 20_000, 32_000
"""Below the kernel's own range for outgoing connections (ip_local_port_range), which would
otherwise take a port between our look and its use."""


def bound(port: int = 0) -> socket.socket:
    """Bind a socket to a port of 127.0.0.1, by default any free one, and never listen.

    It stays ours while nobody listens there; a server of ours may bind it as well.
    """
    bound = socket.socket()
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    bound.bind(("127.0.0.1", port))
    return bound


class Ports:
    """Reserves ports until `close`.

    Each is held by a name in the kernel's abstract namespace (unix(7)), which goes with us
    however we end, so that parallel test runs do not meet.
    """

    def __init__(self) -> None:
        self._reservations: list[socket.socket] = []

    def free(self) -> int:
        """Return a port that nothing listens on."""
        while True:
            port = random.randrange(FIRST, LAST)
            reservation = socket.socket(socket.AF_UNIX)
            with suppress(OSError):
                reservation.bind(f"\0run-agent-test-port-{port}")
                with socket.create_server(("", port)):
                    self._reservations.append(reservation)
                    return port
            reservation.close()

    def close(self) -> None:
        """Give all of them back."""
        while self._reservations:
            self._reservations.pop().close()
