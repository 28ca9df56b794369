"""Reports and Events as objects of the Kubernetes API, within what it accepts. Pure: no I/O.

A value that the API would reject is made one that it accepts: a version with a `+` must not keep
the whole report from being told. Annotations hold it as it is.
"""

import hashlib
import re
import time
from collections.abc import Mapping
from typing import Any

from run_agent.cluster.account import Account
from run_agent.cluster.report import CONDITION, Event, Report

PREFIX = "run-agent.dev/"
SOURCE = "run-agent"

LABEL_CHARACTERS = 63
"""Most that the value of a label may have (Kubernetes documentation, "Labels and Selectors")."""

ANNOTATION_BYTES = 4096
"""Most of an annotation's value: all of a pod's may have 256 KiB, and they are not ours alone."""

MESSAGE_BYTES = 1024
"""Most of a message: the limit of an Event's note (API reference, `events.k8s.io/v1`)."""

REASON_CHARACTERS = 128
"""Most of an Event's reason (same place)."""

NAME_CHARACTERS = 200
"""What of the pod's name begins the name of an Event, which may have 253."""


def patch(report: Report, changed_at: float) -> dict[str, Any]:
    """Return the strategic merge patch that has the pod say `report`.

    `changed_at` is when the condition became what it is, in epoch seconds.
    """
    condition = report.condition
    return {
        "metadata": {
            "labels": {_key(name): _label(value) for name, value in report.labels.items()},
            "annotations": {
                _key(name): value and _cut(value, ANNOTATION_BYTES)
                for name, value in report.annotations.items()
            },
        },
        "status": {
            "conditions": [
                {
                    "type": CONDITION,
                    "status": str(condition.status),
                    "reason": _reason(condition.reason),
                    "message": _cut(condition.message, MESSAGE_BYTES),
                    "lastTransitionTime": _time(changed_at),
                }
            ]
        },
    }


def event(account: Account, happened: Event) -> dict[str, Any]:
    """Return an Event on our pod; the same one gets the same name, so that it exists only once."""
    at = _time(happened.at)
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": event_name(account, happened), "namespace": account.namespace},
        "involvedObject": {
            "apiVersion": "v1",
            "kind": "Pod",
            "namespace": account.namespace,
            "name": account.pod,
        },
        "type": "Warning" if happened.warning else "Normal",
        "reason": _reason(happened.reason),
        "message": _cut(happened.message, MESSAGE_BYTES),
        "source": {"component": SOURCE},
        "reportingComponent": SOURCE,
        "reportingInstance": _cut(account.pod, REASON_CHARACTERS),
        "firstTimestamp": at,
        "lastTimestamp": at,
        "count": 1,
    }


def event_name(account: Account, happened: Event) -> str:
    """Return the name of an Event: the pod's, as the kubelet's have it, and what it says."""
    said = f"{account.label} {happened.reason} {happened.at} {happened.message}"
    digest = hashlib.sha256(said.encode(errors="replace")).hexdigest()[:16]
    return f"{account.pod[:NAME_CHARACTERS].rstrip('-.')}.{digest}"


def lost(patched: Mapping[str, Any], pod: Mapping[str, Any]) -> list[str]:
    """Return what of a patch the pod, as the API answers it, does not have."""
    missing = []
    for kind in ("labels", "annotations"):
        wanted = patched.get("metadata", {}).get(kind, {})
        missing += [name for name in wanted if at(pod, "metadata", kind, name) != wanted[name]]
    found = at(pod, "status", "conditions")
    types = [at(each, "type") for each in found] if isinstance(found, list) else []
    wanted = patched.get("status", {}).get("conditions", ())
    return missing + [each["type"] for each in wanted if each["type"] not in types]


def at(obj: object, *path: str) -> object:
    """Return what an answer has there; None, too, where it is not of the form that it should be."""
    for name in path:
        obj = obj.get(name) if isinstance(obj, Mapping) else None
    return obj


def _key(name: str) -> str:
    return name if "/" in name else PREFIX + name


def _label(value: str | None) -> str | None:
    """Return `value` as a label may have it; it begins and ends with a letter or digit."""
    if value is None:
        return None
    allowed = re.sub(r"[^A-Za-z0-9_.-]+", "-", value).lstrip("-_.")
    return allowed[:LABEL_CHARACTERS].rstrip("-_.")


def _reason(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9]+", "", text)[:REASON_CHARACTERS] or "Unknown"


def _cut(text: str, size: int) -> str:
    """Return the beginning of `text` that has `size` bytes at most, as whole characters."""
    encoded = text.encode(errors="replace")
    if len(encoded) <= size:
        return encoded.decode()
    return encoded[: size - len("…".encode())].decode(errors="ignore") + "…"


def _time(at: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(at))
