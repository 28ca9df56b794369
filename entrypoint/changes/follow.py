"""`FOLLOW=hot`: the running release changes whenever the controller has another deploy."""

import asyncio
import hashlib
import json
import logging
import random
from collections.abc import Mapping
from typing import Any

from entrypoint import launch as launches
from entrypoint.changes.configuration import Configuration, path_of, same_slug
from entrypoint.changes.site import PASSING, Site
from entrypoint.changes.versions import Versions
from run_agent.errors import RunAgentError
from run_agent.model import Deploy
from upgrade.outcome import LOCKED, Verdict

ASK_SECONDS = 10.0
"""How long the controller may take for one answer; the next turn asks again."""

JITTER = 0.1
"""Part of a period by which turns vary, so that replicas do not ask all at once."""

log = logging.getLogger("follow")


class Follow:
    """Asks for the current deploy as often as for the SSH keys, and has it put in place."""

    def __init__(self, site: Site, versions: Versions, configuration: Configuration) -> None:
        self._site, self._versions, self._configuration = site, versions, configuration

    async def run(self) -> None:
        """Ask for ever. A deploy that was judged is left alone until there is another.

        Also one that fails, or from which somebody has gone back by hand.
        """
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
        current = await asyncio.to_thread(site.controller().current_deploy, ASK_SECONDS)
        if running is None or identity(current) == site.replica.facts.followed:
            return
        if same_slug(current, running) and current.config == running.config:
            self._judged(current)
            return
        log.info("the controller's current deploy is %s: changing to it", current.label)
        if await self._is_over(current, running):
            self._judged(current)

    def _judged(self, deploy: Deploy) -> None:
        """Remember it, also for the agent after this one."""
        self._site.replica.learn(followed=identity(deploy))
        self._site.send(memo=self._site.replica.memo())

    async def _is_over(self, current: Deploy, running: Deploy) -> bool:
        """Change to it; tell whether that has ended, well or not, such that no turn tries again."""
        try:
            if same_slug(current, running):
                await self._configuration.take(_unwatched)
                return True
            answer = await self._versions.upgrade({}, _unwatched)
            if answer.result["verdict"] == Verdict.ALREADY_THERE:
                # another deploy of the same slug, which nothing but its content tells
                await self._configuration.take(_unwatched, serving=current)
        except RunAgentError as error:
            log.warning("%s", error)
            return error.exit_code not in {LOCKED, *PASSING}
        return not answer.result["try_again"]


def identity(deploy: Deploy) -> str:
    """Return a digest of what makes a deploy another one; a new signature of its URL does not."""
    told = (path_of(deploy), deploy.version, deploy.slug_sha256, sorted(deploy.config.items()))
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()


def _unwatched(_progress: Mapping[str, Any]) -> None:
    """Tell nobody: the log has it."""
