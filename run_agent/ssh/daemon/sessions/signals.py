"""The names that SSH has for signals (RFC 4254, 6.9 and 6.10)."""

from __future__ import annotations

import signal

DOMAIN = "run-agent"

BY_NAME = {
    name: signal.Signals[f"SIG{name}"]
    for name in ("ABRT", "ALRM", "FPE", "HUP", "ILL", "INT", "KILL", "PIPE", "QUIT", "SEGV",
                 "TERM", "USR1", "USR2")
}  # fmt: skip
"""What a client may send, and what may be told without a domain."""

NAMES = {int(number): name for name, number in BY_NAME.items()}


def name(number: int) -> str:
    """Return the name to tell a client: `TERM`, but `BUS@run-agent`, and `35@run-agent`.

    Other names than the RFC's need an @domain (6.10), and most real-time signals have none.
    """
    if number in NAMES:
        return NAMES[number]
    try:
        local = signal.Signals(number).name.removeprefix("SIG")
    except ValueError:
        local = str(number)
    return f"{local}@{DOMAIN}"
