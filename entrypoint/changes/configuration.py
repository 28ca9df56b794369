"""`reconfigure`: the controller's current configuration, put in force without a restart."""

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from entrypoint import boot
from entrypoint import launch as launches
from entrypoint.changes.site import Say, Site
from entrypoint.control import Answer, Tell
from run_agent.errors import RunAgentError
from run_agent.model import Deploy
from upgrade.outcome import EXIT_CODES, LOCKED, RefusedError, Verdict
from upgrade.reconfigure import Reconfiguration, Reconfigured, apply

ASK_SECONDS = 12.0
"""How long the controller is asked for the configuration: some blips are shorter."""


class Configuration:
    """The configuration of one replica's release."""

    def __init__(self, site: Site) -> None:
        self._site = site

    async def reconfigure(self, arguments: Mapping[str, Any], tell: Tell) -> Answer:
        """Take the current deploy's configuration, or with `dry_run` only say what differs."""
        try:
            dry_run, by = bool(arguments.get("dry_run")), arguments.get("asked_by")
            return await self.take(tell, dry_run=dry_run, by=by)
        except RunAgentError as error:
            if error.exit_code in {*EXIT_CODES.values(), LOCKED}:
                raise
            unchanged = EXIT_CODES[Verdict.UNCHANGED]
            raise RunAgentError(f"{error}; nothing has changed", exit_code=unchanged) from error

    async def take(
        self,
        tell: Tell,
        *,
        dry_run: bool = False,
        serving: Deploy | None = None,
        by: str | None = "FOLLOW=hot",
    ) -> Answer:
        """Do as `reconfigure`; an error keeps the exit code that tells whether it may pass.

        `serving` is a deploy whose slug is known to be the one that serves.
        """
        what = "change of configuration"
        async with self._site.alone("reconfigure", what, tell, by=by) as say:
            return Answer((await self._take(say, dry_run=dry_run, serving=serving)).to_json())

    async def _take(self, say: Say, *, dry_run: bool, serving: Deploy | None) -> Reconfigured:
        site = self._site
        if not site.has_controller:
            raise RefusedError(
                "cannot reconfigure: this replica follows no controller, so its configuration is "
                "the container's environment; change that, and restart the container"
            )
        say("asking for the current configuration")
        running = launches.load_deploy(site.layout)
        current = await asyncio.to_thread(site.controller().current_deploy, ASK_SECONDS)
        # another slug is for `upgrade`: this takes the settings alone
        deploy = replace(running or current, config=current.config)
        before = launches.load(site.layout)
        folder = await asyncio.to_thread(site.layout.app.resolve)
        prepared = await boot.prepare(
            site.orders, site.options, site.environ, deploy, folder, before.env.get("HOST_INDEX")
        )
        say("changing the configuration")
        done = await apply(
            Reconfiguration(site.node(), prepared.what, folder, before.env, prepared.launch.env),
            dry_run=dry_run,
        )
        if not dry_run:
            known = any(one and same_slug(one, current) for one in (running, serving))
            self._remember(done, current if known else deploy, prepared)
            await site.keep()
        return done

    def _remember(self, done: Reconfigured, deploy: Deploy, prepared: boot.Prepared) -> None:
        """Have later sessions, jobs and starts see the new values."""
        site = self._site
        site.relaunch(prepared.launch)
        site.replica.learn(deploy=deploy.label, good=False)
        changed = ", ".join(done.differences.names) or "nothing"
        site.say_last("reconfigure", str(Verdict.DONE), changed)
        try:
            launches.save(site.layout, prepared.launch, deploy)
        except RunAgentError as error:
            raise RunAgentError(
                f"cannot keep the new configuration, which is in force on the node, for later "
                f"sessions: {error}; make room, then reconfigure once more",
                exit_code=EXIT_CODES[Verdict.RECOVERED],
            ) from error


def same_slug(one: Deploy, other: Deploy) -> bool:
    """Tell whether two deploys have the same slug, by what no new signature of a URL changes."""
    if one.slug_sha256 and other.slug_sha256:
        return one.slug_sha256 == other.slug_sha256
    return (one.version, path_of(one)) == (other.version, path_of(other))


def path_of(deploy: Deploy) -> str:
    """Return where a deploy's slug is, without the signature."""
    return deploy.slug_url.partition("?")[0]
