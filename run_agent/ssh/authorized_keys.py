"""authorized_keys, line by line: who may log in, from where, until when, and to do what.

Ours because what asyncssh accepts and then ignores fails open (CONTRACTS.md, sshd(8)): a line is
understood in full or rejected by name. Pure: no I/O, no clock, and no asyncssh, for the agent
reads the list too. The key itself is `public_key`, `from=` is `origin`, options are `key_options`.
"""

import datetime as dt
import hmac
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from run_agent.ssh import key_options, origin, public_key
from run_agent.ssh.public_key import LineError

__all__ = ["AuthorizedKey", "KeyList", "LineError", "Rejected", "look_like_keys", "parse", "read"]

LINE_LIMIT = 8192
"""Characters in a line, as sshd(8) has it: room for RSA keys of 16384 bits."""

FIELD = re.compile(r'(?:[^ \t"]|"(?:\\"|[^"\\]|\\(?!"))*")*')
"""What stands before the first blank that is not within quotes."""

KEY_FORM = re.compile(r"(?:^|[ \t])[!-~]+[ \t]+(AAAA[0-9A-Za-z+/]+=*)(?:[ \t]|$)")
"""A type and a key: its base64 begins with the length of the type's name, below 256."""

UNKNOWN = "unknown key"


@dataclass(frozen=True, slots=True)
class AuthorizedKey:
    """One line that is understood in full. `allows_…` are what its options leave."""

    kind: str
    blob: bytes
    comment: str = ""
    fingerprint: str = ""
    """`SHA256:…`, as ssh-keygen(1) prints it."""
    command: str | None = None
    expires_at: float | None = None
    """Seconds since the epoch."""
    allows_terminal: bool = True
    allows_forwards: bool = True
    allows_start_up_files: bool = True
    permitted_forwards: tuple[tuple[str, int | None], ...] = ()
    """Where forwards may lead (host, port or None for any); empty: the daemon's own rule alone."""
    from_patterns: tuple[str, ...] = ()
    requires_touch: bool = True
    """Whether a security key (`sk-…`) must have been touched for the login."""

    def refusal(self, address: str, now: float) -> str | None:
        """Return why this key may not be used from `address` at `now` (epoch seconds), if so."""
        if self.expires_at is not None and now >= self.expires_at:
            moment = dt.datetime.fromtimestamp(self.expires_at, dt.UTC)
            return f"expired at {moment:%Y-%m-%dT%H:%M:%SZ}"
        if self.from_patterns and not origin.admits(self.from_patterns, address):
            return "not from this address"
        return None

    def permits_same_as(self, other: "AuthorizedKey") -> bool:
        """Whether both are the same key and let it do the same; comments do not count."""
        return replace(self, comment="") == replace(other, comment="")


@dataclass(frozen=True, slots=True)
class Rejected:
    """A line that lets nobody in; `name` tells a person which, and shows no key."""

    number: int
    name: str
    reason: str

    def __str__(self) -> str:
        return f"line {self.number} ({self.name}): {self.reason}"


@dataclass(frozen=True, slots=True)
class KeyList:
    """The keys of a list in its order, and the lines that are none."""

    keys: tuple[AuthorizedKey, ...] = ()
    rejected: tuple[Rejected, ...] = ()

    def find(self, blob: bytes, address: str, now: float) -> AuthorizedKey | str:
        """Return the first line with this key that lets in, or why none does."""
        # Compared with all and in constant time, so that a client learns nothing from the clock.
        found = [key for key in self.keys if hmac.compare_digest(key.blob, blob)]
        refusals = [key.refusal(address, now) for key in found]
        for key, refusal in zip(found, refusals, strict=True):
            if refusal is None:
                return key
        return refusals[0] or UNKNOWN if refusals else UNKNOWN

    def next_expiry(self, now: float) -> float | None:
        """Return when the next key expires that has not yet: live sessions end then."""
        times = [key.expires_at for key in self.keys if key.expires_at is not None]
        return min((at for at in times if at > now), default=None)


def read(lines: Sequence[str]) -> KeyList:
    """Parse a list; a bad line is rejected by name, the others count. Lines are numbered from 1."""
    keys: list[AuthorizedKey] = []
    rejected: list[Rejected] = []
    for number, line in enumerate(lines, start=1):
        try:
            key = parse(line)
        except LineError as problem:
            rejected.append(Rejected(number, _name(line), str(problem)))
        else:
            keys += [key] if key else []
    return KeyList(tuple(keys), tuple(rejected))


def look_like_keys(lines: Sequence[str]) -> bool:
    """Whether this is a list of keys at all: it is empty, or one line has the form of a key.

    A login page, say, is no list. A line in the form of a key that is rejected is one.
    """
    told = [line for line in lines if not _is_comment(line)]
    return not told or any(KEY_FORM.search(line) for line in told)


def parse(line: str) -> AuthorizedKey | None:
    """Understand one line (sshd(8), AUTHORIZED_KEYS FILE FORMAT); None for a comment or nothing.

    Raises `LineError`: an option that is not enforced here is never passed over.
    """
    if _is_comment(line):
        return None
    if len(line) > LINE_LIMIT:
        raise LineError(f"it is longer than {LINE_LIMIT} characters")
    if any(ord(char) < 0x20 and char != "\t" for char in line):
        raise LineError("it holds a control character")
    options, kind, text, comment = _fields(line.strip(" \t"))
    blob = public_key.parse(kind, text)
    return AuthorizedKey(
        kind=kind,
        blob=blob,
        comment=_shown(comment),
        fingerprint=public_key.fingerprint(blob),
        **key_options.parse(options),
    )


def _is_comment(line: str) -> bool:
    return line.strip()[:1] in {"", "#"}


def _fields(line: str) -> tuple[str, str, str, str]:
    """Part a line into options, type, key and comment; options are empty where there are none."""
    match = FIELD.match(line)
    assert match is not None  # it matches nothing as well
    first, rest = match[0], line[match.end() :]
    if rest[:1] == '"':
        raise LineError("a quote in its options is not closed")
    words = re.split(r"[ \t]+", rest.strip(" \t"), maxsplit=2)
    if first in public_key.KINDS or words[0].startswith("AAAA"):
        words = [first, *re.split(r"[ \t]+", rest.strip(" \t"), maxsplit=1)]
        first = ""
    kind, text, comment = [*words, "", ""][:3]
    if not text or not (kind in public_key.KINDS or text.startswith("AAAA")):
        raise LineError("it is no key: a type, its base64 and a comment are expected")
    return first, kind, text, comment


def _name(line: str) -> str:
    """Name a line by its comment, its fingerprint, or how it begins; never by what may be secret.

    Whatever is in it: a private key may have been put there, or a password in a command.
    """
    # The last one: a quoted command may hold what looks like a key.
    match = max(KEY_FORM.finditer(line), key=re.Match.start, default=None)
    if match is None:
        start = re.match(r"[^\s=\"]*", line.strip())
        word = _shown(start[0]) if start else ""
        return f"{word[:8]}…" if len(word) > 16 else word
    comment = _shown(line[match.end() :].strip())
    try:
        return comment or public_key.fingerprint(public_key.decode(match[1]))
    except LineError:
        return f"…{match[1][-8:]}"


def _shown(text: str) -> str:
    """Make text fit for a log: printable, and not endless."""
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)[
        :128
    ]
