"""Migrate the database by the code that runs on the node, as the release tool evaluates it.

Owns the call and what is made of its answer. What the migration prints comes to us; what it logs
goes where the app's log goes. Must not ask the controller: its expression is handed in. Nobody
else may change the release meanwhile; that lock is the caller's.
"""

import asyncio
import base64
import logging
import os
import re
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from run_agent import erl_home, process, turns
from run_agent.errors import RunAgentError, UnavailableError
from run_agent.node import Node
from run_agent.release import Kind, Release, procfile
from run_agent.release.tool import in_elixir

MIGRATION_SECONDS = 3600.0
"""How long a migration may take. Most need a second; filling a large table's new column may not."""

FAILED = 1
"""The exit code of a migration that has failed, whatever the release tool makes of that."""

SHOWN_CHARACTERS = 2000
"""How much of what a tool said an error shows."""

PROGRAM = "run_agent_migrate.expressions"
HALF_WAY = (
    "a migration that was under way may have been done by half, or may still go on in the "
    "database: look there before you try again"
)

Tell = Callable[[str, str], None]
"""Takes `stdout` or `stderr`, and one line of that."""

log = logging.getLogger("migrate")

_APPLICATION = re.compile(r"[a-z][A-Za-z0-9_]{0,254}")
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")


@dataclass(frozen=True, slots=True)
class Migrating:
    """The release that is to migrate: its node, and the folder (`app`) its script is called in."""

    node: Node
    release: Release
    app: Path


@dataclass(frozen=True, slots=True)
class Migrated:
    """What was done; `versions` is none where somebody else's expression does not tell them."""

    app: str
    versions: tuple[int, ...] | None

    @property
    def message(self) -> str:
        """A sentence for people."""
        if self.versions is None:
            return f"migrated {self.app}"
        if not self.versions:
            return f"{self.app} is migrated already: nothing to do"
        many = "1 migration" if len(self.versions) == 1 else f"{len(self.versions)} migrations"
        return f"migrated {self.app}: {many} ({', '.join(map(str, self.versions))})"

    def to_json(self) -> dict[str, Any]:
        """Return it as `--json` shows it."""
        versions = None if self.versions is None else list(self.versions)
        return {"app": self.app, "versions": versions, "message": self.message}


async def migrate(
    migrating: Migrating,
    name: str | None,
    tell: Tell,
    *,
    expression: str | None = None,
    deadline: float = MIGRATION_SECONDS,
) -> Migrated:
    """Run the pending migrations of application `name`; default: the one the release is named for.

    `expression` is the controller's, in the language that the release tool evaluates; without one
    Ecto's migrator runs for the first repo of the application. `tell` gets each line that is
    printed, as it comes. `deadline` is in seconds. Raises `RunAgentError`: 64 for a name that is
    none, 65 where the application has no repos, 69 where the node does not answer, 75 past the
    deadline, and 1 with the reason where the migration fails or is cut.
    """
    app = migrating.release.name if name is None else name
    if not _APPLICATION.fullmatch(app):
        raise RunAgentError(
            f"cannot migrate {app!r}: it is no application's name; name one with -m, such as "
            "`-m my_app`",
            exit_code=os.EX_USAGE,
        )
    await _require_node(migrating.node, migrating.release)
    answer = _Answer(secrets.token_hex(16), tell)
    program = _program(app, expression, migrating.release.kind, answer.mark)
    try:
        async with turns.take(migrating.node.run, f"migrate {app}"):
            code = await _evaluate(migrating, program, answer, deadline)
        migrated = _read(answer, app, migrating, code)
    except asyncio.CancelledError:
        log.error("the migration of %s was cut: %s", app, HALF_WAY)
        raise
    except RunAgentError as error:
        log.error("%s", str(error).partition("\n")[0])  # what follows is a stack, with arguments
        raise
    log.info("%s", migrated.message)
    return migrated


class _Answer:
    """What the call prints, parted into the migration's lines, which go on, and our own.

    Tools print before and after what they evaluate; that is kept for an error, and goes no
    further.
    """

    def __init__(self, token: str, tell: Tell) -> None:
        self.mark = f"<<<{token} "
        self.begun = False
        self.kind = self.text = ""
        self.around: list[str] = []
        self._tell = tell

    def take(self, stream: str, line: str) -> None:
        before, mark, ours = line.partition(self.mark)
        if mark:
            kind, _, encoded = ours.partition(" ")
            if kind == "begun":
                self.begun = True
            elif before:
                self._tell(stream, before)
            if kind != "begun":
                self.kind, self.text = kind, base64.b64decode(encoded).decode()
        elif self.begun and not self.kind:
            self._tell(stream, line)
        else:
            self.around.append(_COLOUR.sub("", line))

    @property
    def said(self) -> str:
        return "\n".join(self.around).strip()[-SHOWN_CHARACTERS:]


