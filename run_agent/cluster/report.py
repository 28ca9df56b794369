"""What a pod says of its replica. Pure: no I/O, no clock."""

from collections.abc import Mapping
from dataclasses import dataclass

CONDITION = "run-agent.dev/release"
"""The type of the pod condition, for a readiness gate."""


@dataclass(frozen=True, slots=True)
class Condition:
    """Whether the release takes requests; `reason` is one CamelCase word, `message` for people."""

    status: bool
    reason: str
    message: str = ""


@dataclass(frozen=True, slots=True)
class Report:
    """The state of the replica. Names without a prefix get ours; None takes the entry away."""

    labels: Mapping[str, str | None]
    annotations: Mapping[str, str | None]
    condition: Condition


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened, at epoch seconds; `warning` where a person should look."""

    reason: str
    message: str
    at: float
    warning: bool = False
