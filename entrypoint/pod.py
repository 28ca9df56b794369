"""What our pod is told: the replica's state as a report, and what happened to it as Events.

Reads the replica and judges what is worth telling; how it gets there is `run_agent.cluster`.
"""

import asyncio
import calendar
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from entrypoint.init import marker
from entrypoint.replica import LastChange, Replica
from run_agent.cluster.account import Account
from run_agent.cluster.report import Condition, Event, Report
from run_agent.cluster.teller import Teller
from run_agent.errors import RunAgentError
from upgrade.outcome import Verdict

STALE_KEYS_SECONDS = 600.0
"""From this age on a list of SSH keys that cannot be fetched is worth an Event: ten periods."""

KILL_AGAIN_SECONDS = 600.0
"""How far apart Events of kills that read alike are: telling takes memory, which is what lacks."""

EVENT_SECONDS = 3600.0
"""How long the API keeps an Event (kube-apiserver, --event-ttl): until then it knows what the agent
before us has told it."""

SAME_AGAIN_SECONDS = 600.0
"""From this age on the time of the last change gives way to that of one more that ended alike."""

LAST_WORDS_SECONDS = 3.0
"""How long an agent whose boot has failed may take to tell the pod so; what starts the container
again waits longer."""

OF_BEFORE = {marker.OUT_OF_MEMORY: "OutOfMemory", marker.CUT: "CutOff"}
"""How an Event calls the end of the run before, by the reason that PID 1 found."""

OF_UPGRADE = {
    Verdict.DONE: "UpgradeDone",
    Verdict.REFUSED: "UpgradeRefused",
    Verdict.UNCHANGED: "UpgradeFailed",
    Verdict.RECOVERED: "RolledBack",
    Verdict.DOWN: "UpgradeFailed",
}
OF_DOWNGRADE = OF_UPGRADE | {Verdict.DONE: "RolledBack"}


class Pod:
    """Our pod, for the life of one agent."""

    def __init__(self, account: Account, replica: Replica) -> None:
        self._teller = Teller(account)
        self._replica = replica
        self._change = replica.facts.last_change  # an agent before us saw to its Event
        self._told_kill: Mapping[str, Any] | None = None
        self._keys_are_stale = False

    def start(self, tasks: asyncio.TaskGroup, before: Mapping[str, str] | None) -> None:
        """Begin to tell; `before` is how the run before this one ended, if not in order.

        That is told by who boots: a later agent does not know whether the API has forgotten it.
        """
        tasks.create_task(self._teller.run(), name="tells our pod")
        if before is not None and self._replica.release["state"] == "none":
            reason = OF_BEFORE[before["reason"]]
            at = _seconds(before["at"])
            self._teller.event(Event(reason, before["message"], at, warning=True))

    def update(self) -> None:
        """Have the pod say how the replica is now; waits for nobody."""
        for event in self._happened():
            self._teller.event(event)
        leaving = self._replica.draining or self._replica.stopping
        said = report(self._replica, self._change, condition(self._replica))
        since = self._replica.verdict()["since"] if said.condition.status else None
        self._teller.report(said, since=since and _seconds(since), at_once=leaving)

    async def boot_failed(self, error: RunAgentError) -> None:
        """Tell why there will be no release; takes 3 s at most, and never raises."""
        failed = Condition(status=False, reason="BootFailed", message=str(error))
        self._teller.report(report(self._replica, self._change, failed), at_once=True)
        self._teller.event(Event("BootFailed", str(error), time.time(), warning=True))
        await self._teller.last_words(LAST_WORDS_SECONDS)

    def status(self) -> Mapping[str, Any]:
        """Return what `run-agent status` shows."""
        return self._teller.status()

    def _happened(self) -> Iterator[Event]:
        """Give what has happened since the last look."""
        now, change = time.time(), self._replica.facts.last_change
        before = self._change
        if change is not None and (before is None or not _says_the_same(change, before)):
            self._change = change
            if event := of_change(change, now):
                yield event
        elif before is not None and now - _seconds(before.at) >= SAME_AGAIN_SECONDS:
            self._change = change
        kill = self._replica.release.get("last_kill")
        if kill and _is_news(kill, self._told_kill, now):
            self._told_kill = kill
            yield Event("OutOfMemory", kill["message"], kill["at"], warning=True)
        stale = stale_keys(self._replica.ssh_keys)
        if stale and not self._keys_are_stale:
            yield Event("SshKeysStale", stale, now, warning=True)
        self._keys_are_stale = stale is not None


