"""Who did what over SSH: one structured line when something opens, and one when it closes.

Owns the form of these lines. What a client sent (a command, a path, a name) may hold anything: it
is cut where it is long, and in the message, which people read, escaped, so that it can neither
break a line nor look like another. The fields keep it as it was, for JSON escapes by itself.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from run_agent.ssh.daemon.site import Login

LONGEST_TEXT = 1024
"""Characters kept of what a client sent. A command that a person types is shorter."""

REFUSALS_IN_FULL = 20
"""Refusals written one by one in each period; the others are counted."""

PERIOD_SECONDS = 60.0
"""How often refusals that were only counted are summed up."""

MOST_COUNTED = 200
"""Different refusals told apart in one period: an attacker chooses user names, and has networks."""

MOST_SUMMED_UP = 10
"""Of them, how many a summary names: those that came most often."""

SUBJECTS = ("command", "path", "destination")
"""Fields that say what it is about: the message ends with the first of them that is there."""

log = logging.getLogger("ssh")


class Timer(Protocol):
    """What may be called off."""

    def cancel(self) -> None:
        """Call it off."""
        ...


class Audit:
    """Writes the lines. Under attack refusals are summed up instead of written one by one."""

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        call_later: Callable[[float, Callable[[], None]], Timer] | None = None,
    ) -> None:
        self._clock = clock
        self._call_later = call_later
        self._timer: Timer | None = None
        self._written = 0
        self._counted: Counter[tuple[str, str, str]] = Counter()
        self._uncounted = 0

    def open(self, what: str, login: Login, **fields: object) -> Entry:
        """Write that `what` (login, session, forward, transfer) has opened; return its entry."""
        known = _bounded(_who(login) | fields)
        _write(logging.INFO, what, "opened", known)
        return Entry(what, known, self._clock)

    def note(self, what: str, login: Login, **fields: object) -> None:
        """Write that `what` was done, which neither opens nor closes."""
        _write(logging.INFO, what, "done", _bounded(_who(login) | fields))

    def refuse(self, what: str, source: str, reason: str, **fields: object) -> None:
        """Write that `what` was refused, and why.

        Of many within `PERIOD_SECONDS` the first are written, and all others summed up at its end
        at the latest, whether anything happens then or not.
        """
        if self._timer is None:
            later = self._call_later or asyncio.get_running_loop().call_later
            self._timer = later(PERIOD_SECONDS, self._end_period)
        if self._written < REFUSALS_IN_FULL:
            self._written += 1
            known = _bounded({"source_address": source, "reason": reason} | fields)
            _write(logging.WARNING, what, "refused", known)
        else:
            self._count((what, cut(source), cut(reason)))

    def close(self) -> None:
        """Sum up what has not been written yet."""
        if self._timer is not None:
            self._timer.cancel()
            self._end_period()

    def _count(self, refusal: tuple[str, str, str]) -> None:
        if refusal in self._counted or len(self._counted) < MOST_COUNTED:
            self._counted[refusal] += 1
        else:
            self._uncounted += 1

    def _end_period(self) -> None:
        self._timer = None
        self._written = 0
        if self._counted:
            _write_summary(self._counted, self._uncounted)
        self._counted.clear()
        self._uncounted = 0


class Entry:
    """Something that is open."""

    def __init__(self, what: str, known: Mapping[str, object], clock: Callable[[], float]) -> None:
        self._what = what
        self._known = known
        self._clock = clock
        self._opened_at = clock()
        self._closed = False

    def close(self, **fields: object) -> None:
        """Write that it has closed: how long it was open, and `fields`. The second call is none."""
        if self._closed:
            return
        self._closed = True
        outcome = {"duration_seconds": round(self._clock() - self._opened_at, 3)} | fields
        _write(logging.INFO, self._what, "closed", self._known, _bounded(outcome))


def cut(text: str) -> str:
    """Shorten what is too long for a line, and say so."""
    if len(text) <= LONGEST_TEXT:
        return text
    return f"{text[:LONGEST_TEXT]}... ({len(text)} characters)"


def escape(text: str) -> str:
    r"""Write what is not printable (a line's end, an escape, a change of direction) as `\x1b`."""
    if text.isprintable() and "\\" not in text:
        return text
    return "".join(
        one if one.isprintable() and one != "\\" else one.encode("unicode_escape").decode()
        for one in text
    )


def _who(login: Login) -> dict[str, object]:
    address, port = login.source
    return {
        "user": login.user,
        "key_fingerprint": login.key.fingerprint,
        "key_comment": login.key.comment,
        "source_address": address,
        "source_port": port,
        "connection": login.number,
    }


def _bounded(fields: Mapping[str, object]) -> dict[str, object]:
    """Cut the texts, and leave out what is not known."""
    decoded = {
        name: value.decode(errors="backslashreplace") if isinstance(value, bytes) else value
        for name, value in fields.items()
        if value is not None
    }
    return {
        name: cut(value) if isinstance(value, str) else value for name, value in decoded.items()
    }


def _write(
    level: int,
    what: str,
    happened: str,
    known: Mapping[str, Any],
    outcome: Mapping[str, object] | None = None,
) -> None:
    fields = {**known, **(outcome or {})}
    message = f"{what} {happened}: {_person(known)}"
    subject = next((str(known[name]) for name in SUBJECTS if known.get(name)), "")
    reason = str(known.get("reason", ""))
    for part in (subject, reason):
        message += f": {part}" if part else ""
    if outcome:
        message += f" ({_phrases(outcome)})"
    log.log(level, "%s", escape(message), extra={"event": f"{what} {happened}", **fields})


def _person(known: Mapping[str, Any]) -> str:
    """Say who it is: the key, which tells people apart where all log in as root; and from where."""
    names = [known.get("key_comment"), known.get("key_fingerprint")]
    who = " ".join(str(name) for name in names if name) or str(known.get("user", ""))
    address, port = known.get("source_address", ""), known.get("source_port")
    host = f"[{address}]" if ":" in str(address) and port else address
    place = f"{host}:{port}" if port else f"{host}"
    return f"{who} from {place}" if who else f"from {place}"


def _phrases(outcome: Mapping[str, object]) -> str:
    return ", ".join(
        f"{value} s" if name == "duration_seconds" else f"{name.replace('_', ' ')} {value}"
        for name, value in outcome.items()
        if value != ""
    )


def _write_summary(counted: Counter[tuple[str, str, str]], uncounted: int) -> None:
    total = counted.total() + uncounted
    most = counted.most_common(MOST_SUMMED_UP)
    parts = [
        f"{what} from {source}: {reason}: {_times(count)}" for (what, source, reason), count in most
    ]
    rest = total - sum(count for _, count in most)
    if rest:
        parts.append(f"others: {_times(rest)}")
    log.warning(
        "%s",
        escape(f"refused {total} more in {PERIOD_SECONDS:g} s: " + "; ".join(parts)),
        extra={
            "event": "refusals summed up",
            "refused": total,
            "sources": len({source for _, source, _ in counted}),
            "most": [
                {"what": what, "source_address": source, "reason": reason, "times": times}
                for (what, source, reason), times in most
            ],
        },
    )


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"
