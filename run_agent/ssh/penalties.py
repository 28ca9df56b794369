"""Who is refused for a while after failed logins (sshd_config(5), PerSourcePenalties).

Pure: the clock comes as an argument. A source is an address, or an IPv6 /64, of which one person
has all. Besides penalties it remembers who has logged in: such a source gets none for a while.
"""

import enum
import heapq
import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass

from run_agent.settings import Network

MINIMUM_SECONDS = 15.0
"""What must have added up before a source is refused: three mistakes in a row are a person's."""

TRUST_SECONDS = 600.0
"""How long a login vouches for its source: as long as the longest default penalty."""

SOURCES = 4096
"""So many sources are remembered; an entry takes about 200 bytes."""


class Fault(enum.Enum):
    """How a connection ended without a login; the value is in units of SSH_PENALTY_SECONDS.

    The proportions are OpenSSH's own (5 s, 1 s, 10 s).
    """

    WRONG_KEYS = 1.0
    """However many it tried: ssh(1) offers all the keys that it has."""
    NO_ATTEMPT = 0.2
    GRACE_EXCEEDED = 2.0


@dataclass(slots=True)
class _Penalty:
    until: float
    refuses: bool = False


class Penalties:
    """What each source has brought on itself. Times are seconds of the caller's clock."""

    def __init__(self, unit: float, longest: float, exempt: Sequence[Network] = ()) -> None:
        self._unit, self._longest, self._exempt = unit, longest, exempt
        self._penalties: dict[str, _Penalty] = {}
        self._ends: list[tuple[float, str]] = []  # a heap; a penalty that grew is in it again
        self._logins: dict[str, float] = {}  # in the order of the logins

    def refused_for(self, host: str, now: float) -> float:
        """Return for how many seconds connections from `host` are refused; 0 where they are not."""
        penalty = self._penalties.get(source_of(host))
        if penalty is None or not penalty.refuses or penalty.until <= now or self._exempts(host):
            return 0.0
        return penalty.until - now

    def blame(self, host: str, fault: Fault, now: float) -> None:
        """Add to the penalty of `host`, unless it is exempt or has logged in lately."""
        source, seconds = source_of(host), self._unit * fault.value
        if not seconds or self.trusts(source, now) or self._exempts(host):
            return
        self._make_room(source, now)
        penalty = self._penalties.setdefault(source, _Penalty(now))
        left = min(penalty.until - now + seconds, self._longest)
        # the second holds for a longest penalty below the minimum, which else would refuse nobody
        penalty.refuses |= left > MINIMUM_SECONDS or left >= self._longest
        penalty.until = now + left
        heapq.heappush(self._ends, (penalty.until, source))

    def absolve(self, host: str, now: float) -> None:
        """Somebody has logged in from `host`: end its penalty, and trust it for a while."""
        source = source_of(host)
        self._penalties.pop(source, None)
        self._logins.pop(source, None)
        if len(self._logins) >= SOURCES:
            del self._logins[next(iter(self._logins))]
        self._logins[source] = now

    def trusts(self, source: str, now: float) -> bool:
        """Tell whether somebody has logged in from `source` in the last TRUST_SECONDS."""
        return now - self._logins.get(source, float("-inf")) <= TRUST_SECONDS

    def refusing(self, now: float) -> int:
        """Return how many sources are refused now."""
        return sum(p.refuses and p.until > now for p in self._penalties.values())

    def _make_room(self, source: str, now: float) -> None:
        """Forget what has passed; of a full table also the penalty that ends first.

        Never the newcomer's: to free one source of a long penalty, an attacker would have to earn
        longer ones for all the others.
        """
        while self._ends and self._ends[0][0] <= now:
            self._forget_first()
        while source not in self._penalties and len(self._penalties) >= SOURCES:
            self._forget_first()
        if len(self._ends) >= 2 * SOURCES:
            self._ends = [(penalty.until, source) for source, penalty in self._penalties.items()]
            heapq.heapify(self._ends)

    def _forget_first(self) -> None:
        until, source = heapq.heappop(self._ends)
        if source in self._penalties and self._penalties[source].until == until:
            del self._penalties[source]

    def _exempts(self, host: str) -> bool:
        if not self._exempt:
            return False
        address = _address(host)
        return any(address in network for network in self._exempt)


def source_of(host: str) -> str:
    """Return whom `host` counts as: an IPv4 address itself, of an IPv6 address its /64."""
    if ":" not in host:
        return host
    address = _address(host)
    if isinstance(address, ipaddress.IPv4Address):
        return str(address)
    return f"{ipaddress.IPv6Address(int(address) >> 64 << 64)}/64"


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    address = ipaddress.ip_address(host)
    return getattr(address, "ipv4_mapped", None) or address
