"""The words of a change as frozen values: what serves, what is known, what is to be. No I/O."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from run_agent.node import Node
from run_agent.release import Kind
from run_agent.release.erlang_term import Term

VERSION_NAME = {
    Kind.MIX: "RELEASE_VSN",
    Kind.RELX: "RELEASE_VSN",
    Kind.DISTILLERY_1: "REL_VSN",
    Kind.DISTILLERY_2: "REL_VSN",
}
"""The variable by which each start script tells its VM the version."""


@dataclass(frozen=True, slots=True)
class Known:
    """A version that release_handler knows on the node (release_handler(3), which_releases/0).

    `status` is permanent, current, tmp_current, old or unpacked.
    """

    name: str
    version: str
    status: str


@dataclass(frozen=True, slots=True)
class Serving:
    """What the node says of itself: its own tree (`code:root_dir/0`) and its versions."""

    root: Path
    erts: str
    known: tuple[Known, ...]

    @property
    def version(self) -> str:
        """The version that serves: the current one, or where there is none the permanent one."""
        of = {known.status: known.version for known in self.known}
        return of.get("current") or of.get("tmp_current") or of["permanent"]

    def status_of(self, version: str) -> str | None:
        """Return the status of `version` on the node; none where it does not know it."""
        return next((known.status for known in self.known if known.version == version), None)


@dataclass(frozen=True, slots=True)
class Relup:
    """Which ways a `releases/VERSION/relup` knows (relup(4)).

    Each maps a version to whether the way there restarts the emulator.
    """

    version: str
    up_from: Mapping[str, bool]
    down_to: Mapping[str, bool]


@dataclass(frozen=True, slots=True)
class Change:
    """One move of a node from a version to another; its files are in the node's tree `root`.

    `env` is the release's environment as it is to be, `env_before` as it was.
    """

    node: Node
    run: Path
    root: Path
    kind: Kind
    name: str
    from_version: str
    to_version: str
    env: Mapping[str, str] = field(repr=False)
    env_before: Mapping[str, str] = field(repr=False)

    def back(self) -> "Change":
        """Return the move the other way."""
        return replace(
            self,
            from_version=self.to_version,
            to_version=self.from_version,
            env=self.env_before,
            env_before=self.env,
        )

    def environment(self) -> tuple[list[Term], list[Term]]:
        """Return what gives the node its new environment, the version in it: as `differences`."""
        name = VERSION_NAME[self.kind]
        return differences(
            {**self.env_before, name: self.from_version}, {**self.env, name: self.to_version}
        )


def differences(
    before: Mapping[str, str], after: Mapping[str, str]
) -> tuple[list[Term], list[Term]]:
    """Return what makes `after` of `before`: variables to set, as pairs, and names to unset."""
    put: list[Term] = [pair for pair in after.items() if before.get(pair[0]) != pair[1]]
    return put, [name for name in before if name not in after]
