"""A real HTTP storage on a real socket, which does what it is told, faults included.

    with HttpServer() as server:
        server.put("/slug.tar.gz", content, etag='"1"')
        server.plan("/slug.tar.gz", Answer(cut_after=1000), Answer(status=503))
        url = server.url("/slug.tar.gz?signature=…")

It knows `Range`, `If-Range`, `ETag` and `x-goog-hash`. Planned answers are used up, one by each
request for that path; then it answers as an object store would. `server.requests` is what it was
asked. With `tls`, `server.authority` is the certificate to trust.
"""

import base64
import datetime as dt
import hashlib
import ipaddress
import re
import socket
import ssl
import struct
import threading
from collections import defaultdict, deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self

import google_crc32c

from support import ports

PIECE_BYTES = 1 << 16
TICK_SECONDS = 0.05
"""Between two pieces of an answer that comes slowly."""


@dataclass(frozen=True)
class Answer:
    """How one request is answered; what is not said is as usual.

    `cut_after` bytes of the body the connection is closed, or with `reset` broken; `stall_after`
    bytes nothing more comes. `hang` sends nothing at all. `ranges=False` ignores `Range`,
    `validators=False` leaves out ETag and hashes, `length=False` the length; `chunked` sends
    chunks instead. `content` stands for another version of the object.
    """

    status: int | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    content: bytes | None = None
    etag: str | None = None
    cut_after: int | None = None
    reset: bool = False
    stall_after: int | None = None
    slowly: bool = False
    hang: bool = False
    ranges: bool = True
    range_shift: int = 0
    validators: bool = True
    length: bool = True
    chunked: bool = False


USUAL = Answer()


@dataclass(frozen=True)
class Request:
    """One request as it arrived."""

    path: str
    query: str
    headers: Mapping[str, str]


@dataclass
class _Object:
    content: bytes
    etag: str | None
    headers: Mapping[str, str]
    usual: Answer


class HttpServer:
    """Serves what was put; see the module."""

    def __init__(self, tls: Path | None = None) -> None:
        self.requests: list[Request] = []
        self.closing = threading.Event()
        self._objects: dict[str, _Object] = {}
        self._plans: dict[str, deque[Answer]] = defaultdict(deque)
        self._port = ports.bound()
        self._server = _Server(self._port.getsockname(), _Handler)
        self._server.owner = self
        self._scheme = "http"
        if tls is not None:
            self._scheme = "https"
            self.authority, context = _certificate(tls)
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
        self._port.close()

    def close(self) -> None:
        """Refuse connections from now on."""
        if not self.closing.is_set():
            self.closing.set()
            self._server.shutdown()
            self._server.server_close()
            self._thread.join()

    def url(self, path: str) -> str:
        return f"{self._scheme}://127.0.0.1:{self._server.server_port}{path}"

    def put(
        self,
        path: str,
        content: bytes,
        *,
        etag: str | None = None,
        headers: Mapping[str, str] | None = None,
        usual: Answer = USUAL,
    ) -> None:
        """Have `path` answer with `content`, in the `usual` way unless something is planned."""
        self._objects[path] = _Object(content, etag, headers or {}, usual)

    def plan(self, path: str, *answers: Answer) -> None:
        """Have the next requests for `path` answered so, one after the other."""
        self._plans[path].extend(answers)

    def asked(self, path: str) -> list[Request]:
        """Return the requests for `path`."""
        return [request for request in self.requests if request.path == path]

    def answer_to(self, path: str) -> tuple[_Object | None, Answer]:
        """Return what lies at `path`, and how the request now at hand is to be answered."""
        found = self._objects.get(path)
        if self._plans[path]:
            return found, self._plans[path].popleft()
        return found, found.usual if found else USUAL


def goog_hash(content: bytes) -> str:
    """Return the value of `x-goog-hash` for `content`."""
    crc32c = base64.b64encode(google_crc32c.Checksum(content).digest()).decode()
    md5 = base64.b64encode(hashlib.md5(content).digest()).decode()
    return f"crc32c={crc32c},md5={md5}"


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False  # a handler may hang on purpose
    request_queue_size = 64
    owner: HttpServer

    def handle_error(self, *_: Any) -> None:
        """Say nothing: a client that goes away is no error of ours."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        path, _, query = self.path.partition("?")
        owner = self.server.owner
        owner.requests.append(Request(path, query, dict(self.headers)))
        found, answer = owner.answer_to(path)
        if answer.hang:
            owner.closing.wait()
            self.close_connection = True
        elif answer.status is not None:
            self._send(answer.status, answer.headers, answer.body, answer)
        elif found is None:
            self._send(404, {}, b"no such object", answer)
        else:
            self._send_object(found, answer)

    def _send_object(self, found: _Object, answer: Answer) -> None:
        content = found.content if answer.content is None else answer.content
        etag = answer.etag or found.etag
        headers = {"Accept-Ranges": "bytes", **found.headers}
        if answer.validators and etag:
            headers["ETag"] = etag
        if not answer.validators:
            headers.pop("x-goog-hash", None)
        start = self._wanted_start(etag) if answer.ranges else None
        if start is None:
            self._send(200, {**headers, **answer.headers}, content, answer)
        elif start >= len(content):
            self._send(416, {"Content-Range": f"bytes */{len(content)}"}, b"", answer)
        else:
            start += answer.range_shift
            where = f"bytes {start}-{len(content) - 1}/{len(content)}"
            headers |= {"Content-Range": where, **answer.headers}
            self._send(206, headers, content[start:], answer)

    def _wanted_start(self, etag: str | None) -> int | None:
        wanted = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        if wanted is None or self.headers.get("If-Range", etag) != etag:
            return None
        return int(wanted[1])

    def _send(self, status: int, headers: Mapping[str, str], body: bytes, answer: Answer) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if answer.chunked:
            self.send_header("Transfer-Encoding", "chunked")
        elif answer.length:
            self.send_header("Content-Length", str(len(body)))
        self.send_header("Connection", "close")
        self.end_headers()
        self.close_connection = True
        end = len(body)
        for limit in (answer.cut_after, answer.stall_after):
            end = end if limit is None else min(end, limit)
        self._pour(body[:end], answer)
        if answer.stall_after is not None:
            self.server.owner.closing.wait()
        elif answer.reset:
            linger = struct.pack("ii", 1, 0)
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            self.connection.close()
        elif answer.chunked and end == len(body):
            self.wfile.write(b"0\r\n\r\n")

    def _pour(self, body: bytes, answer: Answer) -> None:
        for start in range(0, len(body), PIECE_BYTES):
            piece = body[start : start + PIECE_BYTES]
            if answer.slowly and self.server.owner.closing.wait(TICK_SECONDS):
                return
            if answer.chunked:
                piece = b"%x\r\n%s\r\n" % (len(piece), piece)
            self.wfile.write(piece)


def _certificate(folder: Path) -> tuple[Path, ssl.SSLContext]:
    """Make a certificate for 127.0.0.1 that is its own authority."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "storage of a test")])
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + dt.timedelta(hours=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), True)
        .sign(key, hashes.SHA256())
    )
    authority, secret = folder / "authority.pem", folder / "key.pem"
    authority.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    secret.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(authority, secret)
    return authority, context
