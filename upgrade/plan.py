"""Whether a running release can be changed in place, and if not, why and what to do instead.

Owns the reasons. Asks nobody and changes nothing: what the node says is given, and of the disk it
only reads the tree of the slug that is to come.
"""

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

from run_agent.release import Kind, Release
from upgrade.failures import Failure
from upgrade.model import Relup, Serving

DEPLOY = "deploy it the ordinary way (restart the replica)"
"""What always works, at the price of every connection."""

PACK = "pack the whole folder of the release, not only what an upgrade needs"


@dataclass(frozen=True, slots=True)
class Running:
    """What runs: the slug that serves, the release in the node's own tree, and its versions.

    `digest` and `label` are none for the release of an image. After a hot upgrade the node's own
    tree is still the one that it was started from.
    """

    digest: str | None
    release: Release
    serving: Serving
    label: str | None


@dataclass(frozen=True, slots=True)
class Target:
    """What is to run: a slug that lies unpacked beside the tree of the node."""

    digest: str
    release: Release
    relup: Relup | None
    label: str


@dataclass(frozen=True, slots=True)
class AlreadyThere:
    """There is nothing to do."""


@dataclass(frozen=True, slots=True)
class Refused:
    """It cannot be done in place: a sentence for a person, and what that person can do."""

    reason: str
    advice: str

    def __str__(self) -> str:
        return f"{self.reason}; {self.advice}"


@dataclass(frozen=True, slots=True)
class Hot:
    """It can be done in place; `notes` are what a person should know before."""

    notes: tuple[str, ...] = ()


_Objection: TypeAlias = tuple[str, str] | None
"""Why not, and what to do instead; none where there is nothing against it."""


def decide(
    running: Running, target: Target, *, failed: Failure | None, force: bool
) -> AlreadyThere | Refused | Hot:
    """Tell whether `target` can be put in the place of what runs.

    `failed` is how the same slug failed before; `force` tries it again nevertheless.
    """
    old, new = running.serving.version, target.release.version
    if target.digest == running.digest and new in {None, old}:
        return AlreadyThere()
    objection = (
        _no_release(target.release, "it")
        or _no_release(running.release, "what runs")
        or _not_a_whole_release(target.release)
        or _another_release(running, target)
        or _version_in_use(running, target)
        or _no_way_up(running.serving, target)
        or (None if force else _failed_before(failed))
    )
    if objection is not None:
        why, advice = objection
        to = new or f"deploy {target.label}"
        return Refused(f"cannot upgrade {old} to {to} in place: {why}", advice)
    assert target.relup is not None
    return _hot(target.relup.down_to, old, old=old, new=str(new))


def decide_down(
    running: Running, version: str, relup: Relup | None
) -> AlreadyThere | Refused | Hot:
    """Tell whether the node can go back to `version` by `relup`, that of what serves."""
    old = running.serving.version
    if version == old:
        return AlreadyThere()
    objection = (
        _no_release(running.release, "what runs")
        or _not_to_go_back_to(running.serving, version)
        or _no_way_down(old, version, relup)
    )
    if objection is not None:
        why, advice = objection
        return Refused(f"cannot downgrade {old} to {version} in place: {why}", advice)
    assert relup is not None
    return _hot(relup.up_from, version, old=old, new=version)


def _no_release(release: Release, what: str) -> _Objection:
    if release.kind is Kind.PROCFILE:
        return f"{what} is a Procfile project, which only a restart can change", DEPLOY
    return None


def _not_a_whole_release(release: Release) -> _Objection:
    """Say what a restart would miss: a hot upgrade by itself needs less than a release."""
    version = release.version
    if version is None:
        missing = "releases/start_erl.data"
    elif release.script is None and (other := _other_name(release)):
        why = f"its slug is the release {other}, and not {release.name}"
        return why, f"build it as {release.name}, or deploy it with customer_app_name {other}"
    elif release.script is None:
        missing = f"bin/{release.name}"
    elif release.kind is Kind.MIX and not _in_version(release, "env.sh"):
        missing = f"releases/{version}/env.sh"
    else:
        return None
    return f"its slug has no {missing}, so no restart could boot it", PACK


