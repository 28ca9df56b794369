"""From a verb of the CLI to PID 1: check everything, then become it."""

import json
import os
import sys
from collections.abc import Mapping
from typing import NoReturn

from entrypoint.orders import Orders
from run_agent import settings


def become_pid1(orders: Orders, environ: Mapping[str, str], *, needs_controller: bool) -> NoReturn:
    """Validate the settings, then replace this process by `entrypoint.init`.

    The parser and what it imported go with this process, so that PID 1 stays small. Raises
    `SettingsError`, which lists every problem.
    """
    options = settings.load(environ, app=orders.app, needs_controller=needs_controller)
    layout = options.layout
    serves_ssh = options.serves_ssh(has_controller=needs_controller)
    for_init = {
        "run": str(layout.run),
        "volume": str(layout.volume),
        "health_port": options.health_port,
        "drain_seconds": options.drain_seconds,
        "grace_seconds": options.grace_seconds,
        "ssh_port": options.ssh_port if serves_ssh else None,
        "restart": options.restart,
        "time_limit_seconds": options.job_timeout_seconds if orders.is_job else None,
        "log_format": options.log_format,
        "orders": orders.to_argument(),
    }
    _open_missing_streams()
    argv = [sys.executable, "-I", "-m", "entrypoint.init", json.dumps(for_init)]
    os.execve(sys.executable, argv, environ)


def _open_missing_streams() -> None:
    """Make sure that the descriptors 0 to 2 are open, so that nothing of ours becomes one."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)
