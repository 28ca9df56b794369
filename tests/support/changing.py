"""A release that is changed while it runs: begun, watched step by step, and judged in the end.

site = Site(platform, "mix")
change = site.upgrade("raising")        # begun; `change.until("installing")` waits for a step
assert change.end().code == 12
site.assert_sound(serves="0.1.0")       # this and what `assert_sound` says, the next upgrade too
"""

import gzip
import itertools
import json
import os
import re
import socket
import subprocess
import threading
from collections.abc import Mapping
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from entrypoint import ask as asking
from run_agent.errors import RunAgentError
from support import upgrade_slugs
from support.http_server import Answer
from support.platform import Platform, ask, half_done, until_kept, volume
from support.replica import RUN_AGENT, Replica
from support.wait import PATIENCE_SECONDS, until

OLD, NEW, NEWEST = "0.1.0", "0.2.0", "0.3.0"

STEPS = ("fetching", "placing", "installing", "verifying", "permanent")
"""Words by which an upgrade tells its steps, in order."""

UP_SECONDS = 60.0
"""How long a node may take to start on a machine that is busy with other tests."""

CHANGE_SECONDS = 120.0
"""How long a change may take with everything that can go wrong in it."""

SETTINGS = {"UPGRADE_SETTLE_SECONDS": "0.2", "UPGRADE_VERIFY_SECONDS": "15"}

TEMPORARY = re.compile(r"\.(bak|original|kept|new|orig\.tmp)$|^\.partial-")
"""Names that somebody gives to what is there for the time of a step alone."""

HALF_WRITTEN = re.compile(r"(^|/)\.[^/]*\.new$")
"""Names of files that are being replaced, or whose writer did not get to the end."""

NEW_ONES = re.compile(rf"(^|/)([^/]*-)?{re.escape(NEW)}(/|$)|^lib/greeter-1\.0\.0")
"""What 0.2.0 brings to a tree: releases/0.2.0, bin/hello-0.2.0, and its libraries."""


@dataclass(frozen=True)
class Ended:
    """How the verb ended: `outcome` is what it printed as JSON, `said` its stderr."""

    code: int
    outcome: Mapping[str, Any]
    said: str


