"""Where a change leads: what is fetched or found, and whether it can be reached in place."""

import asyncio
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from entrypoint import launch as launches
from entrypoint.changes.site import Say, Site
from entrypoint.deploys import Chooser, amount
from run_agent import release
from run_agent.model import Deploy, Slug
from run_agent.node import Node
from run_agent.slug import fetch, record, tree
from upgrade import plan, releases, unraised
from upgrade.failures import Failures
from upgrade.model import Serving
from upgrade.outcome import Outcome, RefusedError, Verdict

PROGRESS_STEPS = 10
"""How many lines the fetch of a slug is worth."""


@dataclass(frozen=True, slots=True)
class Target:
    """A version to move to. `slug` is none where only the node's own tree has it.

    `placed` tells whether its files are in the node's tree already; `down`, whether the relup of
    the version that serves leads there, and not its own.
    """

    what: release.Release
    version: str
    slug: Slug | None
    deploy: Deploy | None
    down: bool
    placed: bool
    notes: tuple[str, ...] = ()


class Targets:
    """The versions that the release of `site` can be changed to."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._layout = site.layout
        self._trees = tree.Trees(site.layout)
        self._failures = Failures(site.layout.deploys)

    async def current(
        self,
        say: Say,
        node: Node,
        serving: Serving,
        *,
        url: str | None,
        version: str | None,
        force: bool,
    ) -> Target | Outcome:
        """Fetch the controller's current deploy, or the slug at `url`, and look at it.

        Returns an outcome where it serves already. Raises `RefusedError` where it cannot be
        reached in place, and what a fetch raises.
        """
        deploy, slug = await self._fetch(say, self._given(url) if url else None)
        say("checking")
        what = release.identify(slug.path, deploy.app_name, distillery_eval=deploy.distillery_eval)
        if version not in {None, what.version, deploy.version}:
            raise RefusedError(
                f"cannot upgrade to {version}: the current deploy {deploy.label} is {what.name} "
                f"{what.version}; deploy {version} first, or leave the version out"
            )
        return await self._decide(node, serving, deploy, slug, what, force=force)

    async def earlier(self, node: Node, serving: Serving, version: str) -> Target | Outcome:
        """Find an old version that the node still has; raises `RefusedError`."""
        facts = self._site.replica.facts
        slug = await self._slug_of(serving, version)
        deploy = launches.load_deploy(self._layout) if slug else None
        if slug is not None and deploy is not None:
            good = await asyncio.to_thread(record.read_good, self._layout.deploys, slug.digest)
            named = good.deploy if good else replace(deploy, version=None, slug_url=slug.source)
            deploy = replace(named, config=deploy.config)  # a version goes back, its settings stay
        what = release.identify(slug.path if slug else serving.root, facts.release or facts.app)
        decided = await self._decide_back(node, serving, version, what, slug, deploy)
        if slug is None and facts.started is not None and isinstance(decided, Target):
            raise RefusedError(
                f"cannot downgrade to {version}: its slug is not on the volume any more, so a "
                "restart could not boot it; deploy it the ordinary way"
            )
        return decided

    async def _slug_of(self, serving: Serving, version: str) -> Slug | None:
        digest = await asyncio.to_thread(self._site.additions(serving.root).digest_of, version)
        if digest is None and self._release_at(serving).version == version:
            digest = self._site.replica.facts.started
        return await asyncio.to_thread(self._trees.find, digest) if digest else None

    async def _decide(
        self,
        node: Node,
        serving: Serving,
        deploy: Deploy,
        slug: Slug,
        what: release.Release,
        *,
        force: bool,
    ) -> Target | Outcome:
        """Return where to go; an outcome where nothing is to be done. Raises `RefusedError`."""
        relup = await releases.relup(node, self._layout.run, _relup(slug.path, what.version))
        decided = plan.decide(
            self._running(serving),
            plan.Target(slug.digest, what, relup, deploy.label),
            failed=await asyncio.to_thread(self._failures.of, slug.digest),
            force=force,
        )
        if isinstance(decided, plan.AlreadyThere):
            return self._already_there(serving, deploy)
        assert what.version is not None or isinstance(decided, plan.Refused)
        version = str(what.version)
        has = await self._has(serving, version, slug.digest)
        if isinstance(decided, plan.Refused):
            if has:  # an earlier version, to which the relup of the one that serves leads
                return await self._decide_back(node, serving, version, what, slug, deploy)
            raise RefusedError(str(decided))
        if not has:
            await asyncio.to_thread(self._site.additions(serving.root).require_writable)
        notes = decided.notes + await asyncio.to_thread(_unraised, serving.root, slug.path)
        return Target(what, version, slug, deploy, down=False, placed=has, notes=notes)

    async def _decide_back(
        self,
        node: Node,
        serving: Serving,
        version: str,
        what: release.Release,
        slug: Slug | None,
        deploy: Deploy | None,
    ) -> Target | Outcome:
        """Return how to go back to a version that the node has; raises `RefusedError`."""
        relup = await releases.relup(node, self._layout.run, _relup(serving.root, serving.version))
        decided = plan.decide_down(
            self._running(serving),
            version,
            relup,
        )
        if isinstance(decided, plan.AlreadyThere):
            return self._already_there(serving, deploy)
        if isinstance(decided, plan.Refused):
            raise RefusedError(str(decided))
        return Target(what, version, slug, deploy, down=True, placed=True, notes=decided.notes)

    async def _fetch(self, say: Say, given: Deploy | None) -> tuple[Deploy, Slug]:
        options, loop = self._site.options, asyncio.get_running_loop()
        shown = -1

        def show(label: str, progress: fetch.Progress) -> None:
            nonlocal shown
            tenth = progress.bytes * PROGRESS_STEPS // progress.total if progress.total else 0
            if tenth > shown:
                shown = tenth
                say(f"fetching deploy {label}: {amount(progress)}")

        chooser = Chooser(
            options, self._site.replica, self._site.environ,
            deadline=loop.time() + options.boot_deadline_seconds, tell=self._site.publish,
            show=show,
        )  # fmt: skip
        return await chooser.wanted(None if given else self._site.controller(), given)

    def _given(self, url: str) -> Deploy:
        """Return a slug that somebody names as a deploy with the settings that are in force."""
        facts = self._site.replica.facts
        current = launches.load_deploy(self._layout)
        name = facts.release or facts.app
        if current is None:
            return Deploy(url, name)
        return Deploy(url, name, config=current.config, distillery_eval=current.distillery_eval)

    def _running(self, serving: Serving) -> plan.Running:
        facts = self._site.replica.facts
        return plan.Running(facts.digest, self._release_at(serving), serving, facts.deploy)

    def _release_at(self, serving: Serving) -> release.Release:
        facts = self._site.replica.facts
        return release.identify(serving.root, facts.release or facts.app)

    async def _has(self, serving: Serving, version: str, digest: str) -> bool:
        """Tell whether the node has this very build of a version, from before."""
        if serving.status_of(version) != "old":
            return False
        additions = self._site.additions(serving.root)
        placed = await asyncio.to_thread(additions.digest_of, version)
        return digest in {placed, self._site.replica.facts.started}

    def _already_there(self, serving: Serving, deploy: Deploy | None) -> Outcome:
        current = launches.load_deploy(self._layout)
        notes: tuple[str, ...] = ()
        if deploy is not None and current is not None and deploy.config != current.config:
            notes = ("its configuration differs: `run-agent reconfigure` puts it in force",)
        return Outcome(
            Verdict.ALREADY_THERE, f"{serving.version} serves already", serving.version, notes
        )

    def on_volume(self) -> list[dict[str, Any]]:
        """Tell of the deploys on the volume whose tree is whole."""
        digests = sorted(record.digests(self._layout.deploys))
        return [deploy for digest in digests if (deploy := self._deploy(digest))]

    def _deploy(self, digest: str) -> dict[str, Any] | None:
        slug = self._trees.find(digest)
        if slug is None:
            return None
        good = record.read_good(self._layout.deploys, digest)
        facts = self._site.replica.facts
        name = good.deploy.app_name if good else facts.release or facts.app
        return {
            "digest": digest,
            "deploy": good and good.deploy.label,
            "version": release.identify(slug.path, name).version,
            "current": self._trees.current() == digest,
            "good_at": good and time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(good.at)),
        }


def _relup(root: Path, version: str | None) -> Path:
    return root / "releases" / str(version) / "relup"


def _unraised(root: Path, folder: Path) -> tuple[str, ...]:
    found = unraised.libraries(root, folder)
    if not found:
        return ()
    named = ", ".join(found)
    return (f"the code of {named} differs, but not the version: it changes at the next start only",)
