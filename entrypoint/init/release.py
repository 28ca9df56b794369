"""The one release that PID 1 runs: start it, know its state, name its end, start it again."""

import os
import random
import signal
import time

from entrypoint.init import children
from entrypoint.init.cgroup import MemoryWatch
from entrypoint.init.log import Log

BACKOFF_FIRST, BACKOFF_LAST = 1.0, 30.0
"""Seconds before a failed release is started again in place, doubled from the first to the last."""

CHANGING_BACKOFF_FIRST = 0.2
"""The same where a change ended it: its old version is wanted back at once."""

RESTART_KILL_SECONDS = 10.0
"""How long a release that is to be started again may take to stop in order; then it is killed."""

GOOD_AFTER_SECONDS = 30.0
"""A release that ran this long was no start that failed, so the back-off begins anew."""

LINGER_SECONDS = 5.0
"""How long what a release leaves behind in its process group may take to follow it."""

OF_ANOTHER = "a process in the container was killed by the kernel, "
"""How a kill for want of memory is told that was not the release's."""

NO_GROUP = -1
"""A process group that nobody is in."""

NONE, RUNNING, LINGERING, BACKOFF, ENDED = "none", "running", "lingering", "backoff", "ended"


class Release:
    """A small state machine: none → running → lingering → ended, or → backoff → running."""

    def __init__(self, log: Log, *, restart_on_failure: bool) -> None:
        self.state = NONE
        self.pid: int | None = None
        self.code: int | None = None
        self.started_at = self.ended_at = 0.0  # wall clock, for people
        self.out_of_memory: str | None = None  # how its last end is named, where it was that
        self.restart_at: float | None = None
        self.kill_at: float | None = None
        self._log, self._restart_on_failure = log, restart_on_failure
        self._launch: dict[str, object] = {}
        self._since = 0.0
        self._backoff = 0.0
        self._group, self._linger_until = NO_GROUP, 0.0
        self._asked = self._group_asked = self._stop_group = self._again = False
        self._killed: str | None = None
        self._memory = MemoryWatch()
        self._dies_of: str | None = None  # a kill for want of memory, from when it is seen
        self._last_kill: dict[str, object] | None = None  # for want of memory, whoever it was

    @property
    def ever_started(self) -> bool:
        """Whether a release was started at all: from then on its life decides the container's."""
        return self.state != NONE

    def describe(self) -> dict[str, object]:
        """Tell the agent and the probes how the release is."""
        return {
            "state": self.state,
            "pid": self.pid,
            "code": self.code,
            "started_at": self.started_at or None,
            "out_of_memory": self.out_of_memory,
            "last_kill": self._last_kill,
        }

    def start(self, launch: dict[str, object] | None = None) -> None:
        """Start `launch` (argv, env, cwd, stop_group), or the last one again."""
        self._launch = launch or self._launch
        argv: list[str] = self._launch["argv"]  # type: ignore[assignment]
        self.state, self.code, self.restart_at, self.kill_at = RUNNING, None, None, None
        self.out_of_memory = None
        self.started_at, self._since = time.time(), time.monotonic()
        self._asked = self._group_asked = self._again = False
        self._killed = self._dies_of = None
        self._stop_group = bool(self._launch.get("stop_group"))
        try:
            self.pid = children.spawn(
                argv,
                env=self._launch["env"],  # type: ignore[arg-type]
                cwd=str(self._launch["cwd"]),
                terminal=_is_foreground({os.getpgrp(), self._group}),
            )
        except OSError as error:
            self._log.error(f"cannot start the release ({error.strerror}): raise the container's "
                            "limit of processes or memory")  # fmt: skip
            self.ended(os.EX_OSERR)
            return
        self._log.info(f"release started: {argv[0]} (pid {self.pid})", release_pid=self.pid)

    def ended(self, code: int, linger_until: float | None = None) -> None:
        """Its leader has ended: name the end, and let the rest of its group follow."""
        now, self._group = time.monotonic(), self.pid or NO_GROUP
        self.pid, self.code, self.state = None, code, LINGERING
        self.ended_at = time.time()
        self._tell_end(code, now - self._since)
        self._linger_until = linger_until or now + LINGER_SECONDS
        if not self._group_asked:  # many a server takes a second TERM for "at once"
            children.signal_group(self._group, signal.SIGTERM)

    def settle(self, now: float, *, stopping: bool, busy: str | None = None) -> bool:
        """Once the whole group has ended, decide what comes next; return whether it has.

        `busy` names the change that is under way: it is most likely what ended the release.
        """
        late = now >= self._linger_until
        if self.state != LINGERING or children.signal_group(
            self._group, signal.SIGKILL if late else 0
        ):
            return False
        if stopping:
            self.state = ENDED
        elif self._again:
            self.state, self.restart_at = BACKOFF, now
        elif busy:
            self._plan_restart(now, CHANGING_BACKOFF_FIRST, f"it ended during the {busy}")
        elif self._restart_on_failure and self.code != 0:
            self._plan_restart(now, BACKOFF_FIRST, "RESTART=on-failure")
        else:
            self.state = ENDED
        return True

    def _plan_restart(self, now: float, first: float, reason: str) -> None:
        if now - self._since >= GOOD_AFTER_SECONDS:
            self._backoff = 0.0
        self._backoff = min(max(self._backoff * 2, first), BACKOFF_LAST)
        delay = self._backoff * random.uniform(0.8, 1.2)
        self.state, self.restart_at = BACKOFF, now + delay
        self._log.warning(f"starting the release again in {delay:.1f} s ({reason})")

    def relaunch(self, launch: dict[str, object]) -> None:
        """Take `launch` for later starts in place; what runs goes on as it is."""
        self._launch = launch

    def restart(self, now: float) -> None:
        """Stop it in order and start it again in place, whatever RESTART says."""
        if self.state == BACKOFF:
            self.restart_at = now
        elif self.state in {RUNNING, LINGERING} and not self._again:
            self._log.info("stopping the release, to start it again", release_pid=self.pid)
            self._again, self.kill_at = True, now + RESTART_KILL_SECONDS
            self.term()

    def term(self) -> None:
        """Ask it to stop: its leader, or its whole group where that is how it was launched."""
        self._asked = True
        self._group_asked = self._stop_group
        self.send(signal.SIGTERM, group=self._group_asked)

    def kill_if_late(self, now: float) -> None:
        """End what has not stopped in time to be started again."""
        if self.kill_at is not None and now >= self.kill_at:
            self.kill(f"{RESTART_KILL_SECONDS:g} s after it was asked to stop")

    def kill(self, when: str = "at the end of the grace period") -> None:
        """End its whole group at once, with or without its leader; `when` is for the log."""
        self._linger_until, self.kill_at = 0.0, None
        if self.pid is None:
            return
        self._log.error("release did not stop in time: killing it", release_pid=self.pid)
        self._killed = when
        self.send(signal.SIGKILL, group=True)

    def send(self, number: int, *, group: bool = False) -> None:
        """Pass a signal on; without a running release it goes nowhere."""
        if self.pid is not None:
            children.signal_quietly(os.killpg if group else os.kill, self.pid, number)

    def look_at_memory(self) -> bool:
        """Name a kill for want of memory since the last look; return whether one was named.

        What kills the release is left to its end to name.
        """
        kill = self._memory.new_kill()
        if kill is None:
            return False
        if self.pid is not None and _is_being_killed(self.pid):
            self._dies_of = kill
            return False
        self._log.warning(self._remember(OF_ANOTHER + kill, time.time()))
        return True

    def _remember(self, kill: str, at: float) -> str:
        # in whole seconds, as the marker has it: what the next run tells is the same Event then
        self._last_kill = {"message": kill, "at": int(at)}
        return kill

    def _tell_end(self, code: int, up: float) -> None:
        kill = self._memory.new_kill() or self._dies_of
        reason = f"exit code {code}"
        if code - 128 in signal.valid_signals():
            reason = f"{_signal_name(code - 128)}, {reason}"
        if self._killed:
            reason = f"killed by run-agent {self._killed}, exit code {code}"
        elif kill and code == 128 + signal.SIGKILL:
            of_ours = f"the release was killed by the kernel, {kill}"
            self.out_of_memory = self._remember(of_ours, self.ended_at)
            reason, kill = f"killed by the kernel, {kill}; exit code {code}", None
        if kill:
            reason += f"; {self._remember(OF_ANOTHER + kill, self.ended_at)}"
        as_asked = code == 0 or (self._asked and code == 128 + signal.SIGTERM)
        tell = self._log.info if as_asked else self._log.error
        tell(f"release ended after {up:.1f} s: {reason}", exit_code=code)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _is_being_killed(pid: int) -> bool:
    """Whether SIGKILL has been sent to a process that may still be giving its memory back.

    It stays in the set of what is pending to the end, a zombie's too (proc(5), ShdPnd).
    """
    try:
        with open(f"/proc/{pid}/status", "rb") as file:
            _, _, pending = file.read().partition(b"\nShdPnd:")
        return bool(int(pending.split(maxsplit=1)[0], 16) >> (signal.SIGKILL - 1) & 1)
    except (OSError, IndexError):
        return False  # a sandbox whose /proc has less


def _is_foreground(groups: set[int]) -> bool:
    """Whether stdin is our terminal, and not lent to others: a job in the background takes none."""
    try:
        return os.isatty(0) and os.tcgetpgrp(0) in groups
    except OSError:
        return False  # a terminal, but not ours to give away
