"""What the agent does for SSH: it holds the door and keeps the keys fresh."""

import asyncio
import functools
import socket
from collections.abc import Callable, Sequence
from typing import Any

from entrypoint.orders import Orders
from run_agent import controller
from run_agent.settings import Settings
from run_agent.ssh import kept, keys
from run_agent.ssh.door import Door, connect_to


class Ssh:
    """The door and the keys, for the life of one agent. `publish` tells what has changed."""

    def __init__(
        self,
        listeners: Sequence[socket.socket],
        orders: Orders,
        options: Settings,
        *,
        publish: Callable[[], None],
    ) -> None:
        layout = options.layout
        self._door = Door(listeners, options, connect=lambda: connect_to(layout))
        self.keys = keys.Keeper(
            layout,
            orders.app,
            keys.source(options, _Controller(orders, options)),
            period=options.ssh_keys_seconds,
            on_change=lambda latest: self._door.keys_changed(kept.to_json(latest)),
            on_state=publish,
        )

    def start(self, tasks: asyncio.TaskGroup, *, daemon_runs: bool) -> None:
        """Begin; `daemon_runs` where the last agent has left one."""
        tasks.create_task(self.keys.run(), name="keeps the SSH keys fresh")
        tasks.create_task(self._door.serve(daemon_runs=daemon_runs), name="holds the SSH door")

    def status(self) -> dict[str, Any]:
        """Return what `run-agent status` shows."""
        return {"keys": self.keys.state(), "door": self._door.counts()}


class _Controller:
    """Asks the app's controller, which is opened at the first question: its imports can wait."""

    def __init__(self, orders: Orders, options: Settings) -> None:
        self._open = functools.cache(lambda: controller.connect(options, orders.app))

    def ssh_keys(self, patience: float) -> controller.SshKeys:
        return self._open().ssh_keys(patience)
