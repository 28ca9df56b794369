"""The options before a key in authorized_keys: what each takes from a login (sshd(8)).

Owns their syntax and which are known. An option that nothing here enforces is refused, not passed
over. Later options win over earlier ones, as in sshd: `restrict,pty` leaves a terminal.
"""

import datetime as dt
import re
from collections.abc import Callable, Iterator
from typing import TypedDict

from run_agent.ssh import origin
from run_agent.ssh.public_key import LineError

OPTION = re.compile(r'([A-Za-z0-9@._-]+)(="(?:\\"|[^"\\]|\\(?!"))*")?(?=,|$)')
"""A name and perhaps a value in quotes; only a quote is escaped within."""

TIME = re.compile(r"(\d{4})(\d\d)(\d\d)(?:(\d\d)(\d\d)(\d\d)?)?(Z|UTC)?", re.ASCII | re.IGNORECASE)

DESTINATION = re.compile(r"(\[[^\[\]\s]+\]|[^\[\]:\s]+):(\*|[0-9]{1,5})")


class Effects(TypedDict, total=False):
    """What options change in an `AuthorizedKey`, by its fields."""

    command: str
    expires_at: float
    allows_terminal: bool
    allows_forwards: bool
    allows_start_up_files: bool
    permitted_forwards: tuple[tuple[str, int | None], ...]
    from_patterns: tuple[str, ...]
    requires_touch: bool


FLAGS: dict[str, Effects] = {
    "restrict": {
        "allows_terminal": False,
        "allows_forwards": False,
        "allows_start_up_files": False,
    },
    "pty": {"allows_terminal": True},
    "no-pty": {"allows_terminal": False},
    "port-forwarding": {"allows_forwards": True},
    "no-port-forwarding": {"allows_forwards": False},
    "user-rc": {"allows_start_up_files": True},
    "no-user-rc": {"allows_start_up_files": False},
    "no-touch-required": {"requires_touch": False},
    # Refused to everybody, so there is nothing to take away and nothing to give back.
    "agent-forwarding": {},
    "no-agent-forwarding": {},
    "x11-forwarding": {},
    "no-x11-forwarding": {},
}

UNENFORCED = {
    "cert-authority": "certificates are not supported",
    "principals": "certificates are not supported",
    "environment": "sessions have the release's environment",
    "tunnel": "tunnels are not supported",
    "verify-required": "whether a PIN was asked for cannot be checked here",
}
"""Options of sshd's that we know and cannot keep, and why."""


def parse(text: str) -> Effects:
    """Return what `text`, the options of one line, changes; raises `LineError`."""
    effects = Effects()
    for name, value in _each(text):
        if name in UNENFORCED:
            raise LineError(f"option {name} is not supported: {UNENFORCED[name]}")
        if name not in FLAGS and name not in VALUES:
            raise LineError(f"unknown option {name[:40]!r}")
        if (value is None) != (name in FLAGS):
            wants = "no value" if name in FLAGS else 'a value: ="…"'
            raise LineError(f"option {name} takes {wants}")
        try:
            effects |= FLAGS[name] if value is None else VALUES[name](value, effects)
        except ValueError as problem:
            raise LineError(f"option {name} {problem}") from None
    return effects


def _each(text: str) -> Iterator[tuple[str, str | None]]:
    """Yield name (in small letters) and value of each option."""
    start = 0
    while text:
        match = OPTION.match(text, start)
        if match is None:
            name = re.split(r"[^A-Za-z0-9@._-]", text[start:], maxsplit=1)[0]
            raise LineError(f'option {name[:40]!r} cannot be read: want NAME or NAME="VALUE"')
        name, value = match.groups()
        yield name.lower(), value[2:-1].replace('\\"', '"') if value else None
        if match.end() == len(text):
            return
        start = match.end() + 1


def _command(value: str, so_far: Effects) -> Effects:
    if "command" in so_far:
        raise ValueError("is there twice")
    if not value.strip():
        raise ValueError("is empty")
    return {"command": value}


def _from(value: str, so_far: Effects) -> Effects:
    if "from_patterns" in so_far:
        raise ValueError("is there twice")
    return {"from_patterns": origin.patterns(value)}


def _expiry_time(value: str, so_far: Effects) -> Effects:
    """Of several the earliest counts. Without a Z it is the container's time zone (sshd(8))."""
    try:
        at = _moment(value)
    except (ValueError, OverflowError, OSError):
        raise ValueError(
            "is no time: YYYYMMDD, YYYYMMDDHHMM or YYYYMMDDHHMMSS, Z for UTC"
        ) from None
    return {"expires_at": min(at, so_far.get("expires_at", at))}


def _moment(value: str) -> float:
    match = TIME.fullmatch(value)
    if match is None:
        raise ValueError(value)
    year, month, day, hour, minute, second = (int(part or 0) for part in match.groups()[:6])
    zone = dt.UTC if match[7] else None
    return dt.datetime(year, month, day, hour, minute, second, tzinfo=zone).timestamp()


def _permitopen(value: str, so_far: Effects) -> Effects:
    host, port = _destination(value)
    return {"permitted_forwards": (*so_far.get("permitted_forwards", ()), (host, port))}


def _permitlisten(value: str, _: Effects) -> Effects:
    """Nobody may listen (-R is refused), so it need only be sound."""
    _destination(value if ":" in value else f"*:{value}")
    return {}


def _destination(value: str) -> tuple[str, int | None]:
    match = DESTINATION.fullmatch(value)
    if match is None or not (match[2] == "*" or 1 <= int(match[2]) <= 65535):
        raise ValueError("is no host:port; the port may be *, an IPv6 address wants [ ]")
    return match[1].strip("[]").lower(), None if match[2] == "*" else int(match[2])


VALUES: dict[str, Callable[[str, Effects], Effects]] = {
    "command": _command,
    "from": _from,
    "expiry-time": _expiry_time,
    "permitopen": _permitopen,
    "permitlisten": _permitlisten,
}
