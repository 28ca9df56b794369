"""What the agent and its worker say to each other, one JSON object per line.

Owns the form of the request, which the worker reads from its stdin, and of the events that it
writes to its stdout. Must not read or write either.
"""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from run_agent.errors import DeniedError, RunAgentError, SlugError, UnavailableError
from run_agent.model import Slug
from run_agent.slug import record


@dataclass(frozen=True, slots=True)
class Request:
    """A slug to be fetched into the folder `deploys`, and how large it may be at most.

    `sha256` is what was announced, in lower-case hex. `label` is how messages name the deploy.
    """

    url: str = field(repr=False)  # a signed URL is a credential
    deploys: Path
    label: str
    max_members: int
    max_bytes: int
    sha256: str | None = None


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a fetch is: packed bytes read, of how many where the storage says; what came out."""

    bytes: int
    total: int | None
    unpacked: int
    members: int


@dataclass(frozen=True, slots=True)
class Notice:
    """Something that an operator may want to know; the fetch goes on."""

    text: str


Event = Progress | Notice | Slug | RunAgentError
"""The last two end a fetch."""

_KINDS: dict[str, type[RunAgentError]] = {
    "unavailable": UnavailableError,
    "denied": DeniedError,
    "slug": SlugError,
}


def request_line(request: Request, seconds: float) -> bytes:
    """Return the line that asks for `request`, which may take so many seconds."""
    return _line({**asdict(request), "deploys": str(request.deploys), "seconds": seconds})


def parse_request(line: bytes) -> tuple[Request, float]:
    """Return what `request_line` was given."""
    value = json.loads(line)
    seconds = float(value.pop("seconds"))
    return Request(**{**value, "deploys": Path(value["deploys"])}), seconds


def event_line(event: Event) -> bytes:
    """Return the line that tells `event`."""
    match event:
        case Progress():
            return _line({"progress": asdict(event)})
        case Notice():
            return _line({"notice": event.text})
        case Slug():
            return _line({"slug": record.slug_to_json(event)})
    kind = next((name for name, of in _KINDS.items() if isinstance(event, of)), "os")
    return _line({"error": {"kind": kind, "message": str(event), "exit_code": event.exit_code}})


def parse_event(line: bytes, deploys: Path) -> Event:
    """Return what `event_line` was given; raises `ValueError`, `TypeError` or `LookupError`."""
    value: dict[str, Any] = json.loads(line)
    ((name, told),) = value.items()
    match name:
        case "progress":
            return Progress(**told)
        case "notice":
            return Notice(str(told))
        case "slug":
            return record.slug_from_json(told, deploys)
        case "error":
            error = _KINDS.get(told["kind"], RunAgentError)
            return error(str(told["message"]), exit_code=int(told["exit_code"]))
    raise ValueError(f"unknown event {name}")


def _line(value: object) -> bytes:
    return json.dumps(value).encode("ascii") + b"\n"
