"""The composition root: from orders to the launch of a release, one screen."""

import asyncio
import os
from collections.abc import Callable
from pathlib import Path

from entrypoint.orders import EXEC, Orders
from entrypoint.replica import Replica
from run_agent import health
from run_agent.errors import RunAgentError
from run_agent.model import Launch
from run_agent.settings import Settings
from entrypoint import launch as launches

async def boot(orders, options, replica, *, up_seconds, tell):
    launch = Launch(orders.command, dict(os.environ), Path.cwd(), stop_group=True)
    launches.save(options.layout, launch)
    replica.learn(port=options.port, kind="command")
    return launches.to_json(launch)

def ready_check(orders, options, replica):
    return health.check_for(options.ready_check, port=replica.facts.port or 0, address=None, node=None)

def keep(options, replica): pass
