"""A real `run-agent`: as PID 1 of a namespace, or as an ordinary process that adopts orphans.

It runs in a root of its own, on a port of its own, and leaves nothing behind: everything it
starts carries its root in the environment, and so is found in the end, wherever it was moved to.
"""

import http.client
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import psutil

from support.need import need
from support.ports import Ports
from support.wait import PATIENCE_SECONDS, until

RUN_AGENT = (sys.executable, "-I", "-m", "entrypoint.cli")

AS_PID_1 = ("unshare", "--pid", "--fork", "--mount-proc", "--kill-child", "--")
"""unshare(1): a PID namespace with a /proc of its own; it ends with the code of its PID 1."""

AS_NOBODY = (
    "setpriv", "--reuid=65534", "--regid=65534", "--clear-groups",
    # only to get at an interpreter that lies in a home folder
    "--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search", "--",
)  # fmt: skip
NOBODY = 65534

PROBE_SECONDS = 5.0

SIGNALS = signal.valid_signals()


class Answer(NamedTuple):
    """What a probe said."""

    status: int
    body: dict[str, Any]


class Replica:
    """One run of `run-agent ARGUMENTS…`, and what can be seen of it from outside."""

    def __init__(
        self,
        root: Path,
        arguments: Sequence[str],
        *,
        ports: Ports,
        as_pid_1: bool = False,
        settings: Mapping[str, str] | None = None,
        wrapper: Sequence[str] = (),
        **streams: Any,
    ) -> None:
        self.root, self._as_pid_1 = root, as_pid_1
        self.environ = environment(root) | (settings or {})
        if "HEALTH_PORT" not in self.environ:
            self.environ["HEALTH_PORT"] = str(ports.free())
        root.mkdir(parents=True, exist_ok=True)
        self.out, self.err = root / "stdout", root / "stderr"
        if as_pid_1:
            need_namespaces()
        with self.out.open("ab") as out, self.err.open("ab") as err:
            self.process = subprocess.Popen(
                [*(AS_PID_1 if as_pid_1 else ()), *wrapper, *RUN_AGENT, *arguments],
                env=self.environ,
                cwd=root,
                **{"stdin": subprocess.DEVNULL, "stdout": out, "stderr": err} | streams,
            )

    # -- its processes ----------------------------------------------------------------------------

    @cached_property
    def pid(self) -> int:
        """PID 1, as this side of the namespace numbers it."""
        if not self._as_pid_1:
            return self.process.pid
        return until(self._child_of_unshare, lambda: f"no PID 1 appeared: {self.log}", every=0)

    def _child_of_unshare(self) -> int | None:
        pid = self.process.pid
        with suppress(OSError):
            children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
            return int(children[0]) if children else None
        return None

    @property
    def release_pid(self) -> int:
        """The release that runs now; waits until there is one."""
        return until(self._running_release, lambda: f"no release runs: {self.log}")

    def _running_release(self) -> int | None:
        started = self.events("release started")
        found = self.outside(started[-1]["release_pid"]) if started else None
        # until it has become the program, the child shows what PID 1 has and is
        return found if found and _command(found) not in {"", _command(self.pid)} else None

    @property
    def agent_pid(self) -> int:
        """The agent that runs now; waits until there is one."""
        return until(self.agent, lambda: f"no agent runs: {self.log}")

    def agent(self) -> int | None:
        """Return the agent that runs now, if one does."""
        with suppress(psutil.Error):
            for child in psutil.Process(self.pid).children():
                with suppress(psutil.Error):
                    if "entrypoint.agent" in child.cmdline():
                        return child.pid
        return None

    def outside(self, pid: int) -> int | None:
        """Translate the number of a process of ours in its namespace into the one out here."""
        for process in self.alive():
            with suppress(OSError):
                if status_of(process.pid)["NSpid"].split()[-1] == str(pid):
                    return process.pid
        return None

    def alive(self) -> list[psutil.Process]:
        """List every process that carries our root, wherever it is; zombies carry nothing."""
        mark = f"RUN_AGENT_ROOT={self.root}".encode()
        found = []
        for pid in _pids():
            with suppress(psutil.Error):
                if mark in _environ(pid).split(b"\0"):
                    found.append(psutil.Process(pid))
        return found

    def commands(self) -> dict[int, str]:
        """Tell the command line of every process that carries our root."""
        return {process.pid: _command(process.pid) for process in self.alive()}

    def zombies(self) -> list[int]:
        """List the ended processes that PID 1 has not reaped."""
        return [pid for pid in _pids() if state_and_parent(pid) == ("Z", self.pid)]

    # -- what it says -----------------------------------------------------------------------------

    @property
    def stdout(self) -> str:
        return self.out.read_text(errors="replace")

    @property
    def log(self) -> str:
        return self.err.read_text(errors="replace")

    def events(self, containing: str = "") -> list[dict[str, Any]]:
        """List the structured lines of the log whose message contains `containing`."""
        lines = [line for line in self.log.splitlines() if line.startswith('{"')]
        events = [event for line in lines if (event := _event(line))]
        return [event for event in events if containing in event["message"]]

    def until_said(self, containing: str, seconds: float = PATIENCE_SECONDS) -> dict[str, Any]:
        """Wait for such a line of the log, and return it."""
        found = until(
            lambda: self.events(containing), lambda: f"{containing!r} in {self.log}", seconds
        )
        return found[0]

    def until_printed(self, text: str, seconds: float = PATIENCE_SECONDS) -> None:
        """Wait until the release has printed `text`."""
        until(lambda: text in self.stdout, lambda: f"{text!r} in {self.stdout} {self.log}", seconds)

    # -- what it is asked -------------------------------------------------------------------------

    def get(self, path: str) -> Answer:
        """Probe it; raises what the connection raises."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PROBE_SECONDS)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            return Answer(answer.status, json.loads(answer.read()))
        finally:
            connection.close()

    @property
    def port(self) -> int:
        return int(self.environ["HEALTH_PORT"])

    def is_ready(self) -> bool:
        """Whether `/readyz` says so; it does not while nothing answers there."""
        try:
            return self.get("/readyz").status == 200
        except OSError:
            return False

    def until_ready(self, seconds: float = PATIENCE_SECONDS) -> "Replica":
        """Wait for `/readyz`, and return the replica."""
        until(self.is_ready, lambda: f"it is not ready: {self.log}", seconds)
        return self

    def verb(self, *arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
        """Run another `run-agent VERB …` for the same root."""
        return run_agent(*arguments, environ=self.environ, **options)

    # -- its end ----------------------------------------------------------------------------------

    def signal(self, number: int) -> None:
        """Signal PID 1."""
        os.kill(self.pid, number)

    def term(self) -> "Replica":
        """Ask it to stop, and return the replica."""
        self.signal(signal.SIGTERM)
        return self

    def wait(self, seconds: float = PATIENCE_SECONDS) -> int:
        """Wait for its end; return the exit code, 128+n for signal n."""
        try:
            code = self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"waited {seconds:g} s for the end in vain: {self.log}") from None
        return code if code >= 0 else 128 - code

    def end(self) -> None:
        """Kill whatever is left of it."""
        if self.process.poll() is None:
            if self._as_pid_1 and (pid_1 := self._child_of_unshare()):
                with suppress(ProcessLookupError):
                    os.kill(pid_1, signal.SIGKILL)
            self.process.kill()
        kill_all(self.alive)
        self.process.wait(PATIENCE_SECONDS)


def environment(root: Path) -> dict[str, str]:
    """Return a container's environment with few variables, no SSH and no drain."""
    return {
        "PATH": os.environ["PATH"],
        "RUN_AGENT_ROOT": str(root),
        "SSH_PORT": "none",
        "DRAIN_SECONDS": "0",
        "GRACE_SECONDS": "20",
    }


