"""One GET to the controller and its answer, within a deadline, through requests.

Owns the connection, TLS, redirects and the limits on time and size, and tells the failures that
may pass (`PassingError`) from those that will not. Must not judge what an answer means: that is
`http`. A session lives for one exchange, so that threads share none and an idle agent keeps no
connection and no TLS context.
"""

import contextlib
import socket
import ssl
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urljoin, urlsplit

import requests
import requests.adapters
import urllib3
from requests.auth import HTTPBasicAuth

from run_agent.errors import UnavailableError
from run_agent.patience import PassingError

CONNECT_SECONDS = 5.0
"""Until a TCP connection stands, and until TLS does."""

READ_SECONDS = 10.0
"""Longest silence while an answer is awaited or read; an app's controller answers in one."""

TOTAL_SECONDS = 30.0
"""Until the whole answer is there, redirects included, however steadily it drips."""

ANSWER_LIMIT_BYTES = 4 << 20
"""Largest answer that is read: a config at the kernel's limits fits, a flood does not."""

REDIRECT_LIMIT = 5
"""More hops than this are a loop."""

CUT = "its answer was cut"

_CHUNK_BYTES = 1 << 16
_CUT_AGAIN_SECONDS = 0.5
"""How soon a connection that was made after the deadline is noticed."""
_ADVICE = "check CONTROLLER_URL and the network"


