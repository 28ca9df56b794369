"""One GET to a storage and what its failure means, through requests.

Owns TLS, redirects and deadlines, and tells the failures that may pass (`PassingError`) from
those that will not. Must not read the body.
"""

import http.client
import socket
import ssl
from collections.abc import Callable, Mapping
from typing import TypeVar
from urllib.parse import urljoin, urlsplit

import requests
import urllib3

from run_agent import __version__, patience, storage
from run_agent.errors import DeniedError, UnavailableError
from run_agent.patience import PassingError

T = TypeVar("T")

TRIES = 5
"""In a row without a byte of progress. A refused connection is given up after about 6 s, so that
a replica with a good deploy on its volume boots that soon; a short outage is sat out."""

CONNECT_SECONDS = 5.0
"""Until a TCP connection stands, and until TLS does."""

READ_SECONDS = 30.0
"""Longest silence; object storage may take seconds until the first byte of cold objects."""

REDIRECT_LIMIT = 10
"""More hops than this are a loop."""

PASSING = {408, 425, 429}
"""The statuses below 500 that another try may change."""

WHAT_TO_CHECK = {
    400: "check the slug's URL, and whether its signature has expired",
    401: "check the slug's URL: it is unsigned, or its signature is not accepted",
    403: "check whether the signature of the slug's URL has expired, and what it permits",
}
"""What somebody may put right, by status."""

CUT = "its answer was cut"


class Session(requests.Session):
    """A session that asks for plain bytes and never goes from https down to http."""

    def __init__(self) -> None:
        super().__init__()
        self.max_redirects = REDIRECT_LIMIT
        self.headers.update(
            {"Accept-Encoding": "identity", "User-Agent": f"run-agent/{__version__}"}
        )

    def get_redirect_target(self, resp: requests.Response) -> str | None:
        """Return where `resp` sends us; raises `DeniedError` where that is not encrypted."""
        target = super().get_redirect_target(resp)
        if target is None or not resp.url.startswith("https:"):
            return target
        if urlsplit(urljoin(resp.url, target)).scheme != "https":
            raise DeniedError(
                f"cannot follow {storage.source(resp.url)} to {storage.source(target)}: that is "
                "not encrypted; correct the slug's URL"
            )
        return target


def get(session: Session, url: str, headers: Mapping[str, str]) -> requests.Response:
    """Ask once and return the answer, its body unread."""
    limits = (CONNECT_SECONDS, READ_SECONDS)
    try:
        return session.get(url, headers=headers, timeout=limits, stream=True)
    except (OSError, urllib3.exceptions.HTTPError, ValueError) as error:
        raise failure(storage.source(url), error) from error


def persist(attempt: Callable[[], T]) -> T:
    """Call `attempt` again where its failure may pass; raises `UnavailableError` in the end."""
    return patience.persist(lambda _: attempt(), pace=patience.Pace(), tries=TRIES)


def passing(source: str, reason: str, *, wait: float = 0.0) -> PassingError:
    """Return the failure of one try; `wait` is how long the storage asked us to stay away."""
    return PassingError(
        f"cannot fetch {source}", reason, "check the storage and the network", wait=wait
    )


def raise_for_status(source: str, response: requests.Response) -> None:
    """Raise `PassingError` or `DeniedError` unless the answer is a success; then close it."""
    status = response.status_code
    if 200 <= status < 300:
        return
    response.close()
    shown = f"{status} {response.reason or ''}".strip()
    if status in PASSING or status >= 500:
        raise passing(source, shown, wait=patience.retry_after(response.headers))
    advice = WHAT_TO_CHECK.get(status, "check the slug's URL, and that the slug was uploaded")
    raise DeniedError(f"cannot fetch {source} ({shown}); {advice}")


def failure(source: str, error: Exception) -> Exception:
    """Turn what requests or urllib3 raised into our own error, without the URL they quote."""
    root = _root(error)
    if isinstance(root, ssl.SSLCertVerificationError):
        return UnavailableError(
            f"cannot trust {source} (its TLS certificate: {root.verify_message}); correct it "
            "there, or name the file with its authority in REQUESTS_CA_BUNDLE"
        )
    if isinstance(error, requests.TooManyRedirects):
        return UnavailableError(f"cannot fetch {source}: it redirects in a loop; correct it there")
    if isinstance(error, ValueError):  # all that requests says of a URL it cannot use
        return DeniedError(f"cannot fetch {source}: its URL is malformed; correct it")
    return passing(source, _reason(error, root))


def _reason(error: Exception, root: BaseException) -> str:
    if isinstance(error, requests.ConnectTimeout):
        return f"no connection within {CONNECT_SECONDS:g} s"
    if isinstance(root, TimeoutError):
        return f"no answer within {READ_SECONDS:g} s"
    if isinstance(root, socket.gaierror):
        return "its name cannot be resolved"
    if isinstance(root, http.client.RemoteDisconnected):
        return "it closed the connection without an answer"
    reason = getattr(root, "strerror", None)
    # What is left is an answer that breaks HTTP's rules, mostly by ending too early.
    return reason[0].lower() + reason[1:] if reason else CUT


def _root(error: BaseException) -> BaseException:
    """Return what is below the layers of requests and urllib3: the system's own error."""
    while (cause := error.__cause__ or error.__context__) is not None:
        error = cause
    return error
