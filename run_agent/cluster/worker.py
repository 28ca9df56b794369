"""The process that tells the pod: `python -m run_agent.cluster.worker`, spawned by `teller`.

Reads one request from stdin, asks the API, writes one answer to stdout (`messages`) and ends, so
that the memory of the Kubernetes library goes back. It reads token and authority itself, each time
anew, and nobody else's configuration: no kubeconfig, no proxy (the API's address is a cluster's
own). Retrying is the teller's.
"""

import contextlib
import json
import os
import signal
import ssl
import sys
import time
import traceback
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import quote

from urllib3.exceptions import HTTPError

from run_agent import __version__, oom
from run_agent.cluster import messages, objects
from run_agent.cluster.account import Account
from run_agent.cluster.messages import REPORT, Request, Result

NICENESS = 10
"""The app comes first, where nothing is urgent."""

CONNECT_SECONDS = 5.0
"""How long a connection may take, TLS included: the API is a hop or two away."""

READ_SECONDS = 8.0
"""How long the API may be silent: its own webhooks may take most of that."""

REQUEST_SECONDS = 10.0
"""How long a request may take as a whole, however slowly its answer drips."""

ANSWER_BYTES = 4 << 20
"""Most of an answer that is read: a pod has less than the 1.5 MiB that etcd takes."""

REASON_CHARACTERS = 240
"""What is kept of a reason."""

LONGEST_RETRY_AFTER_SECONDS = 600.0
"""Most that a `Retry-After` is given."""

STRATEGIC = "application/strategic-merge-patch+json"


class _LateError(BaseException):
    """The time is up; not an Exception, which some library might take for its own."""


class _NoAnswerError(Exception):
    """The API could not be asked, or did not answer; says why."""


@dataclass(frozen=True, slots=True)
class _Answer:
    status: int
    retry_after: float
    body: Mapping[str, Any]

    @property
    def is_good(self) -> bool:
        return 200 <= self.status < 300 and "metadata" in self.body

    @property
    def is_of_the_api(self) -> bool:
        """Whether there is no use in asking for anything else now."""
        return self.status in {401, 429} or self.status >= 500

    @property
    def reason(self) -> str:
        if 200 <= self.status < 300:
            return "what came is no object of Kubernetes"
        return _cut(str(self.body.get("message") or "without a word"))


def main() -> int:
    """Tell what is asked for; return the exit code."""
    oom.volunteer()
    signal.signal(signal.SIGALRM, _be_late)
    request = messages.parse_request(sys.stdin.buffer.read())
    if not request.is_urgent:
        os.nice(NICENESS)
    results = list(_tell(request))
    sys.stdout.buffer.write(messages.results_text(results))
    sys.stdout.buffer.flush()
    return os.EX_OK


def _tell(request: Request) -> Iterator[Result]:
    """Patch the pod, then create the Events; each may be forbidden without the other."""
    account, what = request.account, REPORT
    pods = f"/api/v1/namespaces/{quote(account.namespace, safe='')}"
    try:
        api = _Api(account, request.seconds)
        pod = api.ask(
            "PATCH", f"{pods}/pods/{quote(account.pod, safe='')}/status", request.patch, STRATEGIC
        )
        yield _patched(pod, request.patch)
        if pod.is_of_the_api:
            return
        uid = objects.at(pod.body, "metadata", "uid") or account.uid
        for event in request.events:
            what = event["metadata"]["name"]
            involved = event["involvedObject"] | ({"uid": uid} if uid else {})
            answer = api.ask(
                "POST", f"{pods}/events", {**event, "involvedObject": involved}, "application/json"
            )
            created = _created(what, answer)
            yield created
            if not (created.done or created.is_hopeless):
                return  # the others would fare no better
    except _NoAnswerError as error:
        yield Result(what, done=False, status=0, reason=str(error))


def _patched(answer: _Answer, patch: Mapping[str, Any]) -> Result:
    if not answer.is_good:
        return _refused(REPORT, answer)
    lost = objects.lost(patch, answer.body)
    reason = f"the API has dropped {', '.join(lost)}" if lost else ""
    return Result(REPORT, done=True, status=answer.status, reason=_cut(reason))