@dataclass(frozen=True, slots=True)
class Deadlines:
    """How long the parts of one exchange may take, in seconds."""

    connect: float = CONNECT_SECONDS
    read: float = READ_SECONDS
    total: float = TOTAL_SECONDS

    def within(self, seconds: float) -> "Deadlines":
        """Return the same deadlines, none of them later than `seconds`."""
        return Deadlines(*(min(limit, seconds) for limit in (self.connect, self.read, self.total)))


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back; `body` is empty unless the status is 2xx.

    `url` is where it came from in the end, without its query. `whole` is false where only the
    end of the connection marked the end of the body, which may then have been cut.
    """

    url: str
    status: int
    reason: str
    headers: Mapping[str, str]
    body: bytes
    whole: bool

    def __str__(self) -> str:
        return f"{self.status} {self.reason}".strip()


def get(
    url: str, *, auth: tuple[bytes, bytes], headers: Mapping[str, str], deadlines: Deadlines
) -> Answer:
    """Ask once. Trusts certifi's authorities, or REQUESTS_CA_BUNDLE's or SSL_CERT_FILE's instead.

    Raises `PassingError` for a connection that is refused, times out or breaks, and
    `UnavailableError` for what another try would not mend.
    """
    with _Session() as session:
        wire = session.wire
        try:
            with wire.cut_after(deadlines.total):
                answer = _ask(session, url, auth=auth, headers=headers, deadlines=deadlines)
        # What requests raises is an OSError; it lets some errors of urllib3 through as they are.
        except (OSError, urllib3.exceptions.HTTPError) as error:
            if not wire.was_cut:
                raise _failure(url, error, deadlines) from error
        if wire.was_cut:
            raise unreached(url, f"no whole answer within {deadlines.total:.3g} s")
        return answer


def shown(url: str) -> str:
    """Return `url` as messages may have it: without user, password and query."""
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="").geturl()


def unreached(url: str, reason: str) -> PassingError:
    """Build the error for a connection that did not stand, or did not last."""
    return PassingError(f"cannot reach the controller at {shown(url)}", reason, _ADVICE)


def _ask(
    session: "_Session",
    url: str,
    *,
    auth: tuple[bytes, bytes],
    headers: Mapping[str, str],
    deadlines: Deadlines,
) -> Answer:
    limits = (deadlines.connect, deadlines.read)
    with session.get(
        url, auth=HTTPBasicAuth(*auth), headers=headers, timeout=limits, stream=True
    ) as response:
        framing = {"Content-Length", "Transfer-Encoding"}
        return Answer(
            url=shown(response.url),
            status=response.status_code,
            reason=response.reason or "",
            headers=response.headers,
            body=_body(response) if 200 <= response.status_code < 300 else b"",
            whole=any(name in response.headers for name in framing),
        )


def _body(response: requests.Response) -> bytes:
    body = bytearray()
    for chunk in response.iter_content(_CHUNK_BYTES):
        body += chunk
        if len(body) > ANSWER_LIMIT_BYTES:
            raise UnavailableError(
                f"cannot use the answer of the controller at {shown(response.url)}: it is over "
                "4 MiB; check CONTROLLER_URL"
            )
    return bytes(body)


class _Session(requests.Session):
    """A session for one exchange, which never goes from https down to http."""

    def __init__(self) -> None:
        super().__init__()
        self.wire = _Wire()
        self.mount("https://", self.wire)
        self.mount("http://", self.wire)
        self.max_redirects = REDIRECT_LIMIT
        # requests does not know SSL_CERT_FILE; its own REQUESTS_CA_BUNDLE comes before it.
        self.verify = ssl.get_default_verify_paths().cafile or True
        # An answer in plain bytes has the length that its headers say.
        self.headers.update({"Accept": "application/json", "Accept-Encoding": "identity"})

    def get_redirect_target(self, resp: requests.Response) -> str | None:
        target = super().get_redirect_target(resp)
        if target is None or not resp.url.startswith("https:"):
            return target
        if urlsplit(urljoin(resp.url, target)).scheme != "https":
            resp.close()  # nobody else holds it yet
            raise UnavailableError(
                f"cannot follow the controller at {shown(resp.url)} to {shown(target)}: that is "
                "not encrypted; check CONTROLLER_URL"
            )
        return target


class _Wire(requests.adapters.HTTPAdapter):
    """Knows the socket in use, so that a deadline can cut it.

    Each read has its own timeout in requests, so an answer that drips (its headers too) would
    otherwise take for ever.
    """

    def __init__(self) -> None:
        super().__init__()
        self.was_cut = False
        self._socket: socket.socket | None = None

    def get_connection_with_tls_context(
        self,
        *args: Any,  # noqa: ANN401 - passed on
        **kwargs: Any,  # noqa: ANN401
    ) -> urllib3.HTTPConnectionPool:
        pool = super().get_connection_with_tls_context(*args, **kwargs)
        assert isinstance(pool, urllib3.HTTPConnectionPool)
        wire = self

        class Connection(type(pool).ConnectionCls):  # type: ignore[misc]
            def connect(self) -> None:
                super().connect()
                # The connection forgets its socket once it reads an answer that closes it.
                wire._socket = self.sock

        pool.ConnectionCls = Connection
        return pool

    @contextlib.contextmanager
    def cut_after(self, seconds: float) -> Iterator[None]:
        """Cut what is connected after `seconds`, and what connects later, until the block ends."""
        done = threading.Event()

        def watch() -> None:
            left = seconds
            while not done.wait(left):
                self._cut()
                left = _CUT_AGAIN_SECONDS

        watchdog = threading.Thread(target=watch, name="controller-deadline", daemon=True)
        watchdog.start()
        try:
            yield
        finally:
            done.set()
            watchdog.join()

    def _cut(self) -> None:
        if self._socket is not None:
            self.was_cut = True
            with contextlib.suppress(OSError):
                # Not SSLSocket's own: that one is not to be used while another thread reads.
                socket.socket.shutdown(self._socket, socket.SHUT_RDWR)


def _failure(url: str, error: Exception, deadlines: Deadlines) -> Exception:
    root = _root(error)
    if isinstance(root, ssl.SSLError) and not isinstance(root, ssl.SSLEOFError):
        reason = getattr(root, "verify_message", None) or (root.reason or "").replace("_", " ")
        return UnavailableError(
            f"cannot trust the controller at {shown(url)} (TLS: {reason.lower()}); correct it "
            "there, or name the file with its authority in REQUESTS_CA_BUNDLE"
        )
    if isinstance(error, requests.ConnectTimeout):
        return unreached(url, f"no connection within {deadlines.connect:.3g} s")
    if isinstance(root, TimeoutError):
        return unreached(url, f"no answer within {deadlines.read:.3g} s")
    if isinstance(error, requests.exceptions.ChunkedEncodingError):
        return unreached(url, CUT)
    reason = getattr(root, "strerror", None) or str(root) or type(root).__name__
    if isinstance(error, requests.ConnectionError):
        return unreached(url, reason[0].lower() + reason[1:])
    return UnavailableError(f"cannot ask the controller at {shown(url)} ({reason}); {_ADVICE}")


def _root(error: BaseException) -> BaseException:
    """Return what is below the layers of requests and urllib3: the system's own error."""
    while (cause := error.__cause__ or error.__context__) is not None:
        error = cause
    return error
