"""Changes to the running release, and what the replica remembers after each.

The composition root of `upgrade`, inside the agent: `site` has what every change needs, above all
the lock that lets one change happen at a time; one module per kind of change. Loaded with the
first change: a replica that is never changed does without.
"""

from collections.abc import Callable, Coroutine, Mapping
from typing import Any

from entrypoint.changes.configuration import Configuration
from entrypoint.changes.follow import Follow
from entrypoint.changes.migration import Migration
from entrypoint.changes.site import Site
from entrypoint.changes.versions import Versions
from entrypoint.control import Verb
from entrypoint.orders import Orders
from entrypoint.replica import Replica
from run_agent.settings import Settings

__all__ = ["Changes"]


class Changes:
    """What can be changed in one replica; `Site` says what the arguments are."""

    def __init__(
        self,
        orders: Orders,
        options: Settings,
        environ: Mapping[str, str],
        replica: Replica,
        *,
        send: Callable[..., None],
        publish: Callable[[], None],
        keep: Callable[[], Coroutine[Any, Any, None]],
    ) -> None:
        self._site = Site(orders, options, environ, replica, send, publish, keep)
        self._versions = Versions(self._site)
        self._configuration = Configuration(self._site)
        self._migration = Migration(self._site)

    @property
    def verbs(self) -> Mapping[str, Verb]:
        """The verbs by their names on the control socket."""
        return {
            "upgrade": self._versions.upgrade,
            "downgrade": self._versions.downgrade,
            "releases": self._versions.list,
            "migrate": self._migration.migrate,
            "reconfigure": self._configuration.reconfigure,
        }

    async def go_on(self, busy: str) -> None:
        """End what an agent before us had begun: `busy` is what PID 1 knows of it."""
        await self._versions.go_on(busy)

    async def follow(self) -> None:
        """Change the release whenever the controller has another deploy, for ever."""
        await Follow(self._site, self._versions, self._configuration).run()

    def release_changed(self) -> None:
        """Take notice of another start, or the end, of the release."""
        self._site.release_changed()
