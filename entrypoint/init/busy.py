"""What the agent is changing on the running release, as far as PID 1 has to know.

Meanwhile a stop holds back, and a release that ends is started again. It outlives an agent that
dies: its successor is told, and finishes or undoes the change.
"""

from entrypoint.init.log import Log

ALONE_SECONDS = 60.0
"""How long a change whose agent has died waits for one that goes on with it: longer than the pause
between two starts of agents, so that several may fail."""


class Busy:
    """`what` is under way ("upgrade of deploy 41"), none most of the time."""

    def __init__(self, log: Log) -> None:
        self.what: str | None = None
        self.ends_at: float | None = None
        self._log = log

    def say(self, what: object) -> None:
        """Take the agent's word for it."""
        self.what, self.ends_at = (str(what) if what else None), None

    def agent_came(self) -> None:
        """Leave it to the agent that has taken over to say when it ends."""
        self.ends_at = None

    def agent_ended(self, now: float) -> None:
        """Wait for another agent, from the first one on that has died of it."""
        if self.what is not None and self.ends_at is None:
            self.ends_at = now + ALONE_SECONDS

    def expire(self, now: float) -> None:
        """End it where no agent has come back in time."""
        if self.ends_at is not None and now >= self.ends_at:
            self._log.error(
                f"no agent came back within {ALONE_SECONDS:g} s to end the {self.what}: it counts "
                "as ended"
            )
            self.say(None)
