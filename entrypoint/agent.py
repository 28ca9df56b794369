"""The resident process beside PID 1: boots the replica, watches its readiness, serves the verbs.

It may die at any moment: PID 1 starts another one, which learns here from `hello` what is already
running and goes on. So nothing that the release needs lives in this process.
"""

import asyncio
import json
import logging
import os
import signal
import socket
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from entrypoint import boot, control, programs
from entrypoint import launch as launches
from entrypoint.control import Answer
from entrypoint.link import Link
from entrypoint.orders import INIT, Orders
from entrypoint.peers import Peers
from entrypoint.replica import Replica
from run_agent import health, logs, settings
from run_agent.cluster import account as cluster
from run_agent.errors import RunAgentError

HEARTBEAT_SECONDS = 10.0
"""How often PID 1 hears of us; it kills an agent that it has not heard of for 45 s."""

CHANGES = ("upgrade", "downgrade", "releases", "migrate", "reconfigure")
"""The verbs of `entrypoint.changes`."""

if TYPE_CHECKING:
    from entrypoint.changes import Changes
    from entrypoint.pod import Pod
    from entrypoint.ssh import Ssh

log = logging.getLogger("agent")


def main(argv: list[str]) -> int:
    """Run the agent: `argv` holds the sockets that PID 1 opened, by descriptor, and the orders."""
    sockets, orders = json.loads(argv[1]), Orders.from_argument(argv[2])
    options = settings.load(os.environ, app=orders.app, needs_controller=orders.asks_controller)
    context = logs.configure(options.log_format)
    agent = Agent(orders, options, sockets, context)
    loop = asyncio.new_event_loop()
    try:
        return loop.run_until_complete(agent.run())
    except asyncio.CancelledError:
        return 128 + signal.SIGTERM
    except RunAgentError as error:
        log.error("%s", error)
        loop.run_until_complete(agent.last_words(error))
        return error.exit_code
    except Exception as error:
        if _wanted_a_thread(error):
            log.error("cannot start a thread: raise the container's limit of processes or memory")
            return os.EX_OSERR
        log.exception("cannot go on: a bug in run-agent; please report it with this trace")
        return os.EX_SOFTWARE


