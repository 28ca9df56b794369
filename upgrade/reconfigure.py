"""Give the running release another configuration without a restart; all of it or nothing.

Owns what differs between two environments, what of that a running node can take, and the change on
the node. Must not fetch or build an environment, nor keep the new one: the caller does. Names are
shown, values never.
"""

import asyncio
import logging
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from run_agent import process, turns
from run_agent.errors import RunAgentError
from run_agent.node import NO_ANSWER, Node
from run_agent.redaction import redacted
from run_agent.release import Kind, Release
from run_agent.release.erlang_term import Atom, Term
from upgrade import on_node, os_vars, releases
from upgrade.outcome import EXIT_CODES, RefusedError, Verdict

CHANGE_SECONDS = 20
"""How long providers and the applications' config_change may take together: milliseconds are usual,
a provider that asks a server may need some."""

ANSWER_SECONDS = 45.0
"""How long the node may take to answer: the above, and the same for the way back."""

SCRIPT_SECONDS = 30.0
"""How long Distillery's reload_config may take, which starts two VMs."""

FIXED = frozenset(
    {
        "ERLANG_COOKIE", "MY_COOKIE", "MY_NODE_NAME", "RELEASE_COOKIE", "RELEASE_DISTRIBUTION",
        "RELEASE_NODE",
    }
)  # fmt: skip
"""Variables that name the node and its cookie: not even the node's environment takes others."""

READ_AT_BOOT = frozenset(
    {
        "ELIXIR_ERL_OPTIONS", "ERL_AFLAGS", "ERL_EPMD_ADDRESS", "ERL_EPMD_PORT",
        "ERL_FLAGS", "ERL_INETRC", "ERL_LIBS", "ERL_ZFLAGS", "GIGALIXIR_DEFAULT_VMARGS", "LANG",
        "LC_ALL", "LC_CTYPE", "RELEASE_BOOT_SCRIPT", "RELEASE_MODE", "RELEASE_MUTABLE_DIR",
        "RELEASE_SYS_CONFIG", "RELEASE_TMP", "RELEASE_VM_ARGS", "RELX_CONFIG_PATH",
        "RELX_OUT_FILE_PATH", "RELX_REPLACE_OS_VARS", "REPLACE_OS_VARS", "VMARGS_PATH",
    }
)  # fmt: skip
"""What the start scripts and the emulator read, whatever the release is."""

log = logging.getLogger("reconfigure")

_MENTION = re.compile(r"\$\{?([A-Za-z_][A-Za-z0-9_]*)")


@dataclass(frozen=True, slots=True)
class Differences:
    """Names only: what is set to another value, what goes, and what of it wants a restart."""

    set: tuple[str, ...] = ()
    unset: tuple[str, ...] = ()
    restart: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """All names that differ."""
        return tuple(sorted((*self.set, *self.unset)))

    @property
    def hot(self) -> tuple[str, ...]:
        """The names that the node's environment takes."""
        return tuple(name for name in self.names if name not in FIXED)


