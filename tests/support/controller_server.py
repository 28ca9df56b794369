"""A real HTTP controller on a real socket, which does what it is told, faults included.

    with ControllerServer(app="hello", key="k") as c:
        c.release = {"slug_url": …, "customer_app_name": "hello"}
        c.ssh_keys = ["ssh-ed25519 AAAA… me"]
        c.fault("current", "status", 500, times=3)

`c.url` is its base URL, `c.requests` what it was asked. Endpoints are `current`, `ssh_keys`,
`host_index` and `migrate`; `any` stands for all of them. Faults, each with what it takes:

- `status CODE [headers=…]`: that status, with no JSON
- `hang`: no answer until the port is closed
- `reset`: the connection is reset without an answer
- `cut`: half of the body that was announced; `cut_chunked`, `cut_unframed`: without a length
- `html`: 200 with a web page
- `huge`: 200 with 10 MB of JSON
- `missing NAME…`: the usual answer without these fields of its `data`
- `latin1`: JSON that is not UTF-8
- `drip SECONDS [headers=…]` and `drip_headers SECONDS`: a byte at a time
- `body BYTES [headers=…]`: 200 with this body
- `redirect URL`: 302

`c.refuse()` closes the port (it stays reserved) until `c.accept()`.
"""

import base64
import hashlib
import json
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import parse_qs, unquote, urlsplit

from support import ports

ENDPOINTS = ("current", "ssh_keys", "host_index", "migrate")
JSON = {"Content-Type": "application/json; charset=utf-8"}


@dataclass(frozen=True)
class Request:
    """One request as it arrived; `at` is in seconds of the monotonic clock."""

    endpoint: str
    target: str
    headers: Mapping[str, str]
    at: float

    @property
    def query(self) -> dict[str, list[str]]:
        return parse_qs(urlsplit(self.target).query)


@dataclass
class _Fault:
    kind: str
    arguments: tuple[Any, ...]
    headers: Mapping[str, str]
    left: int | None


@dataclass
class ControllerServer:
    """Set the attributes at any time; they count from the next request on."""

    app: str = "hello"
    key: str = "k"
    tls: ssl.SSLContext | None = None
    release: dict[str, Any] = field(default_factory=dict)
    ssh_keys: list[Any] = field(default_factory=list)
    host_indexes: dict[str, int] | None = None  # none: 404, as from a controller without them
    migrate: str | None = None  # likewise
    etags: bool = False
    requests: list[Request] = field(default_factory=list)

    def __enter__(self) -> Self:
        self._faults: dict[str, _Fault] = {}
        self._lock = threading.Lock()
        self.connections: set[socket.socket] = set()
        self._port = ports.bound()
        self.port = self._port.getsockname()[1]
        self.accept()
        return self

    def __exit__(self, *_: object) -> None:
        self.refuse()
        self._port.close()

    @property
    def url(self) -> str:
        return f"{'https' if self.tls else 'http'}://127.0.0.1:{self.port}"

    def count(self, endpoint: str = "any") -> int:
        """Return how often `endpoint` was asked."""
        return sum(endpoint in {"any", request.endpoint} for request in self.requests)

    def fault(
        self,
        endpoint: str,
        kind: str,
        *arguments: Any,
        times: int | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """Answer the next `times` requests (all of them by default) with a fault."""
        assert kind in FAULTS, f"no such fault: {kind}"
        for name in ENDPOINTS if endpoint == "any" else [endpoint]:
            assert name in ENDPOINTS, f"no such endpoint: {name}"
            self._faults[name] = _Fault(kind, arguments, headers or {}, times)

    def heal(self) -> None:
        """Forget all faults."""
        self._faults.clear()

    def refuse(self) -> None:
        """Close the port and what is connected to it; connections are refused from now on."""
        if self._server is None:
            return
        self.ending.set()
        self._server.shutdown()
        with self._lock:
            for connection in self.connections:
                _hang_up(connection)
        self._server.server_close()
        self._thread.join()
        self._server = None

    def accept(self) -> None:
        """Listen (again) on the same port."""
        self.ending = threading.Event()
        self._server: ThreadingHTTPServer | None = _Server(self)
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.01,), name="controller", daemon=True
        )
        self._thread.start()

    def take_fault(self, endpoint: str) -> _Fault | None:
        with self._lock:
            found = self._faults.get(endpoint)
            if found is not None and found.left is not None:
                found.left -= 1
                if found.left == 0:
                    del self._faults[endpoint]
            return found

    def connected(self, connection: socket.socket) -> None:
        with self._lock:
            self.connections.add(connection)
            if self.ending.is_set():  # it came while the others were hung up on
                _hang_up(connection)

    def disconnected(self, connection: socket.socket) -> None:
        with self._lock:
            self.connections.discard(connection)


