"""Another version in the place of the one that serves: `upgrade`, `downgrade`, `releases`."""

import asyncio
import functools
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from entrypoint import boot
from entrypoint import launch as launches
from entrypoint.changes.site import Say, Site
from entrypoint.changes.targets import Target, Targets
from entrypoint.control import Answer, Tell
from entrypoint.orders import INIT
from run_agent import release
from run_agent.errors import RunAgentError
from run_agent.model import Launch, Slug
from run_agent.node import Node
from run_agent.release import Kind, releases_file, start
from run_agent.slug import record, tree
from upgrade import releases
from upgrade.failures import Failure, Failures
from upgrade.install import Host, Installation, Plan, incarnation
from upgrade.journal import Entry, Journal, Phase
from upgrade.model import Change, Serving
from upgrade.outcome import Outcome, RefusedError, Verdict

KEPT_ON_NODE = 2
"""Old versions that stay on the node, to go back to."""

log = logging.getLogger("changes")


class Versions:
    """The versions of one replica's release."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._layout = site.layout
        self._targets = Targets(site)
        self._trees = tree.Trees(site.layout)
        self._journal = Journal(site.layout.run)
        self._failures = Failures(site.layout.deploys)

    # -- verbs ----------------------------------------------------------------------------------

    async def upgrade(self, arguments: Mapping[str, Any], tell: Tell) -> Answer:
        """Move to the controller's current deploy, or to the slug that is named."""
        url, version = arguments.get("slug"), arguments.get("version")
        what = f"upgrade to {version or ('a given slug' if url else 'the current deploy')}"
        async with self._site.alone("upgrade", what, tell, by=_by(arguments)) as say:
            change = self._upgrade(say, url, version, force=bool(arguments.get("force")))
            return self._site.end("upgrade", await self._site.outcome(change))

    async def downgrade(self, arguments: Mapping[str, Any], tell: Tell) -> Answer:
        """Move back to an old version that the node still has."""
        version = str(arguments["version"])
        what = f"downgrade to {version}"
        async with self._site.alone("downgrade", what, tell, by=_by(arguments)) as say:
            outcome = await self._site.outcome(self._downgrade(say, version))
            return self._site.end("downgrade", outcome)

    async def list(self, _arguments: Mapping[str, Any], _tell: Tell) -> Answer:
        """Tell the versions on the node, and the deploys on the volume."""
        node = self._site.node()
        serving = await releases.serving(node)
        deploys = await asyncio.to_thread(self._targets.on_volume)
        return Answer(
            {
                "node": node.name,
                "serves": serving.version,
                "releases": [
                    {"name": known.name, "version": known.version, "status": known.status}
                    for known in serving.known
                ],
                "deploys": deploys,
            }
        )

    async def go_on(self, busy: str) -> None:
        """End the change that a killed agent had begun: `busy` is what PID 1 knows of it."""
        async with self._site.taking_over(busy) as say:
            entry = await asyncio.to_thread(self._journal.read)
            if entry is None:
                message = f"{busy}: cut, as the agent was killed; it may be half done"
                self._site.say_last(_verb(busy), "cut", message)
                return
            log.warning("an agent was killed during the %s: ending that", entry.what)
            await self._site.until_running()
            try:
                self._site.end(_verb(entry.what), await self._site.outcome(self._go_on(say, entry)))
            finally:  # whatever became of it: it must not be taken for a later change
                await asyncio.to_thread(self._journal.end)

    # -- the change itself ----------------------------------------------------------------------

    async def _upgrade(
        self, say: Say, url: str | None, version: str | None, *, force: bool
    ) -> Outcome:
        node = self._site.node()
        # first of all: a node that hangs, or has another cookie, is found out within seconds
        serving = await self._serving(node)
        target = await self._targets.current(
            say, node, serving, url=url, version=version, force=force
        )
        if isinstance(target, Outcome):
            return target
        return await self._move(say, node, serving, target)

    async def _downgrade(self, say: Say, version: str) -> Outcome:
        node = self._site.node()
        serving = await self._serving(node)
        say("checking")
        target = await self._targets.earlier(node, serving, version)
        if isinstance(target, Outcome):
            return target
        return await self._move(say, node, serving, target)

    async def _serving(self, node: Node) -> Serving:
        if self._site.replica.facts.version is None:
            raise RefusedError(
                "cannot change the version of a Procfile project in place: it is no release; "
                "deploy it the ordinary way (restart the replica)"
            )
        try:
            serving = await releases.serving(node)
        except RunAgentError as error:
            raise RefusedError(f"{error}; nothing has changed") from error
        if self._site.replica.facts.started is not None:
            self._site.replica.learn(started=serving.root.name)
            if serving.version == self._site.replica.facts.version:
                # once more, as the disk may have been full after the change before
                await asyncio.to_thread(self._switch, serving.root)
        return serving

    async def _move(self, say: Say, node: Node, serving: Serving, target: Target) -> Outcome:
        before = launches.load(self._layout)
        env = await self._environment(target, before)
        if target.slug is not None:
            await asyncio.to_thread(releases_file.create_missing, target.what)
        change = self._change(node, serving.root, serving.version, target.version, env, before.env)
        entry = Entry(
            phase=Phase.PLACING,
            what=f"{'downgrade' if target.down else 'upgrade'} to {target.version}",
            down=target.down,
            from_version=change.from_version,
            to_version=change.to_version,
            incarnation=await incarnation(change),
            digest=target.slug.digest if target.slug else None,
            deploy=record.deploy_to_json(target.deploy) if target.deploy else None,
            env=env,
        )
        placed_from = None if target.placed or target.slug is None else target.slug
        installation = self._installation(say, change, entry, placed_from)
        outcome = await installation.carry_out()
        concluded = await self._conclude(say, installation.entry, outcome, change.root)
        return replace(concluded, notes=(*target.notes, *concluded.notes))

    async def _environment(self, target: Target, before: Launch) -> dict[str, str]:
        """Build the environment of the version to come; raises `RunAgentError`."""
        if target.deploy is None:
            return dict(before.env)
        site = self._site
        try:
            prepared = await boot.prepare(
                site.orders, site.options, site.environ, target.deploy, target.what.tree,
                before.env.get("HOST_INDEX"),
            )  # fmt: skip
        except RunAgentError:
            await self._prepare_again()
            raise
        return dict(prepared.launch.env)

    async def _go_on(self, say: Say, entry: Entry) -> Outcome:
        root, before = self._site.root(), launches.load(self._layout)
        change = self._change(
            self._site.node(), root, entry.from_version, entry.to_version, entry.env, before.env
        )
        slug = self._trees.find(entry.digest) if entry.digest and not entry.down else None
        installation = self._installation(say, change, entry, slug)
        outcome = await installation.go_on()
        return await self._conclude(say, installation.entry, outcome, root)

    def _change(
        self,
        node: Node,
        root: Path,
        from_version: str,
        to_version: str,
        env: Mapping[str, str],
        env_before: Mapping[str, str],
    ) -> Change:
        facts = self._site.replica.facts
        return Change(
            node=node, run=self._layout.run, root=root, kind=Kind(str(facts.kind)),
            name=facts.release or facts.app, from_version=from_version, to_version=to_version,
            env=env, env_before=env_before,
        )  # fmt: skip

    def _installation(
        self, say: Say, change: Change, entry: Entry, slug: Slug | None
    ) -> Installation:
        options = self._site.options
        check = boot.ready_check(options, self._site.replica)
        steps = Plan(
            change,
            down=entry.down,
            tree=slug.path if slug else None,
            digest=slug.digest if slug else None,
            verify_seconds=options.upgrade_verify_seconds,
            settle_seconds=min(options.upgrade_settle_seconds, options.upgrade_verify_seconds),
        )
        host = Host(ready=check, restart=self._site.restart, tell=say)
        return Installation(steps, self._site.additions(change.root), self._journal, entry, host)

    async def _conclude(self, say: Say, entry: Entry, outcome: Outcome, root: Path) -> Outcome:
        """Have the replica remember how a change ended, and forget that it was under way."""
        notes: tuple[str, ...] = ()
        if outcome.verdict is Verdict.DONE:
            notes = await self._adopt(say, entry, root)
        else:
            await self._prepare_again()
        if entry.digest and outcome.verdict in {Verdict.RECOVERED, Verdict.DOWN} and not entry.down:
            failure = Failure(time.time(), entry.from_version, outcome.message)
            remember = functools.partial(self._failures.remember, entry.digest, failure)
            notes += await _tried(remember, "it will be tried again")
        await asyncio.to_thread(self._journal.end)
        if outcome.verdict is not Verdict.DONE:
            boots = f"a restart in place boots {entry.from_version}; {self._new_container()}"
            notes = (*notes, boots)
        elif entry.down or entry.deploy is None or entry.deploy["version"] is None:
            notes = (*notes, self._new_container())  # not what the controller says, for all we know
        return replace(outcome, notes=(*outcome.notes, *notes))

    async def _prepare_again(self) -> None:
        """Have the run folder hold what belongs to the version that stays: epmd, vm.args."""
        site, deploy = self._site, launches.load_deploy(self._layout)
        if deploy is None:
            return
        folder = await asyncio.to_thread(self._layout.app.resolve)
        try:
            await boot.prepare(site.orders, site.options, site.environ, deploy, folder)
        except RunAgentError as error:
            log.warning("%s", error)

    async def _adopt(self, say: Say, entry: Entry, root: Path) -> tuple[str, ...]:
        """Make the new version what a restart boots, and what sessions and `status` show.

        It serves, and that is what counts: what cannot be written is a note.
        """
        say(f"{entry.to_version} is permanent")
        deploy = record.deploy_from_json(dict(entry.deploy)) if entry.deploy else None
        self._site.replica.learn(
            deploy=deploy.label if deploy else "image",
            digest=entry.digest,
            version=entry.to_version,
            good=False,
            notes=(),
        )
        self._site.send(memo=self._site.replica.memo())
        launch = self._launch(entry, root)
        self._site.relaunch(launch)
        notes = await _tried(
            functools.partial(launches.save, self._layout, launch, deploy),
            "sessions have the environment from before",
        )
        notes += await _tried(
            functools.partial(self._switch, root),
            f"a restart in place may boot {entry.from_version}",
        )
        await self._site.keep()
        return notes + await self._remove_old(root)

    def _switch(self, root: Path) -> None:
        """Have a restart in place boot what serves, from its own tree."""
        facts = self._site.replica.facts
        if facts.started is None or facts.digest is None:
            return  # an image's own release stays where it is
        if self._trees.current() != facts.digest:
            self._trees.switch(facts.digest)
        self._site.additions(root).put_back_start()
        self._failures.forget(facts.digest)

    def _launch(self, entry: Entry, root: Path) -> Launch:
        """Return how a start in place starts the new version, its Procfile included."""
        facts = self._site.replica.facts
        name = facts.release or facts.app
        of_slug = entry.digest is not None and facts.started is not None
        folder = self._layout.deploys / str(entry.digest) if of_slug else root
        started = start.choose(
            release.identify(folder, name), self._layout.app, self._site.orders.command
        )
        return Launch(started.argv, entry.env, self._layout.app, started.stop_group)

    def _new_container(self) -> str:
        if self._site.has_controller:
            return "a new container boots the controller's current deploy"
        if self._site.orders.verb == INIT:
            return "a new container boots its image's release, unless /app is a volume that lasts"
        return "a new container boots the slug that SLUG_URL names"

    async def _remove_old(self, root: Path) -> tuple[str, ...]:
        """Keep the last two old versions on the node, besides the one that it began with."""
        node, run, additions = self._site.node(), self._layout.run, self._site.additions(root)
        try:
            serving = await releases.serving(node)
            old = [known.version for known in serving.known if known.status == "old"]
            for version in old[KEPT_ON_NODE:]:
                if await asyncio.to_thread(additions.digest_of, version):
                    await releases.remove(node, run, version)
                    await asyncio.to_thread(additions.undo, version)
        except RunAgentError as error:
            return (f"an old version could not be removed: {error}",)
        return ()


def _by(arguments: Mapping[str, Any]) -> str:
    return str(arguments.get("asked_by", "FOLLOW=hot"))


def _verb(what: str) -> str:
    """Return the verb of what is under way, as in `upgrade to 1.1.0`."""
    verbs = {"change": "reconfigure", "migration": "migrate"}
    first = what.partition(" ")[0]
    return verbs.get(first, first)


async def _tried(step: Callable[[], None], otherwise: str) -> tuple[str, ...]:
    """Do what follows a change that is over; what cannot be done is a note."""
    try:
        await asyncio.to_thread(step)
    except RunAgentError as error:
        return (f"{otherwise}: {error}",)
    return ()