@dataclass(frozen=True, slots=True)
class Reconfigured:
    """What was done, or with `dry_run` what would be; `applications` maps names to changed keys."""

    differences: Differences
    dry_run: bool = False
    applications: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return it as `--json` shows it."""
        return {
            "dry_run": self.dry_run,
            "set": list(self.differences.set),
            "unset": list(self.differences.unset),
            "restart": list(self.differences.restart),
            "applications": {name: list(keys) for name, keys in self.applications.items()},
        }


@dataclass(frozen=True, slots=True)
class Reconfiguration:
    """One release and its node, and the environment that it has and that it is to have.

    `app` is the folder in which the release's script is called.
    """

    node: Node
    release: Release
    app: Path
    env_before: Mapping[str, str] = field(repr=False)
    env_after: Mapping[str, str] = field(repr=False)


def compare(
    before: Mapping[str, str], after: Mapping[str, str], boot_texts: Iterable[str] = ()
) -> Differences:
    """Tell by name how two environments differ.

    `boot_texts` are the texts of files in which variables are replaced at the start only.
    """
    changed = {name for name in after if before.get(name) != after[name]}
    gone = before.keys() - after.keys()
    at_boot = FIXED | READ_AT_BOOT | {name for text in boot_texts for name in _mentioned(text)}
    strange = {name for name in changed if not _is_text(after[name])}
    return Differences(
        set=tuple(sorted(changed)),
        unset=tuple(sorted(gone)),
        restart=tuple(sorted((changed | gone) & at_boot | strange)),
    )


async def apply(wanted: Reconfiguration, *, dry_run: bool = False) -> Reconfigured:
    """Put the new environment into the node, and what comes of it into its applications.

    Keys that an application has set itself and that no configuration names stay. With `dry_run`
    nothing is touched. Raises `RefusedError` (10) for a project without a release, `RunAgentError`
    11 with the reason where everything is as before, 12 where an application did not take its old
    configuration back, 13 where the node fell silent, and 69 or 75 where it did not answer at all.
    """
    if wanted.release.tool is None:
        raise RefusedError(
            "cannot reconfigure a Procfile project in place: nothing here knows how it computes "
            "its configuration; restart the replica, which takes the new one"
        )
    root, folder = await _serving(wanted)
    differences = compare(
        wanted.env_before,
        wanted.env_after,
        await asyncio.to_thread(_boot_texts, folder, wanted.env_before.get("VMARGS_PATH")),
    )
    if dry_run or not differences.names:
        return Reconfigured(differences, dry_run)
    if wanted.release.kind is Kind.DISTILLERY_2:
        applications = await _reload(wanted, differences)
    else:
        how = await asyncio.to_thread(_how, wanted, root, folder)
        applications = await _change(wanted, differences, how)
    changed = ", ".join(applications) or "none"
    log.info("reconfigured: %s; applications: %s", ", ".join(differences.names), changed)
    return Reconfigured(differences, applications=applications)


async def _serving(wanted: Reconfiguration) -> tuple[Path, Path]:
    """Return the node's tree, and in it the folder of the version that serves.

    A release without sasl knows of no versions: it has the one that it was started with.
    """
    try:
        serving = await releases.serving(wanted.node)
    except RunAgentError as error:
        if error.exit_code in NO_ANSWER or wanted.release.version is None:
            raise
        root, version = wanted.release.tree.resolve(), wanted.release.version
    else:
        root, version = serving.root, serving.version
    return root, root / "releases" / version


async def _change(
    wanted: Reconfiguration, differences: Differences, how: Term
) -> dict[str, tuple[str, ...]]:
    """Have the node change, and judge its answer."""
    hot = [name for name in differences.hot if _is_text(wanted.env_after.get(name, ""))]
    try:
        answer = await on_node.call(
            wanted.node, wanted.node.run, "run_agent_reconfigure", "change",
            how,
            [(name, wanted.env_after[name]) for name in hot if name in wanted.env_after],
            [name for name in hot if name not in wanted.env_after],
            CHANGE_SECONDS,
            deadline=ANSWER_SECONDS,
        )  # fmt: skip
    except RunAgentError as error:
        if error.exit_code not in NO_ANSWER:
            raise
        raise RunAgentError(
            f"{error}; it is not known what of the new configuration it has: restart the replica",
            exit_code=EXIT_CODES[Verdict.DOWN],
        ) from error
    match answer:
        case (Atom("done"), list(applications)):
            return dict(map(_keys, applications))
        case (Atom("failed"), what, why):
            shown = _redacted(on_node.text(why), wanted, differences)
            changed = ", ".join(differences.names)
            raise _failed(f"{on_node.text(what)}: {shown}; these have changed: {changed}")
        case (Atom("broken"), what, why, list(lost)):
            shown = _redacted(on_node.text(why), wanted, differences)
            raise RunAgentError(
                f"cannot reconfigure: {on_node.text(what)} ({shown}), and did not take the old one "
                f"back: {', '.join(map(on_node.text, lost))}; restart the replica",
                exit_code=EXIT_CODES[Verdict.RECOVERED],
            )
    raise RunAgentError(f"cannot reconfigure: the node {wanted.node.name} gave a strange answer")


def _keys(application: Term) -> tuple[str, tuple[str, ...]]:
    assert isinstance(application, tuple)
    name, keys = application
    assert isinstance(keys, list)
    return on_node.text(name), tuple(map(on_node.text, keys))


async def _reload(wanted: Reconfiguration, differences: Differences) -> dict[str, tuple[str, ...]]:
    """Use Distillery 2's own `reload_config`: only its script knows how its providers run.

    It tells the applications itself, but neither the node's environment nor keys that are gone.
    """
    mutable = Path(wanted.env_after.get("RELEASE_MUTABLE_DIR") or wanted.app / "var")
    written = mutable / "sys.config"
    # A tree that a hot upgrade has led to may not have been configured yet.
    before = await asyncio.to_thread(_text, written) if written.is_file() else None
    try:
        now = await _reload_config(wanted, differences, wanted.env_after, written)
        former = now if before is None else before
        return await _change(wanted, differences, (Atom("texts"), former, now))
    except RunAgentError as error:
        await _reload_former(wanted, differences, written, error)
        raise


async def _reload_former(
    wanted: Reconfiguration, differences: Differences, written: Path, error: RunAgentError
) -> None:
    try:
        await _reload_config(wanted, differences, wanted.env_before, written)
    except RunAgentError as again:
        raise RunAgentError(
            f"{error}; and the former configuration could not be loaded again ({again}); "
            "restart the replica",
            exit_code=EXIT_CODES[Verdict.RECOVERED],
        ) from again


async def _reload_config(
    wanted: Reconfiguration, differences: Differences, env: Mapping[str, str], written: Path
) -> str:
    """Have the script do it; return the sys.config that it has `written`."""
    script = str(wanted.app / "bin" / wanted.release.name)
    # Every later call of the script writes that file again, without the providers.
    async with turns.take(wanted.node.run, "reload_config"):
        done = await process.run(
            (script, "reload_config"), deadline=SCRIPT_SECONDS, env=env, cwd=wanted.app
        )
        if done.code == 0:
            return await asyncio.to_thread(_text, written)
    said = (done.stdout + done.stderr).decode(errors="replace")
    raise _failed(f"reload_config ended with {done.code}: {_redacted(said, wanted, differences)}")


def _how(wanted: Reconfiguration, root: Path, folder: Path) -> Term:
    """Tell how the configuration comes of the environment; reads the release's files."""
    if wanted.release.kind is Kind.MIX:
        return (Atom("providers"), str(folder / "sys.config"))
    text, replaces = _template(wanted, root, folder)
    if not replaces:
        return (Atom("texts"), text, text)
    try:
        before, now = (_replaced(text, env) for env in (wanted.env_before, wanted.env_after))
    except RunAgentError as error:
        raise _failed(str(error)) from error
    return (Atom("texts"), before, now)


