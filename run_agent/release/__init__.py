"""What an unpacked slug is, what starts it, and what it sees when it starts.

Owns the knowledge of release tools: which files tell them apart, and what their start scripts
take. `identify` looks at the tree only; `start` chooses the command, `identity` names the node,
`environment` builds what the release sees, `releases_file` prepares a tree for later upgrades.
Nothing here talks to a running node (`run_agent.node`) or keeps a release running (PID 1).
"""

import glob
import os
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from run_agent.errors import RunAgentError
from run_agent.release import distillery, mix, procfile, relx
from run_agent.release.tool import Tool


class Kind(StrEnum):
    """Who built the release; a Procfile project holds none that we could start ourselves."""

    MIX = "mix release"
    RELX = "relx"
    DISTILLERY_1 = "Distillery 1.x"
    DISTILLERY_2 = "Distillery 2.x"
    PROCFILE = "Procfile project"


TOOLS = {
    Kind.MIX: mix.TOOL,
    Kind.RELX: relx.TOOL,
    Kind.DISTILLERY_1: distillery.FIRST_LINE,
    Kind.DISTILLERY_2: distillery.SECOND_LINE,
}

LINE_BY_EVAL = {"erlang": Kind.DISTILLERY_1, "elixir": Kind.DISTILLERY_2}
"""What the controller's `capabilities.distillery.eval` says about Distillery's line."""


@dataclass(frozen=True, slots=True)
class Release:
    """An unpacked slug, as far as its files tell; `name` is the controller's customer_app_name."""

    kind: Kind
    name: str
    tree: Path
    version: str | None = None
    erts: Path | None = None
    script: Path | None = None

    @property
    def tool(self) -> Tool | None:
        """The release tool whose script this is; None for a Procfile project."""
        return TOOLS.get(self.kind)

    @property
    def epmd(self) -> Path | None:
        """The port mapper of the slug's own Erlang."""
        return self._program("epmd")

    @property
    def erl_call(self) -> Path | None:
        """The C node of the slug's own Erlang: with the ERTS since OTP 23, before in a library."""
        if (program := self._program("erl_call")) is not None:
            return program
        return max(self.tree.glob("lib/erl_interface-*/bin/erl_call"), default=None)

    def evaluate(self, erlang: str) -> tuple[str, ...] | None:
        """Return the argv by which the release's own script evaluates Erlang on its node."""
        if self.tool is None or self.script is None:
            return None
        return (str(self.script), *self.tool.evaluate(erlang))

    def _program(self, name: str) -> Path | None:
        program = self.erts / "bin" / name if self.erts else None
        return program if program and program.is_file() else None


def identify(tree: Path, name: str, *, distillery_eval: str | None = None) -> Release:
    """Tell what kind of release the slug at `tree` is, by its files.

    `name` is the release's name. `distillery_eval` is the controller's word on which line of
    Distillery built it; it outweighs the files, but makes a Distillery release of no other. What
    cannot be started is refused by `start.choose`, since a given command may not need it.
    Raises `RunAgentError` (78) for a name that could leave the slug.
    """
    if "/" in name or name in {"", ".", ".."}:
        raise RunAgentError(
            f"cannot use {name!r} as the release's name: it names bin/NAME in the slug; set "
            "customer_app_name to the name of the release",
            exit_code=os.EX_CONFIG,
        )
    erts_version, version = _booted(tree)
    script = tree / "bin" / name
    return Release(
        kind=_kind(tree, name, version, distillery_eval),
        name=name,
        tree=tree,
        version=version,
        erts=_erts(tree, erts_version),
        script=script if script.is_file() else None,
    )


def _booted(tree: Path) -> tuple[str | None, str | None]:
    """Read the versions of ERTS and release from `releases/start_erl.data`."""
    try:
        text = (tree / "releases" / "start_erl.data").read_text(errors="surrogateescape")
    except (FileNotFoundError, NotADirectoryError):
        return None, None
    match text.split():  # the line has no final newline in some, spaces in others
        case [erts, version]:
            return erts, version
        case _:
            return None, None


def _erts(tree: Path, version: str | None) -> Path | None:
    named = tree / f"erts-{version}"
    if version is not None and named.is_dir():
        return named
    return max((path for path in tree.glob("erts-*") if path.is_dir()), default=None)


def _kind(tree: Path, name: str, version: str | None, distillery_eval: str | None) -> Kind:
    def has(*marks: str) -> bool:
        names = {"name": glob.escape(name), "version": glob.escape(version) if version else "*"}
        return any(next(tree.glob(mark.format(**names)), None) is not None for mark in marks)

    if not has("bin/{name}") and (procfile.web(tree) is not None or not has("releases")):
        return Kind.PROCFILE
    own = (*distillery.FIRST_LINE_MARKS, *distillery.SECOND_LINE_MARKS)
    if not has(*own) and has(*mix.MARKS):
        return Kind.MIX
    if not has(*own, *distillery.COMMON_MARKS):
        return Kind.RELX
    by_files = Kind.DISTILLERY_1 if has(*distillery.FIRST_LINE_MARKS) else Kind.DISTILLERY_2
    return LINE_BY_EVAL.get(distillery_eval or "", by_files)
