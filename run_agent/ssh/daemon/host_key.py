"""The host key: a mounted file, or an ed25519 key made once and kept on the volume.

Clients remember it, so it is never replaced silently: a key that cannot be used is an error.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path

import asyncssh

from run_agent import files
from run_agent.errors import RunAgentError
from run_agent.model import Layout
from run_agent.settings import Settings

RSA_BITS_MIN = 2048
"""NIST SP 800-131A; what OpenSSH calls RequiredRSASize is 1024, and clients refuse it."""

KINDS = ("ssh-ed25519", "ecdsa-sha2-nistp256", "ecdsa-sha2-nistp384", "ecdsa-sha2-nistp521",
         "ssh-rsa")  # fmt: skip
"""What a mounted key may be; DSA may not."""

ENCRYPTED = "it is encrypted, and nobody is there to ask for its passphrase"

log = logging.getLogger("ssh")


def load(options: Settings, layout: Layout) -> asyncssh.SSHKey:
    """Return the host key; make one where none is mounted and none is kept.

    Raises `RunAgentError`: 78 for a key that cannot be used, 74 where the volume cannot be written.
    """
    if options.ssh_host_key is not None:
        return _mounted(options.ssh_host_key)
    return _kept(layout.host_key)


def _mounted(path: Path) -> asyncssh.SSHKey:
    advice = "mount the private half of a host key there, or unset SSH_HOST_KEY"
    try:
        content = path.read_bytes()
        readable_by_all = path.stat().st_mode & 0o004
    except OSError as error:
        raise _unusable(path, error.strerror or "unreadable", advice) from error
    key = _parse(path, content, advice)
    if readable_by_all:
        # not ours to refuse: a mounted secret is 0644 where nobody set its mode
        log.warning("anybody in the container can read the host key %s; mount it 0400", path)
    return key


def _kept(path: Path) -> asyncssh.SSHKey:
    advice = (
        "put back the file that was there; only if it is lost, remove it: another key is made, "
        "and every client will warn of it"
    )
    try:
        content = path.read_bytes() if path.exists() else _make(path)
    except OSError as error:
        raise RunAgentError(
            f"cannot keep a host key at {path} ({error.strerror}): the volume must be writable "
            "and have room; or mount a key and set SSH_HOST_KEY",
            exit_code=os.EX_IOERR,
        ) from error
    return _parse(path, content, advice)


def _make(path: Path) -> bytes:
    """Make a key, unless another process is faster; return the one that counts."""
    made = asyncssh.generate_private_key("ssh-ed25519", comment="run-agent")
    path.parent.mkdir(parents=True, exist_ok=True)
    ours = made.export_private_key()
    content = files.write_once(path, ours)
    if content == ours:
        log.info("made a host key, %s, and keep it at %s", made.get_fingerprint(), path)
    return content


def _parse(path: Path, content: bytes, advice: str) -> asyncssh.SSHKey:
    try:
        key = asyncssh.import_private_key(content)
    except (asyncssh.KeyImportError, asyncssh.KeyEncryptionError, ValueError):
        # the library's own words may quote the file
        raise _unusable(path, _what_it_is(content), advice) from None
    problem = _problem(key)
    if problem:
        raise _unusable(path, problem, advice)
    return key


def _what_it_is(content: bytes) -> str:
    """Say what a file is that holds no private key that can be read."""
    if not content.strip():
        return "it is empty"
    if b"ENCRYPTED" in content:
        return ENCRYPTED
    try:
        asyncssh.import_public_key(content)
    except (asyncssh.KeyImportError, ValueError):
        return "it is no private key"
    # OpenSSH's own form has the public half beside the encrypted one
    return ENCRYPTED if b"PRIVATE KEY" in content else "it is the public half"


def _problem(key: asyncssh.SSHKey) -> str | None:
    kind = key.get_algorithm()
    if kind not in KINDS:
        return f"a key of type {kind} is not for hosts any more; make an ed25519 one"
    bits = getattr(key.pyca_key, "key_size", RSA_BITS_MIN)
    if kind == "ssh-rsa" and bits < RSA_BITS_MIN:
        return f"RSA with {bits} bits is too short; make an ed25519 key, or {RSA_BITS_MIN} bits"
    return None


def _unusable(path: Path, why: str, advice: str) -> RunAgentError:
    return RunAgentError(
        f"cannot use the host key {path} ({why}): {advice}", exit_code=os.EX_CONFIG
    )