class _Server(ThreadingHTTPServer):
    daemon_threads = False  # joined at the end, so that no test leaves one behind
    request_queue_size = 128

    def __init__(self, controller: ControllerServer) -> None:
        self.controller = controller
        super().__init__(("127.0.0.1", controller.port), _Handler, bind_and_activate=False)
        self.allow_reuse_address = True
        self.server_bind()
        self.server_activate()

    def handle_error(self, *_: object) -> None:
        """Say nothing: a client that hangs up is what some tests are about."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Server

    def setup(self) -> None:
        self.server.controller.connected(self.request)
        if self.server.controller.tls is not None:
            plain = self.request
            self.request = self.server.controller.tls.wrap_socket(plain, server_side=True)
            self.server.controller.disconnected(plain)
            self.server.controller.connected(self.request)
        super().setup()

    def finish(self) -> None:
        self.server.controller.disconnected(self.request)
        super().finish()
        _hang_up(self.request)
        self.request.close()

    def do_GET(self) -> None:
        controller = self.server.controller
        endpoint = self._endpoint()
        controller.requests.append(
            Request(endpoint, self.path, dict(self.headers), time.monotonic())
        )
        fault = controller.take_fault(endpoint)
        if fault is not None:
            FAULTS[fault.kind](self, fault)
        elif self.headers["Authorization"] != _basic(controller.app, controller.key):
            self.answer(401)
        else:
            self.serve(self.found(endpoint))

    def found(self, endpoint: str) -> Any:
        controller = self.server.controller
        match endpoint:
            case "current":
                return controller.release or None
            case "ssh_keys":
                return controller.ssh_keys
            case "host_index" if controller.host_indexes is not None:
                index = controller.host_indexes.get(unquote(self._parts()[1]))
                return None if index is None else {"index": index}
            case "migrate":
                return controller.migrate
        return None

    def serve(self, found: Any) -> None:
        """Send `found` as a controller does, none as 404, and what the client has as 304."""
        if found is None:
            self.answer(404)
            return
        body = json.dumps({"data": found}).encode()
        if not self.server.controller.etags:
            self.answer(200, body, JSON)
            return
        etag = f'"{hashlib.sha256(body).hexdigest()[:16]}"'
        same = self.headers["If-None-Match"] == etag
        self.answer(304 if same else 200, b"" if same else body, {**JSON, "ETag": etag})

    def answer(
        self, status: int, body: bytes = b"", headers: Mapping[str, str] | None = None
    ) -> None:
        """Send a whole answer with its length."""
        self.head(status, {"Content-Length": str(len(body)), **(headers or {})})
        self.wfile.write(body)

    def head(self, status: int, headers: Mapping[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()

    def hang_up(self) -> None:
        self.close_connection = True

    def log_message(self, *_: object) -> None:
        """Log nothing; the controller's `requests` tell."""

    def _parts(self) -> list[str]:
        prefix = f"/api/apps/{self.server.controller.app}/"
        path = urlsplit(self.path).path
        return path.removeprefix(prefix).split("/") if path.startswith(prefix) else []

    def _endpoint(self) -> str:
        match self._parts():
            case ["releases", "current"]:
                return "current"
            case ["ssh_keys"]:
                return "ssh_keys"
            case ["host_indexes", _, "assign"]:
                return "host_index"
            case ["releases", "migrate-command"]:
                return "migrate"
        return "unknown"


