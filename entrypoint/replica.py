"""What the agent knows of its replica: the facts its successor inherits, and the readiness.

Pure state: it asks nobody and sends nothing. `verdict` is what the probes answer, `status` what
a person reads, `memo` what PID 1 keeps for the next agent.
"""

import time
from dataclasses import asdict, dataclass, field, replace
from typing import Any


@dataclass(frozen=True, slots=True)
class LastChange:
    """How the last change in place ended: `verdict` in a few words, `message` as a sentence."""

    verb: str
    at: str
    verdict: str
    message: str


@dataclass(frozen=True, slots=True)
class Facts:
    """What was booted. Holds no secret: PID 1 keeps it, and `status` shows it."""

    app: str
    node: str | None = None
    deploy: str | None = None
    digest: str | None = None
    started: str | None = (
        None  # the slug in whose tree the node began; a change in place stays there
    )
    kind: str | None = None
    version: str | None = None
    release: str | None = None
    port: int | None = None
    pid: int | None = None  # the process of which all this was learned
    good: bool = False
    last_change: LastChange | None = None
    hot_upgraded_at: str | None = None  # since the container's start
    followed: str | None = None  # by what FOLLOW=hot knows a deploy that it has judged
    notes: tuple[str, ...] = ()

    def described(self) -> str:
        """Return in a few words what was booted, as far as it is known."""
        what = " ".join(word for word in (self.release, self.version) if word)
        node = f" as {self.node}" if self.node else ""
        port = f", port {self.port}" if self.port else ""
        return f"{what}{node}{port}"


@dataclass(slots=True)
class Replica:
    """The facts, the state of the release, and what the replica still waits for."""

    facts: Facts
    release: dict[str, Any] = field(default_factory=dict)
    draining: bool = False
    stopping: bool = False
    ssh_keys: dict[str, Any] | None = None
    nodes: dict[str, Any] | None = None
    change: dict[str, Any] | None = None
    _waits: dict[str, tuple[str, float]] = field(default_factory=dict)
    _ready_since: str | None = None

    @classmethod
    def from_hello(cls, hello: dict[str, Any], app: str) -> "Replica":
        """Go on where the last agent ended, or begin."""
        memo = hello["memo"] or {"app": app}
        last = memo.get("last_change")
        facts = Facts(
            **memo
            | {
                "notes": tuple(memo.get("notes", ())),
                "last_change": LastChange(**last) if last else None,
            }
        )
        replica = cls(facts, release=hello["release"], draining=hello["draining"])
        if hello["busy"]:
            began = {
                "what": hello["busy"],
                "since": None,
                "by": None,
                "step": "begun by an agent before this",
            }
            replica.change = began
        verdict = hello["verdict"]
        of_this_release = verdict.get("release_pid") == hello["release"].get("pid")
        if of_this_release:
            replica._ready_since = verdict["since"] if verdict.get("ready") else None
            replica.nodes = verdict.get("nodes")
        return replica

    def learn(self, **facts: object) -> None:
        """Replace some of the facts."""
        self.facts = replace(self.facts, **facts)  # type: ignore[arg-type]

    def note(self, text: str) -> None:
        """Keep something that `status` and `/readyz` say as long as this deploy runs."""
        self.learn(notes=(*self.facts.notes, text))

    def wait_for(self, task: str, what: str | None) -> None:
        """Say what `task` waits for; None when it waits no longer. Keeps the time of the first."""
        if what is None:
            self._waits.pop(task, None)
        else:
            self._waits[task] = (what, self._waits.get(task, (what, time.time()))[1])

    def set_ready(self, *, ready: bool) -> None:
        """Record the outcome of the readiness check."""
        if ready and self._ready_since is None:
            self._ready_since = _iso(time.time())
        elif not ready:
            self._ready_since = None

    @property
    def is_ready(self) -> bool:
        """Whether the app itself is ready, a drain or a stop left aside."""
        return self._ready_since is not None

    def waits(self) -> list[dict[str, str | None]]:
        """List what is being waited for, and since when."""
        return [{"what": what, "since": _iso(since)} for what, since in self._waits.values()]

    def memo(self) -> dict[str, Any]:
        """Return what a successor must know."""
        return asdict(self.facts)

    def verdict(self) -> dict[str, Any]:
        """Return the body of `/readyz`; PID 1 adds what it knows better."""
        return {
            "ready": self.is_ready,
            "since": self._ready_since,
            "waits_for": self.waits(),
            "app": self.facts.app,
            "deploy": self.facts.deploy,
            "version": self.facts.version,
            "node": self.facts.node,
            "notes": list(self.facts.notes),
            "nodes": self.nodes,
            "ssh_keys": self.ssh_keys,
            "release_pid": self.release.get("pid"),
        }

    @property
    def serves(self) -> bool:
        """Whether the replica is to get requests: ready, and neither drained nor stopping."""
        running = self.release.get("state") == "running"
        return running and self.is_ready and not self.draining and not self.stopping

    def status(self) -> dict[str, Any]:
        """Return what `run-agent status` shows."""
        return self.memo() | self.verdict() | {
            "ready": self.serves,
            "change": self.change,
            "draining": self.draining,
            "stopping": self.stopping,
            "release_state": self.release.get("state"),
            "release_started_at": _iso(self.release.get("started_at")),
            "release_exit_code": self.release.get("code"),
        }  # fmt: skip


def _iso(at: float | None) -> str | None:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(at)) if at else None