def _template(wanted: Reconfiguration, root: Path, folder: Path) -> tuple[str, bool]:
    """Return the sys.config before variables are replaced, and whether they are.

    As the start scripts look for it: relx keeps the original beside what it has replaced.
    """
    given = wanted.env_before.get("RELX_CONFIG_PATH")
    path = Path(given) if given else folder / "sys.config"
    if not given and wanted.release.kind is Kind.RELX and (root / "sys.config").is_file():
        path = root / "sys.config"
    if wanted.release.kind is not Kind.RELX:
        return _text(path), wanted.env_before.get("REPLACE_OS_VARS") == "true"
    source, original = (path.with_name(path.name + suffix) for suffix in (".src", ".orig"))
    if source.is_file():
        return _text(source), True
    replaces = bool(wanted.env_before.get("RELX_REPLACE_OS_VARS"))
    return _text(original if original.is_file() else path), replaces


def _replaced(text: str, env: Mapping[str, str]) -> str:
    return os.fsdecode(os_vars.replaced(os.fsencode(text), env))


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except (OSError, ValueError) as error:
        raise _failed(f"{path} cannot be read ({error})") from error


def _boot_texts(folder: Path, vm_args: str | None) -> list[str]:
    """Read what is there of the files whose variables are replaced at the start, and only there."""
    paths = [folder / "env.sh"]
    if vm_args:
        paths.append(Path(vm_args))
    else:
        paths += [folder / f"vm.args{suffix}" for suffix in ("", ".src", ".orig")]
    return [path.read_text(errors="replace") for path in paths if path.is_file()]


def _mentioned(text: str) -> Iterator[str]:
    for line in text.splitlines():
        if not line.lstrip().startswith("#"):
            yield from _MENTION.findall(line)


def _is_text(value: str) -> bool:
    """Tell whether a node can be given the value, which it takes as characters."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _redacted(reason: str, wanted: Reconfiguration, differences: Differences) -> str:
    """Put names where a reason quotes a value, first of all the names of what has changed."""
    before, after = wanted.env_before, wanted.env_after
    changed = [
        {name: env[name] for name in differences.names if name in env} for env in (before, after)
    ]
    return redacted(reason, *changed, before, after, keep=(wanted.release.name,))


def _failed(why: str) -> RunAgentError:
    return RunAgentError(
        f"cannot reconfigure, and nothing has changed: {why}",
        exit_code=EXIT_CODES[Verdict.UNCHANGED],
    )
