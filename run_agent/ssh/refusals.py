"""Says who was refused: the first ones of a minute line by line, then all of them in one line."""

import asyncio
import logging
from collections import Counter

MINUTE = 60.0

LINES = 5
"""So many refusals of a minute get a line each."""

PAIRS, NAMED = 1000, 3
"""So many sources and reasons are told apart while counting, and so many named in the sum."""

OTHERS = "others"

log = logging.getLogger("ssh")


class Refusals:
    """What is noted here is logged; an attack costs a few lines a minute."""

    def __init__(self) -> None:
        self._counts: Counter[tuple[str, str]] = Counter()
        self._minute: asyncio.TimerHandle | None = None

    def note(self, source: str, reason: str) -> None:
        """Log that somebody from `source` was refused, or count it."""
        if self._minute is None:
            self._minute = asyncio.get_running_loop().call_later(MINUTE, self.sum_up)
        known = (source, reason) in self._counts or len(self._counts) < PAIRS
        self._counts[source if known else OTHERS, reason] += 1
        if self._counts.total() <= LINES:
            log.warning("refused a connection from %s: %s", source, reason,
                        extra={"source": source, "reason": reason, "count": 1})  # fmt: skip

    def sum_up(self) -> None:
        """End this minute."""
        counts, self._counts = self._counts, Counter()
        if self._minute is not None:
            self._minute.cancel()
            self._minute = None
        if counts.total() <= LINES:
            return
        named = [
            f"{count:,} from {source} ({reason})"
            for (source, reason), count in counts.most_common(NAMED)
        ]
        more = ["…"] if len(counts) > NAMED else []
        total, (source, reason) = counts.total(), next(iter(counts.most_common(1)))[0]
        log.warning("refused %s connections in the last minute: %s",
                    f"{total:,}", "; ".join(named + more),
                    extra={"source": source, "reason": reason, "count": total})  # fmt: skip
