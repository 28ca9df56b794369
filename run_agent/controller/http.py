"""The HTTP controller: which path tells what, and what a status means.

Owns the controller's API, the key that signs in to it, and the last answer of each polled path
that came with an `ETag`. Must not open connections (`exchange`), time retries (`patience`) or
judge the content (`parse`).
"""

import math
from collections.abc import Callable, Mapping
from typing import TypeVar
from urllib.parse import quote, urlencode

from run_agent import patience
from run_agent.controller import exchange, parse
from run_agent.controller.exchange import Answer
from run_agent.controller.parse import SshKeys
from run_agent.errors import DeniedError, UnavailableError
from run_agent.model import Deploy, Secret

T = TypeVar("T")

OK = 200
NOT_MODIFIED = 304
NOT_FOUND = 404
TOO_MANY_REQUESTS = 429
SERVER_ERRORS = 500
"""This status and those above it are the controller's own trouble, which may pass."""

WHAT_TO_CHECK = {
    401: "check APP_KEY and the app's name",
    403: "check that APP_KEY is this app's own",
    NOT_FOUND: "check the app's name and CONTROLLER_URL, and that something was deployed",
}
"""The statuses that asking again does not change, and what somebody may put right."""


class HttpController:
    """A `Controller` that is asked over HTTP, with basic auth `APP:APP_KEY`."""

    def __init__(
        self,
        url: str,
        app: str,
        key: Secret,
        *,
        deadlines: exchange.Deadlines | None = None,
        pace: patience.Pace | None = None,
    ) -> None:
        self._base = f"{url.rstrip('/')}/api/apps/{quote(app, safe='')}"
        self._app = app
        self._key = key
        self._deadlines = deadlines or exchange.Deadlines()
        self._pace = pace or patience.Pace()
        # Several threads may poll: each uses the answer it found here before it asked.
        self._last: dict[str, Answer] = {}

    def current_deploy(self, patience: float) -> Deploy:
        """Ask for the current deploy; an answer that did not change is not sent again."""
        source = f"the answer of the controller at {exchange.shown(self._base)}/releases/current"
        deploy, _ = self._poll(
            "/releases/current", lambda found: parse.deploy(found, source), patience
        )
        return deploy

    def ssh_keys(self, patience: float) -> SshKeys:
        """Ask for the keys once; an answer that did not change is not sent again.

        Whoever keeps them asks again in a minute: retries would only be logged each time.
        """
        lines, changed = self._poll("/ssh_keys", parse.ssh_keys, patience, tries=1)
        return SshKeys(lines, changed)

    def host_index(self, hostname: str, patience: float) -> str | None:
        """Have the controller assign an index; none where it answers 404."""
        answer = self._ask(f"/host_indexes/{quote(hostname, safe='')}/assign", patience)
        return None if answer.status == NOT_FOUND else self._read(answer, parse.host_index)

    def migrate_expression(self, app_name: str, patience: float) -> str | None:
        """Ask for the expression that migrates `app_name`; none where it answers 404."""
        query = urlencode({"migration_app_name": app_name})
        answer = self._ask(f"/releases/migrate-command?{query}", patience)
        return None if answer.status == NOT_FOUND else self._read(answer, parse.expression)

    def _poll(
        self, path: str, judge: Callable[[object], T], seconds: float, tries: float = math.inf
    ) -> tuple[T, bool]:
        """Return what is at `path`, and whether it differs from the last answer there."""
        last = self._last.get(path)
        known = {"If-None-Match": last.headers["ETag"]} if last else {}
        answer = self._ask(path, seconds, known, tries)
        if last and answer.status == NOT_MODIFIED:
            return self._read(last, judge), False
        found = self._read(answer, judge)
        if answer.status == OK and "ETag" in answer.headers:
            self._last[path] = answer  # what cannot be used must be sent again
        return found, True

    def _ask(
        self,
        path: str,
        seconds: float,
        headers: Mapping[str, str] | None = None,
        tries: float = math.inf,
    ) -> Answer:
        # The environment gives bytes that are not UTF-8 as surrogates; they go out as they came.
        user, key = (
            text.encode("utf-8", "surrogateescape") for text in (self._app, self._key.reveal())
        )

        def attempt(left: float) -> Answer:
            answer = exchange.get(
                self._base + path,
                auth=(user, key),
                headers=headers or {},
                deadlines=self._deadlines.within(left),
            )
            _raise_if_passing(answer)
            return answer

        return patience.persist(attempt, patience=seconds, tries=tries, pace=self._pace)

    def _read(self, answer: Answer, judge: Callable[[object], T]) -> T:
        """Judge the `data` of an answer; raises `DeniedError` or `UnavailableError`."""
        advice = WHAT_TO_CHECK.get(answer.status)
        if advice is not None:
            raise DeniedError(f"cannot get {answer.url} as app {self._app} ({answer}); {advice}")
        if not 200 <= answer.status < 300:
            raise UnavailableError(
                f"cannot use {_source(answer)}: it is {answer}; check CONTROLLER_URL"
            )
        kind = answer.headers.get("Content-Type", "").partition(";")[0].strip()
        if kind == "text/html":
            raise UnavailableError(
                f"cannot use {_source(answer)}: it is a web page, not JSON; check CONTROLLER_URL "
                "and what stands between (a proxy, a login page)"
            )
        try:
            return judge(parse.data(parse.loads(answer.body)))
        except parse.AnswerError as problem:
            raise parse.unusable(_source(answer), str(problem)) from None


def _raise_if_passing(answer: Answer) -> None:
    if answer.status == TOO_MANY_REQUESTS or answer.status >= SERVER_ERRORS:
        raise patience.PassingError(
            f"cannot get an answer from the controller at {answer.url}",
            str(answer),
            "it is failing or overloaded: look at its own log",
            wait=patience.retry_after(answer.headers),
        )
    if not answer.whole and answer.body:
        try:
            parse.loads(answer.body)
        except parse.AnswerError:
            raise exchange.unreached(answer.url, exchange.CUT) from None


def _source(answer: Answer) -> str:
    return f"the answer of the controller at {answer.url}"
