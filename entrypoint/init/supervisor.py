"""The loop of PID 1: events come in, the release and the agent go up or down, one code goes out."""

import json
import os
import selectors
import signal
import socket
import time

from entrypoint.init import children, probes, release, run_folder, stop
from entrypoint.init.agent import Agent
from entrypoint.init.busy import Busy
from entrypoint.init.log import Log
from entrypoint.init.marker import Marker
from entrypoint.init.release import Release
from entrypoint.init.signals import PASSED_ON, STOP_SIGNALS, Signals
from entrypoint.init.sockets import CannotStartError, listen_ssh, listen_unix
from entrypoint.init.sshd import Sshd
from entrypoint.init.stop import StopClock

INTERRUPTED_BOOT = 128 + signal.SIGTERM
KILLED = 128 + signal.SIGKILL
TIMED_OUT = 124
"""As timeout(1) has it."""

GROUP_POLL_SECONDS = 0.05
"""How often we look whether a group or the container has emptied: no event tells of that."""


def main(argv: list[str]) -> int:
    """Run until everything has ended; `argv[1]` holds the options as JSON. Returns the code."""
    signals = Signals()  # first of all: PID 1 loses every signal that it does not handle
    options = json.loads(argv[1])
    log = Log(options["log_format"])
    try:
        return Supervisor(options, signals, log).run()
    except CannotStartError as error:
        log.error(str(error))
        return error.exit_code


