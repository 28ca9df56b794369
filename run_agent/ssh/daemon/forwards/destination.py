"""Where a forward may lead: to this replica's own addresses, whatever they are called.

A name is looked up once; every address it has is checked, and those that were checked are the ones
to connect to: an answer that changes meanwhile changes nothing.
"""

import asyncio
import ipaddress
import socket
from collections.abc import Mapping

import asyncssh

from run_agent.ssh.authorized_keys import AuthorizedKey
from run_agent.ssh.daemon.forwards.look_ups import LookUp, literal

LOOK_UP_SECONDS = 5.0
"""What a name server may take. This replica's own names are in its files; it is seldom asked."""

LONGEST_NAME = 255
"""RFC 1035, 2.3.4."""

Endpoint = tuple[str, int] | tuple[str, int, int, int]
"""A socket's address as the socket module has it, IPv4 or IPv6."""

NOBODYS: Mapping[int, tuple[Endpoint, ...]] = {
    socket.AF_INET: (("192.0.2.1", 0), ("203.0.113.1", 0)),
    socket.AF_INET6: (("2001:db8::1", 0, 0, 0), ("3fff::1", 0, 0, 0)),
}
"""By family: for documentation only (RFC 5737, RFC 3849, RFC 9637); no machine has all of them."""


async def find(key: AuthorizedKey, host: str, port: int, look_up: LookUp) -> list[Endpoint]:
    """Return where to connect for `host` and `port`, to be tried in this order.

    Only a name is looked up: not an address, nor localhost. Raises `asyncssh.ChannelOpenError`
    where the key or the address forbids it, and where the name is not found within
    `LOOK_UP_SECONDS`, our turn included.
    """
    if not allows(key, host, port):
        raise _prohibited("this key may not forward there")
    if not 1 <= port <= 65535:
        raise _prohibited("there is no such port")
    endpoints = await _look_up(host, port, look_up)
    if not all(_is_own(endpoint) for endpoint in endpoints):
        raise _prohibited("only localhost and this replica's own address can be reached")
    return endpoints


def allows(key: AuthorizedKey, host: str, port: int) -> bool:
    """Whether the key's options let it forward to `host` as the client has written it.

    As sshd(8) has it for permitopen: the name itself is compared, not what it stands for.
    """
    if not key.allows_forwards:
        return False
    wanted = _plain(host)
    return not key.permitted_forwards or any(
        _plain(to) in {wanted, "*"} and number in {port, None}
        for to, number in key.permitted_forwards
    )


def family(endpoint: Endpoint) -> socket.AddressFamily:
    """Return IPv4 or IPv6, as socket() wants it."""
    return socket.AF_INET if len(endpoint) == 2 else socket.AF_INET6


def _plain(host: str) -> str:
    """Spell a name without what makes no difference."""
    return host.removesuffix(".").lower()


async def _look_up(host: str, port: int, look_up: LookUp) -> list[Endpoint]:
    if not host or len(host) > LONGEST_NAME:
        raise _unreachable("this is not a name")
    if _plain(host) == "localhost":  # on both, even where /etc/hosts knows one of them only
        return [("127.0.0.1", port), ("::1", port, 0, 0)]
    try:
        async with asyncio.timeout(LOOK_UP_SECONDS):
            found = literal(host, port) or await look_up(host, port)
    except TimeoutError:
        raise _unreachable(f"the name was not found within {LOOK_UP_SECONDS:g} s") from None
    except socket.gaierror as error:
        raise _unreachable(str(error.strerror).lower()) from None
    except (OSError, ValueError):  # what cannot be a name: it has a NUL, or a label of 64 letters
        raise _unreachable("this is not a name") from None
    return list(dict.fromkeys(_normal(entry[4]) for entry in found))


def _normal(endpoint: Endpoint) -> Endpoint:
    """Give the address that the kernel would take: IPv4 within IPv6, and "any" for loopback."""
    address = ipaddress.ip_address(endpoint[0])
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    if mapped is not None:
        return _normal((str(mapped), endpoint[1]))
    if address.is_unspecified:
        return ("127.0.0.1", endpoint[1]) if address.version == 4 else ("::1", endpoint[1], 0, 0)
    return endpoint


def _is_own(endpoint: Endpoint) -> bool:
    """Whether this machine has the address: the kernel lets nobody bind to another's.

    Unless it was told to (ip_nonlocal_bind, ip-sysctl.rst): then we cannot tell, and say no.
    It also takes a broadcast address here, and then refuses to connect a stream to it.
    """
    address = ipaddress.ip_address(endpoint[0])
    if address.is_loopback:
        return True
    takes_any = all(map(_binds, NOBODYS[family(endpoint)]))
    return not address.is_multicast and not takes_any and _binds(endpoint)


def _binds(endpoint: Endpoint) -> bool:
    try:
        with socket.socket(family(endpoint), socket.SOCK_DGRAM) as probe:
            probe.bind((endpoint[0], 0, *endpoint[2:]))
    except OSError:
        return False
    return True


def _prohibited(why: str) -> asyncssh.ChannelOpenError:
    return asyncssh.ChannelOpenError(asyncssh.OPEN_ADMINISTRATIVELY_PROHIBITED, why)


def _unreachable(why: str) -> asyncssh.ChannelOpenError:
    return asyncssh.ChannelOpenError(asyncssh.OPEN_CONNECT_FAILED, why)
