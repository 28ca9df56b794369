"""Who the node is: its name, its cookie and the key base, given, derived or generated.

All replicas of an app must agree on the secrets, so they are derived from the app's key where
they are not given. Owns the two files on the volume that hold generated ones.
"""

import hmac
import os
import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from run_agent import files
from run_agent.errors import RunAgentError
from run_agent.model import Secret
from run_agent.settings import Settings


@dataclass(frozen=True, slots=True)
class Purpose:
    """One secret: the setting that gives it, and how it comes about where that is not set."""

    setting: str
    label: bytes
    """HKDF's `info`: one per purpose, so that one secret tells nothing about the other.

    Changing it changes the secret of every app that has it derived.
    """
    size: int
    """In bytes; as text it has twice as many characters, all of them hexadecimal digits."""
    file: str
    """Its name on the volume, where it had to be generated."""


COOKIE = Purpose("ERLANG_COOKIE", b"run-agent cookie", 32, "cookie")
KEY_BASE = Purpose("SECRET_KEY_BASE", b"run-agent secret key base", 48, "secret_key_base")
"""96 characters; Phoenix wants 64 at least."""

LOOPBACK = "127.0.0.1"
OUTSIDE = ((socket.AF_INET, "192.0.2.1"), (socket.AF_INET6, "2001:db8::1"))
"""Addresses reserved for documentation (RFC 5737, RFC 3849): they are routed, and nobody's."""


@dataclass(frozen=True, slots=True)
class Identity:
    """The node's name and secrets. `generated` names the settings that were made up and kept.

    `basename` is what the node is called before the @ where that is not the app.
    """

    app: str
    address: str
    cookie: Secret
    key_base: Secret
    generated: tuple[str, ...] = ()
    basename: str | None = None

    @property
    def node(self) -> str:
        """The node's name, as the release and its tools know it."""
        return f"{self.basename or self.app}@{self.address}"


def establish(
    app: str,
    settings: Settings,
    *,
    basename: str | None = None,
    random: Callable[[int], bytes] = os.urandom,
) -> Identity:
    """Name the node of `app`: what the settings give, then what follows from the app's key.

    Without a key the secrets are random and kept on the volume, and named in `generated`, which
    is to be said: another replica would have others. Raises `RunAgentError` (78) where the volume
    cannot keep a secret.
    """
    secrets: dict[Purpose, Secret] = {}
    generated = []
    for purpose, given in (COOKIE, settings.erlang_cookie), (KEY_BASE, settings.secret_key_base):
        secret = given or _derived(purpose, settings.app_key)
        if secret is None:
            secret = _kept(purpose, settings.layout.volume, random)
            generated.append(purpose.setting)
        secrets[purpose] = secret
    return Identity(
        app=app,
        address=settings.pod_ip or own_address(),
        cookie=secrets[COOKIE],
        key_base=secrets[KEY_BASE],
        generated=tuple(generated),
        basename=basename,
    )


def own_address() -> str:
    """Return the address of the default route's interface; without a route 127.0.0.1.

    Connecting a datagram socket picks the route and sends nothing.
    """
    for family, outside in OUTSIDE:
        try:
            with socket.socket(family, socket.SOCK_DGRAM) as probe:
                probe.connect((outside, 9))
                return str(probe.getsockname()[0])
        except OSError:  # no such family, no such route
            continue
    return LOOPBACK


def hkdf(key: bytes, info: bytes, length: int, *, salt: bytes = b"") -> bytes:
    """Derive `length` bytes from `key` with SHA-256, for the purpose `info` (RFC 5869)."""
    pseudorandom_key = hmac.digest(salt or bytes(32), key, "sha256")
    output, block, count = b"", b"", 0
    while len(output) < length:
        count += 1
        block = hmac.digest(pseudorandom_key, block + info + bytes([count]), "sha256")
        output += block
    return output[:length]


def _derived(purpose: Purpose, app_key: Secret | None) -> Secret | None:
    if app_key is None:
        return None
    return Secret(hkdf(app_key.reveal().encode(), purpose.label, purpose.size).hex())


def _kept(purpose: Purpose, volume: Path, random: Callable[[int], bytes]) -> Secret:
    path = volume / purpose.file
    try:
        volume.mkdir(parents=True, exist_ok=True)
        return Secret(files.write_once(path, random(purpose.size).hex().encode()).decode())
    except (OSError, UnicodeDecodeError) as error:
        raise RunAgentError(
            f"cannot keep a generated {purpose.setting} in {path} ({error}): set it (or APP_KEY, "
            "from which it is derived), or mount a writable volume there",
            exit_code=os.EX_CONFIG,
        ) from error