def report(replica: Replica, change: LastChange | None, condition: Condition) -> Report:
    """Return what the pod is to say of the replica, and of the last `change` to it."""
    facts = replica.facts
    return Report(
        labels={"deploy": facts.deploy, "version": facts.version},
        annotations={
            "version": facts.version,
            "slug-digest": facts.digest,
            "hot-upgraded-at": facts.hot_upgraded_at,
            "last-operation": change.verb if change else None,
            "last-verdict": change.verdict if change else None,
            "last-operation-at": change.at if change else None,
        },
        condition=condition,
    )


def condition(replica: Replica) -> Condition:
    """Return whether the release takes requests, and why not."""
    facts = replica.facts
    waits = "; ".join(str(wait["what"]) for wait in replica.waits())
    waiting = waits and f"waiting for {waits}"
    if replica.stopping:
        return Condition(status=False, reason="Stopping")
    if replica.release.get("state") == "none":
        return Condition(status=False, reason="Booting", message=waiting)
    if replica.release.get("state") != "running":
        return Condition(status=False, reason="ReleaseEnded", message=_end(replica.release))
    if replica.draining:
        return Condition(status=False, reason="Draining", message="by `run-agent drain`")
    if not replica.is_ready:
        return Condition(status=False, reason="NotReady", message=waiting)
    serves = " ".join(word for word in (facts.release, facts.version) if word)
    return Condition(status=True, reason="Ready", message=serves and f"{serves} serves")


def _end(release: Mapping[str, Any]) -> str:
    """Say how a release has ended, and whether it comes back."""
    ended = release.get("out_of_memory") or f"exit code {release.get('code')}"
    return f"{ended}; it is started again" if release["state"] == "backoff" else ended


def _says_the_same(change: LastChange, before: LastChange) -> bool:
    """Tell whether it is one try more that ended alike, as FOLLOW=hot makes them in an outage."""
    return replace(change, at=before.at) == before


def _is_news(kill: Mapping[str, Any], told: Mapping[str, Any] | None, now: float) -> bool:
    """Tell whether a kill for want of memory is worth an Event, after the one `told` last."""
    if told is not None and told["message"] == kill["message"]:
        return bool(kill["at"] - told["at"] >= KILL_AGAIN_SECONDS)
    return bool(now - kill["at"] < EVENT_SECONDS)


def of_change(change: LastChange, at: float) -> Event | None:
    """Return the Event that a change of version deserves; none where nothing was to be done."""
    reasons = {"upgrade": OF_UPGRADE, "downgrade": OF_DOWNGRADE}.get(change.verb, {})
    if change.verdict not in reasons:
        return None
    reason = reasons[Verdict(change.verdict)]
    return Event(reason, change.message, at, warning=change.verdict != Verdict.DONE)


def stale_keys(keys: Mapping[str, Any] | None) -> str | None:
    """Say what keeps the list of SSH keys from being fresh, once that has lasted."""
    if keys is None or keys["problem"] is None:
        return None
    age = keys["age_seconds"]
    if age is not None and age < STALE_KEYS_SECONDS:
        return None
    kept = "there is no list" if age is None else f"the list is {round(age / 60)} min old"
    return f"{keys['problem']}; {kept}"


def _seconds(at: str) -> float:
    """Return a time as PID 1 and the replica write it in epoch seconds."""
    return calendar.timegm(time.strptime(at, marker.TIME))
