"""What a replica was asked to be: the verb's arguments, on their way from the CLI to the agent."""

import json
from dataclasses import asdict, dataclass

INIT, BOOTSTRAP, EXEC = "init", "bootstrap", "exec"
JOB, DISTILLERY_JOB = "job", "distillery_job"


@dataclass(frozen=True, slots=True)
class Orders:
    """`verb` is init, bootstrap, exec, job or distillery_job.

    `command` replaces the release's own start; of a distillery_job it is what the release's script
    is given.
    """

    verb: str
    app: str
    command: tuple[str, ...] = ()

    @property
    def is_job(self) -> bool:
        """Whether it is to end by itself: it is no replica, and proves no deploy good."""
        return self.verb in {JOB, DISTILLERY_JOB}

    @property
    def asks_controller(self) -> bool:
        """Whether the controller tells what is booted."""
        return self.verb == INIT or self.is_job

    def to_argument(self) -> str:
        """Return the orders as one argument. A slug's URL is not in it: it may be a credential."""
        return json.dumps(asdict(self))

    @classmethod
    def from_argument(cls, argument: str) -> "Orders":
        """Read what `to_argument` wrote."""
        fields = json.loads(argument)
        return cls(fields["verb"], fields["app"], tuple(fields["command"]))
