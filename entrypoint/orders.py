"""What a replica was asked to be: the verb's arguments, on their way from the CLI to the agent."""

import json
from dataclasses import asdict, dataclass

INIT, BOOTSTRAP, EXEC = "init", "bootstrap", "exec"


@dataclass(frozen=True, slots=True)
class Orders:
    """`verb` is init, bootstrap or exec; `command` replaces the release's own start."""

    verb: str
    app: str
    command: tuple[str, ...] = ()

    def to_argument(self) -> str:
        """Return the orders as one argument. A slug's URL is not in it: it may be a credential."""
        return json.dumps(asdict(self))

    @classmethod
    def from_argument(cls, argument: str) -> "Orders":
        """Read what `to_argument` wrote."""
        fields = json.loads(argument)
        return cls(fields["verb"], fields["app"], tuple(fields["command"]))