def run_agent(
    *arguments: str, environ: Mapping[str, str], **options: Any
) -> subprocess.CompletedProcess[str]:
    """Run a verb to its end, with its output."""
    usual = {"env": environ, "capture_output": True, "text": True, "stdin": subprocess.DEVNULL}
    return subprocess.run(
        [*options.pop("wrapper", ()), *RUN_AGENT, *arguments],
        check=options.pop("check", False),
        **usual | {"timeout": PATIENCE_SECONDS} | options,
    )


def kill_all(alive: Any) -> None:
    """Kill what `alive` lists until it lists nothing."""

    def all_gone() -> bool:
        left: Iterable[psutil.Process] = alive()
        for process in left:
            with suppress(psutil.Error):
                process.kill()
        return not left

    until(all_gone, "processes that do not die")


def need_namespaces() -> None:
    """Skip where a PID namespace cannot be made."""
    need(os.geteuid() == 0 and shutil.which("unshare"), "root and unshare, to be PID 1")


def status_of(pid: int) -> dict[str, str]:
    """Read /proc/PID/status."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def signals_in(*masks: str) -> set[int]:
    """Return the signals in any of the masks, which are as /proc/PID/status writes them.

    Without those that the C library keeps for itself (signal(7)): no program can set them.
    """
    return {number for mask in masks for number in SIGNALS if int(mask, 16) >> number - 1 & 1}


def descriptors(pid: int) -> dict[str, str]:
    """Return what each descriptor leads to; one that is closed meanwhile is left out."""
    found = {}
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):
            found[link.name] = str(link.readlink())
    return found


def state_and_parent(pid: int) -> tuple[str, int] | None:
    """Read a process's state letter and parent; None for one that is gone."""
    with suppress(OSError):
        state, parent, *_ = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return state, int(parent)
    return None


def cpu_seconds(pid: int) -> float:
    """Return the processor time that a process has used."""
    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)


def _pids() -> list[int]:
    return [int(entry.name) for entry in os.scandir("/proc") if entry.name.isdecimal()]


def _environ(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return b""


def _command(pid: int) -> str:
    with suppress(OSError):
        return " ".join(Path(f"/proc/{pid}/cmdline").read_text().rstrip("\0").split("\0"))
    return ""


def _event(line: str) -> dict[str, Any] | None:
    """Parse a line of the log; another process may be in the middle of writing it."""
    try:
        event: dict[str, Any] = json.loads(line)
    except ValueError:
        return None
    return event