def _another_release(running: Running, target: Target) -> _Objection:
    before, after = running.release, target.release
    erts = _erts(after)
    if before.kind is not after.kind:
        why = f"it was built by {after.kind}, and what runs by {before.kind}"
    elif before.name != after.name:
        why = f"it is the release {after.name}, and what runs is {before.name}"
    elif erts != running.serving.erts:
        why = f"it needs Erlang's ERTS {erts}, and the node runs {running.serving.erts}"
    else:
        return None
    return why, DEPLOY


def _version_in_use(running: Running, target: Target) -> _Objection:
    serving, new = running.serving, str(target.release.version)
    status = serving.status_of(new)
    if new == serving.version:
        of = f"deploy {running.label}" if running.label else "what runs"
        why = f"deploy {target.label} has the version of {of}, but is another slug"
        return why, f"raise its version, or {DEPLOY}"
    if status not in {None, "old", "unpacked"}:
        why = f"on the node {new} is {status}, though {serving.version} serves: a change was cut"
        return why, "restart the replica, and try again"
    if new == running.release.version:
        why = f"the node was started in {new}, whose files are in its way"
        return why, f"go back by `run-agent downgrade {new}`, or {DEPLOY}"
    return None


def _no_way_up(serving: Serving, target: Target) -> _Objection:
    old, new, relup = serving.version, str(target.release.version), target.relup
    if relup is None:
        why = f"it has no releases/{new}/relup"
        return why, f"build it with a relup from {old}, or {DEPLOY}"
    if relup.version != new:
        why = f"its relup is one of {relup.version}"
        return why, f"build it with a relup from {old} to {new}, or {DEPLOY}"
    if old not in relup.up_from:
        why = f"its relup has no way from {old}{_only('from', relup.up_from)}"
        return why, f"build it with a relup from {old}, or {DEPLOY}"
    if relup.up_from[old]:
        return "its relup restarts the emulator, which ends every connection", DEPLOY
    return None


def _not_to_go_back_to(serving: Serving, version: str) -> _Objection:
    status = serving.status_of(version)
    if status == "old":
        return None
    old = [known.version for known in serving.known if known.status == "old"]
    if status is None:
        back = f"it can go back to {_listed(old)}"
        none = "there is no older version to go back to"
        why = f"the node does not know {version}; {back if old else none}"
    else:
        why = f"on the node {version} is {status}, not a version that served before"
    return why, DEPLOY


def _no_way_down(old: str, version: str, relup: Relup | None) -> _Objection:
    if relup is None or relup.version != old:
        return f"{old} was built without a relup", DEPLOY
    if version not in relup.down_to:
        why = f"the relup of {old} has no way down to it{_only('to', relup.down_to)}"
        return why, DEPLOY
    if relup.down_to[version]:
        return f"the relup of {old} restarts the emulator, which ends every connection", DEPLOY
    return None


def _failed_before(failed: Failure | None) -> _Objection:
    if failed is None:
        return None
    at = dt.datetime.fromtimestamp(failed.at, dt.UTC).isoformat(" ", "seconds")
    return f"the same slug failed at {at}: {failed.reason}", "--force tries again"


def _hot(ways_back: Mapping[str, bool], way: str, *, old: str, new: str) -> Hot:
    """Say before what a failure of `new` would cost; `way` is what the relup calls the way back."""
    if way not in ways_back:
        note = f"there is no way back to {old} by the relup"
    elif ways_back[way]:
        note = f"the relup's way back to {old} restarts the emulator"
    else:
        return Hot()
    return Hot((f"{note}: if {new} fails, the release is started again in {old}",))


def _other_name(release: Release) -> str | None:
    """Return what the slug's own files call the release, where that is another name."""
    found = (release.tree / "releases" / str(release.version)).glob("*.rel")
    names = {path.stem for path in found}
    return None if release.name in names else min(names, default=None)


def _in_version(release: Release, name: str) -> bool:
    return (release.tree / "releases" / str(release.version) / name).is_file()


def _erts(release: Release) -> str:
    """Return the version of the ERTS that a start would look for."""
    text = (release.tree / "releases" / "start_erl.data").read_text(errors="surrogateescape")
    return text.split()[0]


def _only(way: str, versions: Mapping[str, bool]) -> str:
    return f", only {way} {_listed(versions)}" if versions else ""


def _listed(versions: Mapping[str, bool] | list[str]) -> str:
    return ", ".join(sorted(versions))
