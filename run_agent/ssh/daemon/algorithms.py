"""What we speak: the algorithms, best first, and the options that all connections share.

Fixed by us, whatever a later asyncssh defaults to: what is not named here is not offered. Clients
choose among them by their own order (RFC 4253, 7.1).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

import asyncssh

from run_agent.settings import Settings

VERSION = "run-agent"
"""The software version in our identification line; it tells nobody which library to attack."""

KEY_EXCHANGES = ("mlkem768x25519-sha256", "curve25519-sha256", "curve25519-sha256@libssh.org")
"""The first is safe from a quantum computer to come; the others are what OpenSSH before 9.9,
dbclient and plink can do."""

CIPHERS = (
    "aes256-gcm@openssh.com",
    "aes128-gcm@openssh.com",
    "chacha20-poly1305@openssh.com",
)
"""Authenticated encryption only. Debian's dbclient has no AES-GCM."""

MACS = ("hmac-sha2-256-etm@openssh.com",)
"""Never used with these ciphers, but a list may not be empty."""

SIGNATURES = (
    "ssh-ed25519",
    "sk-ssh-ed25519@openssh.com",
    "ecdsa-sha2-nistp256",
    "ecdsa-sha2-nistp384",
    "ecdsa-sha2-nistp521",
    "sk-ecdsa-sha2-nistp256@openssh.com",
    "rsa-sha2-512",
    "rsa-sha2-256",
)
"""By which a key may sign, a user's or ours: no `ssh-rsa`, which is SHA-1."""


def options(
    settings: Settings, host_key: asyncssh.SSHKey, server: Callable[[], asyncssh.SSHServer]
) -> asyncssh.SSHServerConnectionOptions:
    """Return what all connections are built with; `server` makes the object that each one asks."""
    built = asyncssh.SSHServerConnectionOptions(
        server_factory=server,
        server_version=VERSION,
        server_host_keys=[host_key],
        kex_algs=KEY_EXCHANGES,
        encryption_algs=CIPHERS,
        mac_algs=MACS,
        signature_algs=SIGNATURES,
        compression_algs=("none",),  # decompressing is work that a stranger could make us do
        host_based_auth=False,
        kbdint_auth=False,
        password_auth=False,
        gss_host=None,
        x509_trusted_certs=None,
        config=None,
        login_timeout=0,  # each connection knows what is left of its grace
        keepalive_interval=settings.ssh_keepalive_seconds,
        keepalive_count_max=settings.ssh_keepalive_misses,
        encoding=None,
        line_editor=False,
        agent_forwarding=False,
    )
    built.server_host_keys = _signatures_of(host_key)
    return built


def _signatures_of(host_key: asyncssh.SSHKey) -> OrderedDict[bytes, asyncssh.SSHKeyPair]:
    """Return how the host key may sign, each way with a pair of its own.

    An RSA key signs in several ways, and asyncssh notes in the pair which one a client chose: two
    that log in at once would meet there.
    """
    [known] = asyncssh.load_keypairs([host_key])
    ours = [name.encode() for name in SIGNATURES]
    algorithms = [name for name in ours if name in known.host_key_algorithms]
    pairs = OrderedDict((name, asyncssh.load_keypairs([host_key])[0]) for name in algorithms)
    for name, pair in pairs.items():
        pair.set_sig_algorithm(name)
    return pairs
