"""The key in a line of authorized_keys: which types are let in, and whether it is whole.

Owns the base64 and the SSH encoding (RFC 4253, 6.6). Pure; whether a point lies on its curve is
left to the library that checks signatures: such a key opens nothing.
"""

import base64
import binascii
import hashlib

CURVES = {"nistp256": 65, "nistp384": 97, "nistp521": 133}
"""Bytes of an uncompressed point on each (SEC 1, 2.3.3)."""

KINDS = frozenset(
    {
        "ssh-ed25519",
        "ssh-rsa",
        *(f"ecdsa-sha2-{curve}" for curve in CURVES),
        "sk-ssh-ed25519@openssh.com",
        "sk-ecdsa-sha2-nistp256@openssh.com",
    }
)

RSA_BITS = range(2048, 16384 + 1)
"""Below is too weak (NIST SP 800-131A); above OpenSSL does not check signatures."""

ED25519_BYTES = 32


class LineError(ValueError):
    """What is wrong with a line, in words that go behind its name."""


def parse(kind: str, text: str) -> bytes:
    """Decode the base64 of a key of type `kind` and return its blob, the bytes a client offers.

    Raises `LineError` for a type that is not let in, a weak key, and one that is not whole.
    """
    if kind not in KINDS:
        raise LineError(_unwanted(kind))
    blob = decode(text)
    inner, *parts = _strings(blob)
    if inner != kind.encode():
        raise LineError(f"its key is not of the type {kind} that it names")
    if not (_rsa_is_sound(parts) if kind == "ssh-rsa" else _point_is_sound(kind, parts)):
        raise LineError(f"its key is no {kind} key: parts are missing, or of the wrong size")
    return blob


def fingerprint(blob: bytes) -> str:
    """Return `SHA256:…`, as ssh-keygen(1) prints it."""
    digest = base64.b64encode(hashlib.sha256(blob).digest()).decode()
    return f"SHA256:{digest.rstrip('=')}"


def decode(text: str) -> bytes:
    """Decode base64, as strictly as RFC 4648, 3.5 allows; raises `LineError`."""
    try:
        blob = binascii.a2b_base64(text, strict_mode=True)
    except (binascii.Error, ValueError):  # ValueError: not ASCII
        blob = b""
    # Encoded again, for stray bits in the last letter are let through.
    if not blob or base64.b64encode(blob).decode() != text:
        raise LineError("its key is not base64, or was cut")
    return blob


def _unwanted(kind: str) -> str:
    if kind == "ssh-dss":
        return "DSA keys are too weak; use ed25519"
    if "-cert-" in kind:
        return "certificates are not supported; use the key itself"
    shown = "".join(char for char in kind[:40] if char.isprintable())
    return f"unknown key type {shown!r}; use ed25519"


def _strings(blob: bytes) -> list[bytes]:
    """Split into strings with a length of 4 bytes before each (RFC 4251, 5); one at least."""
    strings = []
    while blob:
        end = 4 + int.from_bytes(blob[:4])
        if len(blob) < max(end, 4):
            raise LineError("its key was cut: it is shorter than it says")
        strings.append(blob[4:end])
        blob = blob[end:]
    return strings


def _point_is_sound(kind: str, parts: list[bytes]) -> bool:
    if kind.startswith("sk-"):
        *parts, application = parts or [b"\xff"]
        if not _is_text(application):
            return False
    match parts:
        case [point]:
            return "ed25519" in kind and len(point) == ED25519_BYTES
        case [curve, point]:
            size = CURVES.get(curve.decode("latin-1"))
            named = f"ecdsa-sha2-{curve.decode('latin-1')}" in kind
            return named and len(point) == size and point[0] == 4
    return False


def _is_text(value: bytes) -> bool:
    try:
        value.decode()
    except UnicodeDecodeError:
        return False
    return True


def _rsa_is_sound(parts: list[bytes]) -> bool:
    if len(parts) != 2 or not all(map(_is_positive, parts)):
        return False
    exponent, modulus = map(int.from_bytes, parts)
    bits = modulus.bit_length()
    if bits not in RSA_BITS:
        limit = f"{RSA_BITS[0]} at least" if bits < RSA_BITS[0] else f"{RSA_BITS[-1]} at most"
        raise LineError(f"an RSA key of {bits} bits; {limit}, or use ed25519")
    return modulus % 2 == 1 and exponent % 2 == 1 and 3 <= exponent < modulus


def _is_positive(mpint: bytes) -> bool:
    """Whether it is a number above 0 in its shortest form (RFC 4251, 5): no other is compared."""
    return mpint[:1] > b"" and mpint[0] < 0x80 and (mpint[0] > 0 or mpint[1:2] >= b"\x80")
