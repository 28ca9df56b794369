"""How many may be on their way to a login at once, and who goes when they are too many.

Pure: randomness and clock come as arguments. When to drop is sshd's rule (sshd_config(5),
MaxStartups); whom is ours: sshd drops the newcomer, so that whoever holds all places locks out
everybody else.
"""

from collections.abc import Callable

from run_agent.settings import Startups

TRUSTED_TIMES = 4
"""So many times FULL may connect at once where all of them come from where somebody logged in."""

SILENT_STARTS, SILENT_START_SECONDS = 3, 300.0
"""So many daemons are started in a row for clients that say nothing, then one in so many seconds:
more than a daemon stays idle, which would otherwise be always."""

MUTE_SECONDS = 600.0
"""How long a source is taken for a prober after it said nothing even to the daemon's banner."""

MUTE_SOURCES = 256
"""So many of them are remembered."""


class StartUps:
    """Connections that have not logged in, by source; the oldest first."""

    def __init__(self, limits: Startups, random: Callable[[], float]) -> None:
        self._limits, self._random = limits, random
        self._sources: dict[int, str] = {}
        self._by_source: dict[str, dict[int, None]] = {}

    def __len__(self) -> int:
        return len(self._sources)

    def admit(self, number: int, source: str, trusts: Callable[[str], bool]) -> int | None:
        """Add a newcomer; return the number of the one to drop for it, which may be itself.

        That one is the oldest of the source that has the most. Trusted sources come last: among
        themselves they may be several times as many, for tools that connect in bursts. Before all
        places are taken a source keeps its only one: the oldest might be a person about to log in.
        """
        drops = self._random() < self.drop_probability()
        self.add(number, source)
        if not drops:
            return None
        strangers = [source for source in self._by_source if not trusts(source)]
        if len(self) <= self._limits.full * (1 if strangers else TRUSTED_TIMES):
            strangers = [source for source in strangers if len(self._by_source[source]) > 1]
            if not strangers:
                return None
        victim = self._oldest_of_the_most(strangers or list(self._by_source))
        self.remove(victim)
        return victim

    def add(self, number: int, source: str) -> None:
        """Add one that is in already."""
        self._sources[number] = source
        self._by_source.setdefault(source, {})[number] = None

    def remove(self, number: int) -> None:
        """Count it no longer: it has logged in, or gone. One that is not here is no error."""
        source = self._sources.pop(number, None)
        if source is not None:
            del self._by_source[source][number]
            if not self._by_source[source]:
                del self._by_source[source]

    def drop_probability(self) -> float:
        """Return how likely the next one is one too many: RATE percent at BEGIN, all at FULL."""
        begin, rate, full = self._limits.begin, self._limits.rate / 100, self._limits.full
        if len(self) < begin:
            return 0.0
        if len(self) >= full:
            return 1.0
        return rate + (1 - rate) * (len(self) - begin) / (full - begin)

    def _oldest_of_the_most(self, sources: list[str]) -> int:
        most = max(len(self._by_source[source]) for source in sources)
        crowds = {source for source in sources if len(self._by_source[source]) == most}
        # in the order in which they came
        return next(number for number, source in self._sources.items() if source in crowds)


class SilentStarts:
    """Who gets to see the daemon without having said anything.

    Some clients wait for the server's first word; most that do are probers and scanners, for which
    it is not worth starting.
    """

    def __init__(self, now: float) -> None:
        self._tokens, self._since = float(SILENT_STARTS), now
        self._mute: dict[str, float] = {}

    def wait(self, source: str, now: float, *, runs: bool) -> float:
        """Return 0 where `source` gets to it, else the seconds after which to ask again.

        `runs` is whether the daemon does; to have it started takes one token of a bucket.
        """
        quiet = self._mute.get(source, float("-inf")) + MUTE_SECONDS - now
        if quiet > 0 or runs:
            return max(quiet, 0.0)
        refilled = self._tokens + (now - self._since) / SILENT_START_SECONDS
        self._tokens, self._since = min(refilled, SILENT_STARTS), now
        if self._tokens < 1:
            return (1 - self._tokens) * SILENT_START_SECONDS
        self._tokens -= 1
        return 0.0

    def came_to_nothing(self, source: str, now: float) -> None:
        """Take `source` for a prober: it has seen the banner, and did not try to log in."""
        self._mute.pop(source, None)
        if len(self._mute) >= MUTE_SOURCES:
            del self._mute[next(iter(self._mute))]
        self._mute[source] = now