async def _require_node(node: Node, release: Release) -> None:
    """Refuse within seconds what the release tool would take long to refuse, or to hang at."""
    if release.erl_call is None and release.tool is None:
        return  # there is no other way to it than the one that we are about to take
    if not await node.ping():
        raise UnavailableError(
            f"cannot migrate: the node {node.name} does not answer (it is down, still booting, "
            "hangs, or has another cookie); see `run-agent status`"
        )


async def _evaluate(migrating: Migrating, program: str, answer: _Answer, deadline: float) -> int:
    """Evaluate `program` by the release's tool; return what that ended with."""
    argv, env = _call(migrating, program)
    try:
        return await process.follow(
            argv, deadline=deadline, env=env, cwd=migrating.app, line=answer.take
        )
    except RunAgentError as error:
        if not answer.begun:
            raise
        raise RunAgentError(f"{error}; {HALF_WAY}", exit_code=error.exit_code) from error


def _program(app: str, expression: str | None, kind: Kind, mark: str) -> str:
    """Return Erlang that runs ours on the node; base64 keeps quotes out of shells and languages."""
    source = resources.files("upgrade").joinpath("erl", PROGRAM).read_bytes()
    language = "erlang" if kind in {Kind.RELX, Kind.DISTILLERY_1} else "elixir"
    return (
        f'{{ok, Tokens, _}} = erl_scan:string(base64:decode_to_string("{_base64(source)}")), '
        "{ok, Parsed} = erl_parse:parse_exprs(Tokens), "
        "{value, Value, _} = erl_eval:exprs(Parsed, ["
        f"{{'App', '{app}'}}, {{'Language', {language}}}, {{'Mark', \"{mark}\"}}, "
        f"{{'Given', base64:decode(\"{_base64((expression or '').encode())}\")}}]), Value."
    )


def _call(migrating: Migrating, erlang: str) -> tuple[tuple[str, ...], Mapping[str, str]]:
    """Return the argv and the environment that evaluate `erlang` by the release's own tool."""
    node, tool = migrating.node, migrating.release.tool
    if tool is not None:
        script = str(migrating.app / "bin" / migrating.release.name)
        return (script, *tool.evaluate(erlang)), {**node.env, **tool.show_env}
    # One name for all, since one migrates at a time: every new one stays in the node's atom table.
    own = f"run-agent-migrate@{node.name.partition('@')[2]}"
    home = erl_home.prepare(node.run, node.cookie)
    return procfile.show(node.name, own, in_elixir(erlang)), {**node.env, "HOME": str(home)}


def _read(answer: _Answer, app: str, migrating: Migrating, code: int) -> Migrated:
    match answer.kind:
        case "done":
            versions = filter(None, answer.text.split(","))
            return Migrated(app, tuple(map(int, versions)))
        case "evaluated":
            return Migrated(app, None)
        case "refused":
            raise _no_repos(app, answer.text)
        case "failed":
            raise RunAgentError(f"cannot migrate {app}: {answer.text}", exit_code=FAILED)
    if answer.begun:
        raise RunAgentError(
            f"cannot migrate {app}: it was cut, for the release's tool ended with {code} before "
            f"the migration did ({answer.said or 'and said nothing'}); {HALF_WAY}",
            exit_code=FAILED,
        )
    what = "`elixir`" if migrating.release.tool is None else f"`bin/{migrating.release.name}`"
    raise UnavailableError(
        f"cannot migrate {app}: {what} did not reach the node {migrating.node.name}, and nothing "
        f"was migrated; it ended with {code} ({answer.said or 'and said nothing'})"
    )


def _no_repos(app: str, others: str) -> RunAgentError:
    advice = f"name one that has with -m: {', '.join(others.split(','))}" if others else (
        "nor has any other application of this release, so there is nothing to migrate"
    )  # fmt: skip
    return RunAgentError(
        f"cannot migrate {app}: it has no repos (`config :{app}, ecto_repos: […]`); {advice}",
        exit_code=os.EX_DATAERR,
    )


def _base64(raw: bytes) -> str:
    return base64.b64encode(raw).decode()
