"""`from="…"`: from which addresses a key may be used (sshd(8); PATTERNS in ssh_config(5)).

Addresses only. A host name would have to be looked up in the DNS, which an attacker may answer.
Left out silently, a name would lock its owner out and a negated one (`!name`) would let somebody
in; so a list with a name is refused. Pure.
"""

import fnmatch
import ipaddress
import re

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

WILDCARD = re.compile(r"[0-9.*?]+|(?=.*:)[0-9a-f:*?]+")
"""What may match an address as it is written: of IPv4, or of IPv6 (with a colon)."""


def patterns(text: str) -> tuple[str, ...]:
    """Split a pattern list, normalised; raises `ValueError` with what is wrong with it."""
    found = tuple(pattern.lower() for pattern in text.split(","))
    for pattern in found:
        _judge(pattern.removeprefix("!"))
    if all(pattern.startswith("!") for pattern in found):
        raise ValueError("lets nobody in: it only excludes; add * or a network")
    return found


def admits(patterns: tuple[str, ...], address: str) -> bool:
    """Tell whether one pattern matches and no negated one does; IPv6 may be `::ffff:1.2.3.4`."""
    try:
        client = _plain(ipaddress.ip_address(address.partition("%")[0]))
    except ValueError:
        return False
    hit = [pattern for pattern in patterns if _matches(pattern.removeprefix("!"), client)]
    return bool(hit) and not any(pattern.startswith("!") for pattern in hit)


def _judge(pattern: str) -> None:
    if "*" in pattern or "?" in pattern:
        if not WILDCARD.fullmatch(pattern):
            raise ValueError(f"{pattern[:64]!r} names hosts; only addresses can be checked")
        return
    try:
        network = ipaddress.ip_network(pattern)
    except ValueError as problem:
        why = str(problem)[:80] if "/" in pattern else "names cannot be checked"
        raise ValueError(f"{pattern[:64]!r} is no address or network: {why}") from None
    if network.version == 6 and _plain(network.network_address) != network.network_address:
        raise ValueError(f"{pattern[:64]!r} never matches: write IPv4 without ::ffff:")


def _matches(pattern: str, client: Address) -> bool:
    if "*" in pattern or "?" in pattern:
        return fnmatch.fnmatchcase(str(client), pattern)
    return client in ipaddress.ip_network(pattern)


def _plain(address: Address) -> Address:
    """Return IPv4 as such where a dual-stack socket maps it into IPv6 (RFC 4291, 2.5.5.2)."""
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address