class Supervisor:
    """Owns every child and every socket. One decision per event, none of them waits."""

    def __init__(self, options: dict[str, object], signals: Signals, log: Log) -> None:
        self._log, self._signals = log, signals
        self._drain_seconds = float(str(options["drain_seconds"]))
        self._grace_seconds = float(str(options["grace_seconds"]))
        self._time_limit: float | None = options["time_limit_seconds"]  # type: ignore[assignment]
        run, volume = str(options["run"]), str(options["volume"])
        self._lock = run_folder.lock(run, volume)
        self._selector = selectors.DefaultSelector()
        self._selector.register(signals.wakeup, selectors.EVENT_READ, lambda: None)
        self._adopt_orphans()
        self._marker = Marker(volume, log)
        self._release = Release(log, restart_on_failure=options["restart"] == "on-failure")
        self._probes = self._open_probes(options["health_port"])
        run_folder.note_health_port(run, options["health_port"])
        ssh = listen_ssh(int(str(options["ssh_port"]))) if options["ssh_port"] else []
        self._sshd = self._open_sshd(run, str(options["orders"])) if ssh else None
        self._agent = Agent(
            log,
            str(options["orders"]),
            control=listen_unix(run, "control.sock", socket.SOCK_STREAM),
            ssh=ssh,
            connected=self._watch,
            disconnected=self._unwatch,
        )
        self._busy = Busy(log)
        self._before: dict[str, str] | None = None
        self._memo: object = None
        self._verdict: dict[str, object] = {}
        self._draining = False
        self._stop: StopClock | None = None
        self._code = 0
        self._times_out_at: float | None = None
        self._timed_out = False
        self._started = time.monotonic()

    def run(self) -> int:
        """Serve until the stop is complete; returns the container's exit code."""
        self._before = self._marker.set()
        self._agent.start(self._hello())
        while not self._is_over():
            for key, _ in self._selector.select(self._timeout()):
                key.data()
            for number in self._signals.take():
                self._on_signal(number)
            for pid, code in children.reap():
                self._on_exit(pid, code)
            self._tick(time.monotonic())
        children.signal_all(signal.SIGKILL)  # what the time did not suffice for
        self._marker.clear(self._release.out_of_memory, self._release.ended_at)
        return TIMED_OUT if self._timed_out else self._code

    # -- events ---------------------------------------------------------------------------------

    def _on_signal(self, number: int) -> None:
        if number in STOP_SIGNALS:
            if self._stop is None:
                self._on_messages()  # a change that it has told of is waited for
                self._begin_stop(f"{signal.Signals(number).name} received")
            else:
                self._stop.hurry(time.monotonic())
        elif number in PASSED_ON:
            self._release.send(number)

    def _on_exit(self, pid: int, code: int) -> None:
        if pid == self._release.pid:
            self._release.ended(code, self._stop.kill_at if self._stop else None)
            self._verdict = self._verdict | {"ready": False}
            self._agent.tell({"release": self._release.describe()})
            return
        self._look_at_memory()
        if pid == self._agent.pid:
            self._on_messages()  # what it said before it died counts
            self._agent.ended()
            self._busy.agent_ended(time.monotonic())
            if self._stop is not None:
                return
            if code < 128 and not self._release.ever_started:
                self._finish(code)  # it ended by itself, and says with which code we do
            else:
                self._agent.plan_restart(f"agent ended with exit code {code}")
        elif self._sshd is not None and pid == self._sshd.pid:
            self._sshd.ended(code, stopping=self._is_sweeping())

    def _on_messages(self) -> None:
        for message in self._agent.receive():
            self._on_message(message)

    def _look_at_memory(self) -> None:
        if self._release.look_at_memory():
            self._agent.tell({"release": self._release.describe()})

    def _on_message(self, message: dict[str, object]) -> None:
        if "alive" in message:
            self._look_at_memory()  # who is killed need not be a child of ours
        if "memo" in message:
            self._memo = message["memo"]
        if "verdict" in message:
            self._verdict = dict(message["verdict"])  # type: ignore[call-overload]
        if "draining" in message:
            self._draining = bool(message["draining"])
        if "ready" in message:
            self._agent.ready = True
            self._busy.agent_came()
        if "busy" in message:
            self._busy.say(message["busy"])
        if self._stop is None:
            self._on_order(message, time.monotonic())

    def _on_order(self, message: dict[str, object], now: float) -> None:
        """Do to the release what the agent says; in a stop it is too late for any of it."""
        launch, later = message.get("start"), message.get("relaunch")
        if isinstance(launch, dict) and not self._release.ever_started:
            self._times_out_at = now + self._time_limit if self._time_limit else None
            self._release.start(launch)
            self._agent.tell({"release": self._release.describe()})
        if isinstance(later, dict):
            self._release.relaunch(later)
        if message.get("restart"):
            self._release.restart(now)

    def _tick(self, now: float) -> None:
        if self._probes:
            self._probes.expire(now)
        if self._sshd and _due(self._sshd.watch_at, now):
            self._sshd.watch()
        stopping = self._stop is not None
        if self._release.settle(now, stopping=stopping, busy=self._busy.what):
            self._agent.tell({"release": self._release.describe()})
            if self._release.state == release.ENDED:
                self._finish(self._release.code or 0)
        if self._stop is not None:
            self._advance_stop(self._stop, now)
            return
        if _due(self._times_out_at, now):
            self._time_out()
        self._busy.expire(now)
        self._release.kill_if_late(now)
        self._agent.kill_if_hung(now)
        if _due(self._agent.restart_at, now):
            self._agent.start(self._hello())
        if _due(self._release.restart_at, now):
            self._release.start()
            self._agent.tell({"release": self._release.describe()})

    # -- the stop -------------------------------------------------------------------------------

    def _begin_stop(self, reason: str) -> None:
        running = self._release.state in {release.RUNNING, release.LINGERING}
        drain = self._drain_seconds if self._release.state == release.RUNNING else 0.0
        self._stop = StopClock(time.monotonic(), drain=drain, grace=self._grace_seconds)
        self._log.info(f"stopping: {reason}" + (f"; draining for {drain:g} s" if drain else ""))
        self._agent.tell({"stopping": self._grace_seconds})
        if not running:
            self._finish(INTERRUPTED_BOOT)

    def _time_out(self) -> None:
        self._times_out_at = None
        if self._release.pid is not None:  # once it has ended, its own code counts
            self._timed_out = True
            self._begin_stop(f"it has run for {self._time_limit:g} s (JOB_TIMEOUT_SECONDS)")

    def _advance_stop(self, clock: StopClock, now: float) -> None:
        busy = self._busy.what
        phase = clock.advance(now, busy=bool(busy and self._agent.pid))
        if phase == stop.HOLD:
            self._log.info(f"waiting for the {busy} to end")
        elif phase == stop.TERM:
            if busy:
                self._log.warning(f"not waiting longer for the {busy}: it is cut")
            self._log.info("asking the release to stop", release_pid=self._release.pid)
            self._release.term()
        elif phase == stop.KILL:
            code = self._release.code  # where only its group lingers
            self._code = KILLED if code is None else code
            self._release.kill()
        elif clock.phase == stop.SWEEP_KILL:
            children.signal_all(signal.SIGKILL)  # again and again: a kill may orphan more

    def _finish(self, code: int) -> None:
        """Nothing is left that may decide the exit code: end everything else."""
        self._code, now = code, time.monotonic()
        self._stop = self._stop or StopClock(now, drain=0, grace=self._grace_seconds)
        self._stop.sweep(now)
        if self._sshd:
            self._sshd.close()
        children.signal_all(signal.SIGTERM)

    def _is_over(self) -> bool:
        if self._stop is None:
            return False
        late = time.monotonic() >= self._stop.ends_at
        return late or (self._is_sweeping() and children.none_left())

    def _is_sweeping(self) -> bool:
        return self._stop is not None and self._stop.phase in {stop.SWEEP, stop.SWEEP_KILL}

    # -- what others are told -------------------------------------------------------------------

    def _hello(self) -> dict[str, object]:
        return {
            "hello": {
                "release": self._release.describe(),
                "memo": self._memo,
                "verdict": self._verdict,
                "draining": self._draining,
                "busy": self._busy.what,
                "before": self._before,
                "sshd": self._sshd is not None and self._sshd.pid is not None,
                "up_seconds": time.monotonic() - self._started,
            }
        }

    def _answer(self, path: str) -> tuple[int, bytes]:
        if path == "/livez":
            alive = self._release.state != release.ENDED
            return (200 if alive else 503), _json({"release": self._release.state})
        if path == "/readyz":
            verdict = self._readiness()
            return (200 if verdict["ready"] else 503), _json(verdict)
        return 404, _json({"error": "there is /livez and /readyz"})

    def _readiness(self) -> dict[str, object]:
        """Overrule the agent's last verdict by what PID 1 knows better."""
        running = self._release.state == release.RUNNING
        stopping = self._stop is not None
        # a verdict on a release that has been started again since says nothing of this one
        judged = self._verdict.get("release_pid") == self._release.pid
        willing = running and judged and not stopping and not self._draining
        ready = willing and bool(self._verdict.get("ready"))
        return self._verdict | {
            "ready": ready,
            "release": self._release.state,
            "draining": self._draining or stopping,
            "stopping": stopping,
            "agent": "running" if self._agent.pid else "restarting",
        }

    # -- plumbing -------------------------------------------------------------------------------

    def _timeout(self) -> float | None:
        now = time.monotonic()
        times = [self._probes.next_deadline()] if self._probes else []
        times += [self._sshd.watch_at] if self._sshd else []
        if self._stop is None:
            times += [self._agent.restart_at, self._agent.hangs_at(), self._busy.ends_at]
            times += [self._release.restart_at, self._release.kill_at, self._times_out_at]
        else:
            times.append(self._stop.next_at())
        if self._release.state == release.LINGERING or self._is_sweeping():
            times.append(now + GROUP_POLL_SECONDS)
        due = min((at for at in times if at is not None), default=None)
        return None if due is None else max(0.0, due - now)

    def _watch(self, link: socket.socket) -> None:
        self._selector.register(link, selectors.EVENT_READ, self._on_messages)

    def _unwatch(self, link: socket.socket) -> None:
        self._selector.unregister(link)

    def _adopt_orphans(self) -> None:
        try:
            children.adopt_orphans()
        except OSError as error:
            self._log.warning(f"cannot adopt orphans ({error}): what daemonises may be left behind")

    def _open_sshd(self, run: str, orders: str) -> Sshd:
        listener = listen_unix(run, "sshd.sock", socket.SOCK_SEQPACKET)
        return Sshd(self._log, self._selector, listener, orders)

    def _open_probes(self, port: object) -> probes.Probes | None:
        if port is None:
            return None
        try:
            listener = probes.listen(int(str(port)))
        except OSError as error:
            raise CannotStartError(
                f"cannot listen on port {port} for probes ({error.strerror}): free it, or set "
                "HEALTH_PORT to another port or none",
                os.EX_CONFIG,
            ) from error
        return probes.Probes(self._selector, listener, self._answer)


def _due(at: float | None, now: float) -> bool:
    return at is not None and now >= at


def _json(body: dict[str, object]) -> bytes:
    return json.dumps(body).encode() + b"\n"