class Agent:
    """The root of the agent's tasks: the link, the life of the release, the readiness watch."""

    def __init__(
        self,
        orders: Orders,
        options: settings.Settings,
        sockets: Mapping[str, Any],
        context: logs.Context,
    ) -> None:
        self._orders, self._options, self._context = orders, options, context
        self._descriptor = sockets["link"]
        self._control = _inherited(sockets["control"])
        doors = [_inherited(descriptor) for descriptor in sockets["ssh"]]
        self._ssh = self._open_ssh(doors) if doors else None
        self._link: Link
        self._replica: Replica
        self._peers: Peers
        self._tasks: asyncio.TaskGroup
        self._changes: Changes | None = None
        self._pod: Pod | None = None
        self._watch: asyncio.Task[None] | None = None
        self._keeping: asyncio.Task[None] | None = None

    def _open_ssh(self, doors: list[socket.socket]) -> "Ssh":
        from entrypoint.ssh import Ssh  # noqa: PLC0415 - a replica without SSH needs none of it

        return Ssh(doors, self._orders, self._options, publish=self._publish)

    def _open_pod(self) -> "Pod | None":
        account = None if self._orders.is_job else cluster.find(self._options)
        if account is None:
            return None
        from entrypoint.pod import Pod  # noqa: PLC0415 - outside Kubernetes there is none

        return Pod(account, self._replica)

    async def run(self) -> int:
        """Live until PID 1 goes away or says TERM. Raises what a task died of."""
        main_task = asyncio.current_task()
        assert main_task is not None
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, main_task.cancel)
        self._link = await Link.open(self._descriptor)
        hello = await self._link.hello()
        self._replica = Replica.from_hello(hello, self._orders.app)
        self._pod = self._open_pod()
        self._peers = Peers(self._options, self._replica, self._publish)
        verbs = {
            "status": self._status,
            "settings": self._settings,
            "drain": self._drain,
            "keys-refresh": self._refresh_keys,
            **{verb: self._change(verb) for verb in CHANGES},
        }
        try:
            async with control.serve(self._control, verbs), asyncio.TaskGroup() as self._tasks:
                self._tasks.create_task(self._listen(), name="hears what PID 1 tells")
                self._tasks.create_task(self._live(hello), name="boots, or takes over")
                self._tasks.create_task(self._show_life(), name="tells PID 1 that we do not hang")
                if not self._orders.is_job:
                    self._tasks.create_task(self._peers.run(), name="asks which nodes are there")
                if self._pod is not None:
                    self._pod.start(self._tasks, hello["before"])
                if self._ssh is not None:
                    self._ssh.start(self._tasks, daemon_runs=hello["sshd"])
                if self._options.follow == "hot" and self._orders.verb == INIT:
                    follow = self._open_changes().follow()
                    self._tasks.create_task(follow, name="follows the controller's deploy")
        except ExceptionGroup as group:  # not except*: before Python 3.11.4 it would wrap ours
            expected, unexpected = group.split(RunAgentError)
            if expected is None or unexpected is not None:
                raise
            raise expected.exceptions[0] from None
        return os.EX_OK

    async def last_words(self, error: RunAgentError) -> None:
        """Tell our pod why nothing was booted; TERM ends that at once."""
        if self._pod is not None and self._replica.release["state"] == "none":
            asyncio.get_running_loop().remove_signal_handler(signal.SIGTERM)
            await self._pod.boot_failed(error)

    async def _listen(self) -> None:
        async for event in self._link.events():
            if "release" in event:
                self._on_release(event["release"])
            if "stopping" in event:
                self._replica.stopping = True
                self._publish()
        raise RunAgentError("cannot run without PID 1: it has gone")

    async def _show_life(self) -> None:
        while True:
            self._link.send(alive=True)
            await asyncio.sleep(HEARTBEAT_SECONDS)

    async def _live(self, hello: Mapping[str, Any]) -> None:
        """Boot what does not run yet; what runs is left alone."""
        if self._replica.release["state"] == "none":
            programs.install(self._options.layout)
            launch = await boot.boot(
                self._orders, self._options, os.environ, self._replica,
                up_seconds=hello["up_seconds"], tell=self._publish,
            )  # fmt: skip
            self._link.send(start=launch, memo=self._replica.memo())
        else:
            self._on_release(self._replica.release)
        self._link.send(ready=True)
        await self._link.flush()
        if hello["busy"] is not None:
            await self._end_change(hello["busy"])

    async def _end_change(self, busy: str) -> None:
        try:
            await self._open_changes().go_on(busy)
        except RunAgentError as error:
            log.error("%s", error)  # the release has ended for good, or its state is for a person
            self._link.send(busy=None)

    def _on_release(self, state: dict[str, Any]) -> None:
        """Watch the readiness of the release that runs now, and of no other."""
        before, self._replica.release = self._replica.release.get("pid"), state
        if state["state"] == "running" and state["pid"] != self._replica.facts.pid:
            self._on_start(state["pid"])
        self._peers.release_changed()
        if self._changes is not None:
            self._changes.release_changed()
        if self._watch is not None and state["pid"] != before:
            self._watch.cancel()
            self._watch = None
            self._replica.set_ready(ready=False)
        if state["state"] == "running" and self._watch is None:
            self._watch = self._tasks.create_task(self._watch_readiness(), name="asks if ready")
        self._publish()

    def _on_start(self, pid: int) -> None:
        """Learn what a start of the release makes true, also one that no agent has seen."""
        facts = self._replica.facts
        started = facts.started and facts.digest  # it has booted what is current
        port = boot.port_in(launches.load(self._options.layout).env)
        self._replica.learn(pid=pid, started=started, port=port)
        self._link.send(memo=self._replica.memo())

    async def _watch_readiness(self) -> None:
        check = self._peers.gate(boot.ready_check(self._options, self._replica))
        await health.watch(check, self._on_readiness, ready=self._replica.is_ready)

    def _on_readiness(self, problem: str | None) -> None:
        was, now = self._replica.is_ready, problem is None
        self._replica.set_ready(ready=now)
        self._replica.wait_for("app", problem)
        if was != now:
            log.info("ready" if now else f"not ready: waiting for {problem}")
            if now and self._replica.facts.release and not self._orders.is_job:
                log.info("serving %s", self._replica.facts.described())
        unproven = not self._replica.facts.good and not self._orders.is_job
        if now and unproven and self._keeping is None:
            self._keeping = self._tasks.create_task(self._keep(), name="keeps what became ready")
        self._publish()

    async def _keep(self) -> None:
        try:
            await asyncio.to_thread(boot.keep, self._options, self._replica)
        except RunAgentError as error:
            log.warning("%s", error)  # the release runs, and that is what counts
            return
        # Only now: a successor of ours would not do what it takes for done.
        self._replica.learn(good=True)
        self._link.send(memo=self._replica.memo())

    def _publish(self) -> None:
        """Tell PID 1 how we are, and say the same in our log from now on."""
        if self._ssh is not None:
            self._replica.ssh_keys = self._ssh.keys.state()
        self._link.send(verdict=self._replica.verdict())
        if self._pod is not None:
            self._pod.update()
        self._context.deploy = self._replica.facts.deploy
        self._context.node = self._replica.facts.node

    # -- verbs ----------------------------------------------------------------------------------

    def _change(self, verb: str) -> control.Verb:
        """Return a verb that changes the release; what it takes is loaded when it is asked for."""

        async def change(arguments: Mapping[str, Any], tell: control.Tell) -> Answer:
            return await self._open_changes().verbs[verb](arguments, tell)

        return change

    def _open_changes(self) -> "Changes":
        from entrypoint.changes import Changes  # noqa: PLC0415 - most replicas run without

        if self._changes is None:
            self._changes = Changes(
                self._orders, self._options, os.environ, self._replica,
                send=self._link.send, publish=self._publish, keep=self._keep,
            )  # fmt: skip
        return self._changes

    async def _status(self, _: Mapping[str, Any], __: control.Tell) -> Answer:
        await self._peers.refresh()
        shown = {
            "agent_pid": os.getpid(),
            "ssh": self._ssh.status() if self._ssh else None,
            "pod": self._pod.status() if self._pod else None,
        }
        return Answer(self._replica.status() | shown)

    async def _settings(self, _: Mapping[str, Any], __: control.Tell) -> Answer:
        return Answer({"settings": [asdict(row) for row in settings.shown(os.environ)]})

    async def _drain(self, arguments: Mapping[str, Any], _: control.Tell) -> Answer:
        self._replica.draining = not arguments.get("undo", False)
        self._link.send(draining=self._replica.draining)
        self._publish()
        await self._link.flush()
        log.info("draining" if self._replica.draining else "drain undone")
        return Answer({"draining": self._replica.draining})

    async def _refresh_keys(self, _: Mapping[str, Any], __: control.Tell) -> Answer:
        if self._ssh is None:
            raise RunAgentError(
                "cannot refresh the SSH keys: SSH is off here; set SSH_PORT, and a controller or "
                "SSH_KEYS_FILE",
                exit_code=os.EX_UNAVAILABLE,
            )
        return Answer(await self._ssh.keys.refresh())


def _wanted_a_thread(error: BaseException) -> bool:
    """Whether only pthread_create(3) failed; Python tells so by its message alone."""
    if isinstance(error, BaseExceptionGroup):
        return all(_wanted_a_thread(each) for each in error.exceptions)
    return isinstance(error, RuntimeError) and "can't start new thread" in str(error)


def _inherited(descriptor: int) -> socket.socket:
    """Take a socket from PID 1, which nothing that we start is to have."""
    inherited = socket.socket(fileno=descriptor)
    inherited.set_inheritable(False)
    return inherited


if __name__ == "__main__":
    code = main(sys.argv)
    with suppress(OSError):
        sys.stderr.flush()
    # at once: a thread that waits for a hung server must not hold up the end
    os._exit(code)
