"""`FOLLOW=hot`: the running release changes whenever the controller has another deploy."""

import asyncio
import logging
import random

from entrypoint import launch as launches
from entrypoint.changes.configuration import Configuration, same_slug
from entrypoint.changes.site import Site
from entrypoint.changes.versions import Versions
from run_agent.errors import RunAgentError
from run_agent.model import Deploy
from upgrade.outcome import LOCKED

ASK_SECONDS = 10.0
"""How long the controller may take for one answer; the next turn asks again."""

JITTER = 0.1
"""Part of a period by which turns vary, so that replicas do not ask all at once."""

log = logging.getLogger("follow")


class Follow:
    """Asks for the current deploy as often as for the SSH keys, and has it put in place."""

    def __init__(self, site: Site, versions: Versions, configuration: Configuration) -> None:
        self._site, self._versions, self._configuration = site, versions, configuration
        self._judged: Deploy | None = None

    async def run(self) -> None:
        """Ask for ever. A deploy that fails is left alone until there is another."""
        period = self._site.options.ssh_keys_seconds
        while True:
            await asyncio.sleep(period * random.uniform(1 - JITTER, 1 + JITTER))  # noqa: S311 - jitter
            try:
                await self._turn()
            except RunAgentError as error:
                log.warning("%s", error)

    async def _turn(self) -> None:
        site = self._site
        if site.replica.release.get("state") != "running" or site.replica.change is not None:
            return
        running = launches.load_deploy(site.layout)
        self._judged = self._judged or running
        current = await asyncio.to_thread(site.controller().current_deploy, ASK_SECONDS)
        if running is None or self._judged is None or _same(current, self._judged):
            return
        log.info("the controller's current deploy is %s: changing to it", current.label)
        if await self._is_over(current, running):
            self._judged = current

    async def _is_over(self, current: Deploy, running: Deploy) -> bool:
        """Change to it; tell whether that has ended, well or not, such that no turn tries again."""
        try:
            if same_slug(current, running):
                answer = await self._configuration.reconfigure({}, lambda _: None)
            else:
                answer = await self._versions.upgrade({}, lambda _: None)
        except RunAgentError as error:
            log.warning("%s", error)
            return error.exit_code != LOCKED
        return not answer.result.get("try_again")


def _same(one: Deploy, other: Deploy) -> bool:
    return same_slug(one, other) and one.config == other.config
