"""What the teller and its worker say to each other: one request, one answer, each in JSON.

Both come from us: what does not have this form is a bug. No secret is in it: the worker reads the
token itself.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from run_agent.cluster.account import Account

REPORT = "report"
"""What a result is about, besides the Events, which go by their names."""

PASSING = frozenset({401, 408, 409, 429})
"""What the API may answer otherwise in a moment: 401 because tokens rotate."""


@dataclass(frozen=True, slots=True)
class Request:
    """Patch the pod (an empty patch changes nothing), create these Events, within `seconds`.

    What is urgent is told before the app's own work, all else after it.
    """

    account: Account
    patch: Mapping[str, Any]
    events: tuple[Mapping[str, Any], ...]
    seconds: float
    is_urgent: bool = False


@dataclass(frozen=True, slots=True)
class Result:
    """What became of the report, or of an Event; what was not tried has no result.

    `status` is HTTP's, 0 where there was no answer. `reason` says what is wrong, which something
    may be that is done. `retry_after` is how many seconds the API wants to be left alone.
    """

    what: str
    done: bool
    status: int
    reason: str = ""
    retry_after: float = 0.0

    @property
    def is_denial(self) -> bool:
        """Whether waiting alone will not mend it."""
        return 400 <= self.status < 500 and self.status not in PASSING

    @property
    def is_hopeless(self) -> bool:
        """Whether the API will answer the same to the same for ever."""
        return self.status in {400, 413, 422}


def request_text(request: Request) -> bytes:
    """Return what the worker reads."""
    return json.dumps(asdict(request), default=str).encode()


def parse_request(text: bytes) -> Request:
    """Return what the teller asks for."""
    said = json.loads(text)
    account = said["account"]
    account["folder"] = Path(account["folder"])
    return Request(**{**said, "account": Account(**account), "events": tuple(said["events"])})


def results_text(results: list[Result]) -> bytes:
    """Return what the teller reads."""
    return json.dumps([asdict(result) for result in results]).encode()


def parse_results(text: bytes) -> tuple[Result, ...]:
    """Return what the worker answers."""
    return tuple(Result(**result) for result in json.loads(text))
