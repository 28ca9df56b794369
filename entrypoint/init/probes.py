"""Answers HTTP probes from the supervisor's own loop, so that no busy agent can starve them.

Knows GET and HEAD without a body, one request per connection. A slow or silent client costs one
of a fixed number of places for a few seconds, and nothing else.
"""

import errno
import selectors
import socket
import time
from collections.abc import Callable

REQUEST_SECONDS = 5.0
"""How long a client may take to send its request; a kubelet sends it at once."""

REQUEST_LIMIT_BYTES = 8192
CONNECTIONS = 64
"""Most probes at a time; with more, the oldest one is given up."""

_REASONS = {200: "OK", 400: "Bad Request", 404: "Not Found", 405: "Method Not Allowed",
            503: "Service Unavailable"}  # fmt: skip

Answer = Callable[[str], tuple[int, bytes]]
"""Turns a path into a status and a JSON body."""


def listen(port: int) -> socket.socket:
    """Open the port on all addresses, IPv4 and IPv6 where there is one; raises `OSError`."""
    if socket.has_dualstack_ipv6():
        try:
            return socket.create_server(
                ("", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=128
            )
        except OSError as error:
            if error.errno != errno.EAFNOSUPPORT:
                raise
    return socket.create_server(("", port), backlog=128)


class Probes:
    """The listening socket and the connections that are being answered."""

    def __init__(
        self, selector: selectors.BaseSelector, listener: socket.socket, answer: Answer
    ) -> None:
        self._selector, self._listener, self._answer = selector, listener, answer
        self._open: dict[socket.socket, tuple[float, bytearray]] = {}
        listener.setblocking(False)
        selector.register(listener, selectors.EVENT_READ, self._accept)

    def next_deadline(self) -> float | None:
        """When the oldest connection has waited long enough, as of time.monotonic()."""
        return next((since + REQUEST_SECONDS for since, _ in self._open.values()), None)

    def expire(self, now: float) -> None:
        """Give up the connections whose request did not come in time."""
        for connection, (since, _) in list(self._open.items()):
            if now >= since + REQUEST_SECONDS:
                self._close(connection)

    def _accept(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except OSError:
            return  # gone before we came, or no descriptor is left: the next probe may do better
        connection.setblocking(False)
        if len(self._open) >= CONNECTIONS:
            self._close(next(iter(self._open)))
        self._open[connection] = (time.monotonic(), bytearray())
        self._selector.register(connection, selectors.EVENT_READ, lambda: self._receive(connection))

    def _receive(self, connection: socket.socket) -> None:
        if connection not in self._open:
            return  # given up for another one while this event waited its turn
        request = self._open[connection][1]
        try:
            received = connection.recv(REQUEST_LIMIT_BYTES)
        except BlockingIOError:
            return
        except OSError:
            received = b""
        request += received
        complete = b"\r\n\r\n" in request or b"\n\n" in request
        if complete or not received or len(request) > REQUEST_LIMIT_BYTES:
            try:
                connection.send(self._respond(bytes(request), complete=complete))
            except OSError:
                pass  # the client left; there is nobody to tell
            self._close(connection)

    def _respond(self, request: bytes, *, complete: bool) -> bytes:
        words = request.split(b"\n", 1)[0].split()
        if not complete or len(words) != 3 or not words[2].startswith(b"HTTP/1."):
            return _response(400, b"{}", body_wanted=True)
        if words[0] not in {b"GET", b"HEAD"}:
            return _response(405, b"{}", body_wanted=True)
        status, body = self._answer(words[1].split(b"?")[0].decode("latin-1"))
        return _response(status, body, body_wanted=words[0] == b"GET")

    def _close(self, connection: socket.socket) -> None:
        del self._open[connection]
        self._selector.unregister(connection)
        connection.close()


def _response(status: int, body: bytes, *, body_wanted: bool) -> bytes:
    head = (
        f"HTTP/1.1 {status} {_REASONS[status]}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\nCache-Control: no-store\r\nConnection: close\r\n\r\n"
    )
    return head.encode() + (body if body_wanted else b"")
