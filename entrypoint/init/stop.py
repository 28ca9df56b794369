"""The stop clock: which phase of a stop is due when. Computes, does nothing itself."""

SWEEP_SHARE, SWEEP_SECONDS = 0.2, 2.0
"""What is kept of the grace for everything but the release: a fifth, at most two seconds."""

LEAST_SECONDS = 0.5
"""Even without any grace, what is killed needs a moment to be gone."""

HOLD_SHARE = 0.5
"""Most of the time between drain and KILL that the release is held back from its TERM for a change
under way: that takes seconds as a rule, and the release needs no less to stop in order."""

DRAIN, HOLD, TERM, KILL = "drain", "hold", "term", "kill"
SWEEP, SWEEP_KILL = "sweep", "sweep-kill"


class StopClock:
    """A small state machine: drain → term → kill, and once the release has ended → the sweep.

    While the release is being changed, a hold comes between the drain and TERM.
    `drain` and `grace` are in seconds; the times are those of the clock that gave `now`.
    """

    def __init__(self, now: float, *, drain: float, grace: float) -> None:
        grace = max(grace, LEAST_SECONDS)
        sweep = min(SWEEP_SECONDS, grace * SWEEP_SHARE)
        self.phase = DRAIN
        self.drain_until = now + min(drain, grace - sweep)
        self.kill_at = now + grace - sweep
        self.hold_until = self._latest_hold()
        self.sweep_kill_at = now + grace - sweep / 4
        self.ends_at = now + grace

    def next_at(self) -> float:
        """When the present phase ends."""
        return {
            DRAIN: self.drain_until,
            HOLD: self.hold_until,
            TERM: self.kill_at,
            KILL: self.ends_at,
            SWEEP: self.sweep_kill_at,
            SWEEP_KILL: self.ends_at,
        }[self.phase]

    def advance(self, now: float, *, busy: bool = False) -> str | None:
        """Return the phase that begins now, None while the present one goes on."""
        due = now >= self.next_at() or (self.phase == HOLD and not busy)
        after_drain = HOLD if busy and now < self.hold_until else TERM
        following = {DRAIN: after_drain, HOLD: TERM, TERM: KILL, SWEEP: SWEEP_KILL}.get(self.phase)
        if following is None or not due:
            return None
        self.phase = following
        return following

    def hurry(self, now: float) -> None:
        """End the wait of the present phase, drain or hold; the grace ends when it did."""
        if self.phase == DRAIN:
            self.drain_until = min(self.drain_until, now)
            self.hold_until = self._latest_hold()
        elif self.phase == HOLD:
            self.hold_until = min(self.hold_until, now)

    def sweep(self, now: float) -> None:
        """Give everything but the release what was kept for it, from now on."""
        self.phase = SWEEP
        self.ends_at = min(self.ends_at, now + SWEEP_SECONDS)
        self.sweep_kill_at = min(self.sweep_kill_at, now + SWEEP_SECONDS * 3 / 4)

    def _latest_hold(self) -> float:
        return self.drain_until + (self.kill_at - self.drain_until) * HOLD_SHARE