class Change:
    """A verb that changes the release, as a process of its own."""

    def __init__(self, replica: Replica, *arguments: str) -> None:
        self.process = subprocess.Popen(
            (*RUN_AGENT, *arguments, "--json"),
            env=replica.environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._lines: list[str] = []
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def until(self, step: str) -> "Change":
        """Wait until it tells of that step."""
        until(
            lambda: any(step in line for line in self._lines) or self._over(step),
            lambda: f"{step!r} in {self._lines}",
            CHANGE_SECONDS,
            every=0.001,
        )
        return self

    def end(self) -> Ended:
        """Wait for its end."""
        code = self.process.wait(CHANGE_SECONDS)
        self._reader.join()
        with self.process.stdout as out:
            printed = out.read()
        return Ended(code, json.loads(printed) if printed else {}, "".join(self._lines))

    def ends_within(self, seconds: float) -> bool:
        """Wait for its end, but no longer."""
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(seconds)
        return self.process.poll() is not None

    def kill(self) -> None:
        """Kill the client: what it asked for goes on."""
        self.process.kill()
        self.end()

    def _read(self) -> None:
        with self.process.stderr as lines:
            for line in lines:
                self._lines.append(line)

    def _over(self, step: str) -> bool:
        assert self._reader.is_alive() or any(step in line for line in self._lines), (
            f"it ended before {step!r}: {self._lines}"
        )
        return False


class Site:
    """A replica of that kind of release in 0.1.0, ready, and the versions it can be changed to."""

    def __init__(
        self,
        platform: Platform,
        kind: str,
        settings: Mapping[str, str] | None = None,
        **options: Any,
    ) -> None:
        self.platform, self.kind = platform, kind
        self._builds = itertools.count(1)
        self._settings, self._options = SETTINGS | (settings or {}), options
        self.deploy("good", OLD)
        self.begun(platform.boot(settings=self._settings, **options))

    def begun(self, replica: Replica) -> None:
        """Take a replica, once it is ready, as one that nothing has changed."""
        self.replica = replica.until_ready(UP_SECONDS)
        self.tree = self.running_tree()
        until_kept(self.replica, self.tree.name)
        self.assert_told()
        self._files = files_below(self.tree)
        self._run_files = files_below(self.run)

    @property
    def run(self) -> Path:
        return self.replica.root / "run" / "run-agent"

    def running_tree(self) -> Path:
        """Return the tree that a restart boots."""
        return (volume(self.replica.root) / "current").resolve()

    def deploy(self, variant: str, version: str = NEW, **fields: Any) -> str:
        """Make a build the current deploy, and return its digest."""
        slug = upgrade_slugs.slug(self.kind, version, variant).read_bytes()
        return self.platform.deploy(slug, version=f"{version}-{variant}", **fields)

    def upgrade_anew(self, until: str) -> Change:
        """Begin the upgrade to 0.2.0 in a slug that was never seen before, up to that step."""
        slug = upgrade_slugs.slug(self.kind, NEW).read_bytes()
        slug += gzip.compress(b"", mtime=next(self._builds))  # says nothing, but has a digest
        usual = Answer(slowly=until == "fetching")
        self.platform.deploy(slug, version=f"{NEW}-anew", usual=usual)
        return Change(self.replica, "upgrade").until(until)

    def start_again(self, variant: str = "good", version: str = OLD) -> None:
        """Start a container on the volume of the one that has ended, for that deploy."""
        before, files = self.tree, self._files
        self.deploy(variant, version)
        self.replica.err.unlink()
        again = self.platform.boot(root=self.replica.root, settings=self._settings, **self._options)
        self.begun(again)
        self._assert("what serves", self.assert_told(), version)
        if self.tree == before:
            self._files = files
        self.assert_nothing_left(version)

    def upgrade(
        self, variant: str = "good", *arguments: str, version: str = NEW, **fields: Any
    ) -> Change:
        """Begin the upgrade to that build."""
        self.deploy(variant, version, **fields)
        return Change(self.replica, "upgrade", *arguments)

    def back(self) -> None:
        """Go back to 0.1.0, as one test has another fault to see."""
        ended = Change(self.replica, "downgrade", OLD).end()
        assert (ended.code, ended.outcome["serves"]) == (0, OLD), (ended, self.replica.log)

    # -- what is true ---------------------------------------------------------------------------

    def serves(self) -> str:
        """Return the version that answers by HTTP and by the line protocol, which must agree."""
        by_http = ask(self.replica, "/")[1].decode().split()[0].removeprefix("version=")
        with Line(self.replica) as line:
            by_line = line.say("hello").split()[0]
        assert by_http == by_line, f"{by_http} by HTTP, {by_line} by the line protocol"
        return by_http

    def status(self) -> dict[str, Any]:
        return self._told("status")

    def releases(self) -> dict[str, Any]:
        return self._told("releases")

    def _told(self, verb: str) -> dict[str, Any]:
        """Return what the verb prints with `--json`, asked for without a process: that is slow."""
        *_, last = asking.call(self.run / "control.sock", verb)
        told: dict[str, Any] = last["result"]
        return told

    def until_quiet(self) -> None:
        """Wait until an agent tells that nothing is under way, and the release is ready."""

        def quiet() -> bool:
            with suppress(RunAgentError):  # while no agent runs
                status = self.status()
                return status["ready"] and status["change"] is None and not self._journal().exists()
            return False

        until(quiet, lambda: f"it is not over: {self.replica.log}", UP_SECONDS, every=0.05)

    def assert_sound(self, serves: str | None = None) -> None:
        """Fail unless one version serves, all agree, nothing is left over, and upgrades work.

        `serves` is the version that it must be. The next upgrade, in the end, leads from 0.1.0 to
        another build of 0.2.0, and from there to 0.3.0.
        """
        self.until_quiet()
        version = self.assert_told()
        if serves is not None:
            self._assert("what serves", version, serves)
        self.assert_nothing_left(version)
        before = self.replica.release_pid
        following, build = (NEW, "fixed") if version == OLD else (NEWEST, "good")
        ended = self.upgrade(build, version=following).end()
        assert (ended.code, ended.outcome["serves"]) == (0, following), (ended, self.replica.log)
        self._assert("what serves", self.assert_told(), following)
        self._assert("the process of the release", self.replica.release_pid, before)

    def assert_told(self) -> str:
        """Return the version that serves, on which everybody must agree."""
        version, status, on_node = self.serves(), self.status(), self.releases()
        known = {known["version"]: known["status"] for known in on_node["releases"]}
        self._assert("which version the node names", on_node["serves"], version)
        self._assert("which is permanent", known.pop(version), "permanent")
        self._assert("what the others are", set(known.values()) - {"old"}, set())
        self._assert("which version status names", status["version"], version)
        self._assert("which slug status names", status["digest"], self.running_tree().name)
        self._assert("what is under way", status["change"], None)
        self._assert("whether it is ready", status["ready"], True)
        return version

    def assert_nothing_left(self, version: str) -> None:
        """Fail where something stays that nobody needs while `version` serves."""
        until(
            lambda: not self._left(version),
            lambda: f"{self._left(version)} is left:\n{self.replica.log}",
            every=0.1,
        )

    def _left(self, version: str) -> dict[str, list[str]]:
        root = self.replica.root
        added = files_below(self.tree) - self._files
        of_run = files_below(self.run) - self._run_files - {"release_script.lock", "on_node"}
        commands = self.replica.commands().values()
        left = {
            "trees half done": half_done(root),
            "files half written": [path for path in files_below(root) if HALF_WRITTEN.search(path)],
            "of 0.2.0": [path for path in added if version == OLD and NEW_ONES.search(path)],
            "temporary": [path for path in added if TEMPORARY.search(Path(path).name)],
            "in the run folder": sorted(of_run),
            "processes": [command for command in commands if " upgrade " in command],
        }
        return {what: found for what, found in left.items() if found}

    def _assert(self, what: str, found: object, wanted: object) -> None:
        assert found == wanted, f"{what}: {found!r}, and not {wanted!r}:\n{self.replica.log}"

    def _journal(self) -> Path:
        return self.run / "change.json"


class Line:
    """One connection of the line protocol, whose state must outlive a change."""

    def __init__(self, replica: Replica) -> None:
        port = int(replica.environ["TCP_PORT"])
        self._socket = socket.create_connection(("127.0.0.1", port), PATIENCE_SECONDS)
        self._lines = self._socket.makefile("r")
        self.said = 0

    def say(self, text: str) -> str:
        """Send a line, and return the answer: version, node, how many lines so far, the text."""
        self._socket.sendall(f"{text}\n".encode())
        answer = self._lines.readline()
        self.said += 1
        assert answer, "the connection was closed"
        return answer

    def assert_goes_on(self) -> None:
        """Fail unless the connection counts on from where it was."""
        said = self.said
        assert self.say("more").split()[2] == str(said + 1)

    def __enter__(self) -> Self:
        self.say("first")
        return self

    def __exit__(self, *_: object) -> None:
        with closing(self._socket), closing(self._lines):
            pass


def files_below(folder: Path) -> set[str]:
    """List everything below `folder`, as paths relative to it."""
    return {
        str(Path(above, name).relative_to(folder))
        for above, folders, files in os.walk(folder)
        for name in (*folders, *files)
    }