def _created(name: str, answer: _Answer) -> Result:
    # An Event of this name says the same: it was created by a try whose answer got lost.
    exists = answer.status == 409 and answer.body.get("reason") == "AlreadyExists"
    if answer.is_good or exists:
        return Result(name, done=True, status=answer.status)
    return _refused(name, answer)


def _refused(what: str, answer: _Answer) -> Result:
    return Result(what, False, answer.status, answer.reason, answer.retry_after)


class _Api:
    """The API, with what proves who we are, as it is mounted now."""

    def __init__(self, account: Account, seconds: float) -> None:
        from kubernetes.client import ApiClient, Configuration

        self._account = account
        self._token = _token(account.folder / "token")
        configuration = Configuration(
            host=account.url, proxy="", no_proxy="*", retries=False, debug=False
        )
        self._client = ApiClient(configuration)
        pool = self._client.rest_client.pool_manager.connection_pool_kw
        pool["ssl_context"] = _trusting(account.folder / "ca.crt")
        self._deadline = time.monotonic() + seconds

    def ask(self, method: str, path: str, body: Mapping[str, Any], kind: str) -> _Answer:
        """Return the answer, whatever its status; raises `_NoAnswerError` where there is none."""
        from kubernetes.client import ApiException

        headers = {
            "Accept": "application/json",
            "Authorization": f"Bearer {self._token}",
            "Content-Type": kind,
            "User-Agent": f"run-agent/{__version__}",
        }
        seconds = max(0.0, min(REQUEST_SECONDS, self._deadline - time.monotonic()))
        try:
            with _within(seconds):
                answer = self._client.call_api(
                    method, self._account.url + path, headers, body,
                    _request_timeout=(CONNECT_SECONDS, READ_SECONDS),
                )  # fmt: skip
                text = answer.response.read(ANSWER_BYTES)
        except _LateError:
            raise _NoAnswerError(f"no whole answer within {seconds:.3g} s") from None
        except (ApiException, HTTPError, OSError) as error:
            raise _NoAnswerError(_cut(_cause(error))) from None
        return _Answer(answer.status, _retry_after(answer.headers), _object(text))


def _token(path: Path) -> str:
    token = _read(path).decode("latin-1").strip()
    # Checked here: an HTTP library would show what it cannot send.
    if not token or not token.isascii() or not token.isprintable() or " " in token:
        raise _NoAnswerError(f"{path} holds no token")
    return token


def _trusting(path: Path) -> ssl.SSLContext:
    """Return what trusts the authorities in `path`, and only these.

    A context of our own, since the library's is strict from Python 3.13 on, and old clusters have
    authorities without the extensions that it then wants (kubernetes-client/python, issue 2394).
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    try:
        context.load_verify_locations(cadata=_read(path).decode("ascii", "ignore"))
    except (ssl.SSLError, ValueError):
        raise _NoAnswerError(f"{path} holds no certificate") from None
    return context


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise _NoAnswerError(f"cannot read {path}: {error.strerror}") from None


def _object(text: bytes) -> Mapping[str, Any]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _retry_after(headers: Mapping[str, str]) -> float:
    value = headers.get("Retry-After", "").strip()
    seconds = float(value) if value.isascii() and value.isdecimal() else 0.0
    return min(seconds, LONGEST_RETRY_AFTER_SECONDS)


def _cause(error: BaseException) -> str:
    """Return what an error goes back to, without the layers of the libraries above it."""
    while (within := error.__cause__ or error.__context__) is not None:
        error = within
    verification = getattr(error, "verify_message", None)
    if verification:
        return f"the API's certificate is not accepted: {verification}"
    strerror = getattr(error, "strerror", None)
    return strerror.lower() if isinstance(strerror, str) else str(error) or type(error).__name__


def _cut(text: str) -> str:
    return text if len(text) <= REASON_CHARACTERS else text[: REASON_CHARACTERS - 1] + "…"


@contextlib.contextmanager
def _within(seconds: float) -> Iterator[None]:
    signal.setitimer(signal.ITIMER_REAL, max(seconds, 0.001))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def _be_late(_number: int, _frame: object) -> NoReturn:
    raise _LateError


if __name__ == "__main__":
    try:
        code = main()
    except Exception:  # noqa: BLE001 - the root of a process
        traceback.print_exc()
        code = os.EX_SOFTWARE
    # Not sys.exit: what the libraries would clean up is memory.
    os._exit(code)
