"""The stop clock: which phase of a stop is due when. Computes, does nothing itself."""

SWEEP_SHARE, SWEEP_SECONDS = 0.2, 2.0
"""What is kept of the grace for everything but the release: a fifth, at most two seconds."""

LEAST_SECONDS = 0.5
"""Even without any grace, what is killed needs a moment to be gone."""

DRAIN, TERM, KILL, SWEEP, SWEEP_KILL = "drain", "term", "kill", "sweep", "sweep-kill"


class StopClock:
    """A small state machine: drain → term → kill, and once the release has ended → the sweep.

    `drain` and `grace` are in seconds; the times are those of the clock that gave `now`.
    """

    def __init__(self, now: float, *, drain: float, grace: float) -> None:
        grace = max(grace, LEAST_SECONDS)
        sweep = min(SWEEP_SECONDS, grace * SWEEP_SHARE)
        self.phase = DRAIN
        self.term_at = now + min(drain, grace - sweep)
        self.kill_at = now + grace - sweep
        self.sweep_kill_at = now + grace - sweep / 4
        self.ends_at = now + grace

    def next_at(self) -> float:
        """When the present phase ends."""
        return {
            DRAIN: self.term_at,
            TERM: self.kill_at,
            KILL: self.ends_at,
            SWEEP: self.sweep_kill_at,
            SWEEP_KILL: self.ends_at,
        }[self.phase]

    def advance(self, now: float) -> str | None:
        """Return the phase that begins now, None while the present one goes on."""
        following = {DRAIN: TERM, TERM: KILL, SWEEP: SWEEP_KILL}.get(self.phase)
        if following is None or now < self.next_at():
            return None
        self.phase = following
        return following

    def skip_drain(self, now: float) -> None:
        """Let the release be asked to stop now; the end of the grace stays where it is."""
        self.term_at = min(self.term_at, now)

    def sweep(self, now: float) -> None:
        """Give everything but the release what was kept for it, from now on."""
        self.phase = SWEEP
        self.ends_at = min(self.ends_at, now + SWEEP_SECONDS)
        self.sweep_kill_at = min(self.sweep_kill_at, now + SWEEP_SECONDS * 3 / 4)