def _status(handler: _Handler, fault: _Fault) -> None:
    handler.answer(fault.arguments[0], b"", fault.headers)


def _hang(handler: _Handler, _: _Fault) -> None:
    handler.server.controller.ending.wait()
    handler.hang_up()


def _reset(handler: _Handler, _: _Fault) -> None:
    # Lingering for 0 s makes the kernel send RST instead of FIN.
    handler.request.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    handler.request.close()
    handler.hang_up()


def _whole(handler: _Handler) -> bytes:
    endpoint = handler._endpoint()
    return json.dumps({"data": handler.found(endpoint), "padding": "x" * 4096}).encode()


def _cut(handler: _Handler, _: _Fault) -> None:
    body = _whole(handler)
    handler.head(200, {"Content-Length": str(len(body)), **JSON})
    handler.wfile.write(body[: len(body) // 2])
    handler.hang_up()


def _cut_chunked(handler: _Handler, _: _Fault) -> None:
    body = _whole(handler)
    handler.head(200, {"Transfer-Encoding": "chunked", **JSON})
    handler.wfile.write(b"%x\r\n%b\r\n" % (100, body[:100]))
    handler.hang_up()


def _cut_unframed(handler: _Handler, _: _Fault) -> None:
    body = _whole(handler)
    handler.head(200, {"Connection": "close", **JSON})
    handler.wfile.write(body[: len(body) // 2])
    handler.hang_up()


def _html(handler: _Handler, _: _Fault) -> None:
    page = b"<!doctype html><title>Sign in</title><p>Welcome to the hotel's network</p>"
    handler.answer(200, page, {"Content-Type": "text/html; charset=utf-8"})


def _huge(handler: _Handler, _: _Fault) -> None:
    handler.answer(200, b'{"data": "%b"}' % (b"x" * 10_000_000), JSON)


def _missing(handler: _Handler, fault: _Fault) -> None:
    found = dict(handler.found(handler._endpoint()))
    for name in fault.arguments:
        found.pop(name, None)
    handler.serve(found)


def _latin1(handler: _Handler, _: _Fault) -> None:
    handler.answer(200, '{"data": {"summary": "Müsli"}}'.encode("latin-1"), JSON)


def _body(handler: _Handler, fault: _Fault) -> None:
    handler.answer(200, fault.arguments[0], {**JSON, **fault.headers})


def _redirect(handler: _Handler, fault: _Fault) -> None:
    handler.answer(302, b"", {"Location": fault.arguments[0]})


def _drip(handler: _Handler, fault: _Fault) -> None:
    body = _whole(handler)
    handler.head(200, {"Content-Length": str(len(body)), **JSON, **fault.headers})
    _dripped(handler, body, fault.arguments[0])


def _drip_headers(handler: _Handler, fault: _Fault) -> None:
    head = b"HTTP/1.1 200 OK\r\n" + b"".join(b"X-%d: drip\r\n" % n for n in range(99))
    _dripped(handler, head, fault.arguments[0])


def _dripped(handler: _Handler, text: bytes, seconds: float) -> None:
    handler.hang_up()
    for byte in text:
        handler.wfile.write(bytes([byte]))
        if handler.server.controller.ending.wait(seconds):
            return


FAULTS: dict[str, Callable[[_Handler, _Fault], None]] = {
    "status": _status,
    "hang": _hang,
    "reset": _reset,
    "cut": _cut,
    "cut_chunked": _cut_chunked,
    "cut_unframed": _cut_unframed,
    "html": _html,
    "huge": _huge,
    "missing": _missing,
    "latin1": _latin1,
    "drip": _drip,
    "drip_headers": _drip_headers,
    "body": _body,
    "redirect": _redirect,
}


def _basic(app: str, key: str) -> str:
    return "Basic " + base64.b64encode(f"{app}:{key}".encode()).decode()


def _hang_up(connection: socket.socket) -> None:
    try:
        connection.shutdown(socket.SHUT_RDWR)
    except OSError:
        return
