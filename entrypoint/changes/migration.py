"""`migrate`: the database, by the code that serves."""

import asyncio
import logging
from collections.abc import Mapping
from typing import Any

from entrypoint import launch as launches
from entrypoint.changes.site import Site
from entrypoint.control import Answer, Tell
from run_agent import release
from run_agent.errors import RunAgentError
from upgrade import migrate
from upgrade.outcome import RefusedError, Verdict

EXPRESSION_SECONDS = 3.0
"""How long the controller may take to say how to migrate; without an answer we know ourselves."""

log = logging.getLogger("changes")


class Migration:
    """The migrations of one replica's release."""

    def __init__(self, site: Site) -> None:
        self._site = site

    async def migrate(self, arguments: Mapping[str, Any], tell: Tell) -> Answer:
        """Run the pending migrations of the app that `name` names, while nothing else changes."""
        site, name = self._site, arguments.get("name")
        facts = site.replica.facts
        app = str(name or facts.release or facts.app)
        name_of_change, by = f"migration of {app}", arguments.get("asked_by")
        async with site.alone("migrate", name_of_change, lambda _: None, by=by):
            deploy = launches.load_deploy(site.layout)
            folder = site.layout.app.resolve()
            what = release.identify(
                folder,
                facts.release or facts.app,
                distillery_eval=deploy.distillery_eval if deploy else None,
            )
            try:
                migrated = await migrate.migrate(
                    migrate.Migrating(site.node(), what, folder),
                    name,
                    lambda stream, text: tell({"stream": stream, "text": text}),
                    expression=await self._expression(app),
                )
            except RunAgentError as error:
                refused = isinstance(error, RefusedError)
                site.say_last("migrate", str(Verdict.REFUSED) if refused else "failed", str(error))
                raise
            site.say_last("migrate", str(Verdict.DONE), f"migrated {app}")
            return Answer(migrated.to_json())

    async def _expression(self, app: str) -> str | None:
        """Ask the controller; one that is out of reach is no reason not to migrate."""
        site = self._site
        if not site.has_controller:
            return None
        try:
            return await asyncio.to_thread(
                site.controller().migrate_expression, app, EXPRESSION_SECONDS
            )
        except RunAgentError as error:
            log.warning("%s; migrating as Ecto itself does", error)
            return None
