"""The SSH daemon: the program that PID 1 starts when the agent first has a connection for it.

Composition root only: what it serves is `run_agent.ssh.daemon`.
"""

import asyncio
import functools
import logging
import os
import resource
import socket
import sys
from collections.abc import Mapping
from contextlib import suppress

from entrypoint import launch
from entrypoint.init import children as init_children
from entrypoint.orders import Orders
from run_agent import logs, settings
from run_agent.errors import RunAgentError, UnavailableError
from run_agent.model import Launch, Layout
from run_agent.settings import Settings
from run_agent.ssh.daemon import host_key, service
from run_agent.ssh.daemon.audit import Audit
from run_agent.ssh.daemon.processes.children import Children, Spawn
from run_agent.ssh.daemon.site import Site

MOST_FILES = 65_536
"""Descriptors that we may need: each session takes five, and where the soft limit is the usual 1024
two hundred would be too many. What sessions start has the limit that the container gives."""

log = logging.getLogger("ssh")


def main(argv: list[str]) -> int:
    """Run the daemon: `argv` holds the listener's descriptor, its token, and the orders."""
    listener, token = socket.socket(fileno=int(argv[1])), argv[2]
    listener.set_inheritable(False)  # or sessions could take other people's connections from it
    orders = Orders.from_argument(argv[3])
    try:
        options = settings.load(os.environ, app=orders.app, needs_controller=False)
        logs.configure(options.log_format)
        logging.getLogger("asyncssh").setLevel(logging.ERROR)  # its events are told by us, once
        asyncio.run(_serve(orders.app, options, listener, token))
    except RunAgentError as error:
        log.error("%s", error)
        code = error.exit_code
    except Exception:
        log.exception("cannot go on: a bug in run-agent; please report it with this trace")
        code = os.EX_SOFTWARE
    else:
        return os.EX_OK
    service.turn_away(listener)
    return code


async def _serve(app: str, options: Settings, listener: socket.socket, token: str) -> None:
    environ = dict(os.environ)
    audit = Audit()
    site = Site(
        app=app,
        options=options,
        launch=lambda: _launch(options.layout, environ),
        children=Children(_spawn_with(_raise_limit()), token),
        audit=audit,
    )
    try:
        await service.serve(site, listener, host_key.load(options, options.layout))
    finally:
        audit.close()


def _raise_limit() -> tuple[int, int]:
    """Let us open more files than our surroundings do; return their limits."""
    before = soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = MOST_FILES if hard == resource.RLIM_INFINITY else min(hard, MOST_FILES)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, most), hard))
    return before


def _spawn_with(limits: tuple[int, int]) -> Spawn:
    """Return how to start a process that may open as many files as `limits` say."""
    return functools.partial(init_children.spawn, files=limits)


def _launch(layout: Layout, environ: Mapping[str, str]) -> Launch:
    """Return what the release was started with; before that, what the container gives."""
    try:
        return launch.load(layout)
    except UnavailableError:
        env = {name: value for name, value in environ.items() if name not in settings.OWN_NAMES}
        return Launch((), env, layout.app if layout.app.is_dir() else layout.root)


if __name__ == "__main__":
    code = main(sys.argv)
    with suppress(OSError):
        sys.stderr.flush()
    # at once: a thread that hangs must not hold up the end
    os._exit(code)
