"""Which deploy is booted, and where its tree is: the controller's, a given slug, or the image's.

With a good deploy on the volume, an outage of controller or storage is no reason not to boot.
"""

import asyncio
import functools
import logging
import math
import os
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from entrypoint.replica import Facts, Replica
from run_agent import controller
from run_agent.errors import DeniedError, RunAgentError, UnavailableError
from run_agent.model import Deploy, Layout, Slug
from run_agent.settings import Settings
from run_agent.slug import app_folder, fetch, record, tree
from upgrade.additions import Additions

KEPT_PATIENCE_SECONDS = 12.0
"""How long an unreachable controller is tried where a good deploy is kept: some blips are shorter,
and a replica that waits longer serves nobody. Without one, the boot's deadline is the end."""

RESERVE_SECONDS, RESERVE_SHARE = 10.0, 0.2
"""What is left of the boot's deadline for a kept deploy, at most and as a share: a storage that is
too slow is an outage, too."""

FIRST_PAUSE_SECONDS, LAST_PAUSE_SECONDS = 1.0, 15.0
"""Between fetches that failed, each with the storage's own retries; doubled up to the last."""

INDEX_PATIENCE_SECONDS = 5.0
"""How long a host index is tried for; a release runs without one."""

PROGRESS_LOG_SECONDS = 10.0
"""How often a long fetch writes a line to the log."""

log = logging.getLogger("boot")


@dataclass(frozen=True, slots=True)
class Chosen:
    """What is booted. `slug` is none for the release that an image holds itself."""

    deploy: Deploy
    tree: Path
    slug: Slug | None
    host_index: str | None = None


class Chooser:
    """Asks the controller and fetches; `deadline` is the boot's, on the loop's clock.

    `show` is told how a fetch goes, with the deploy's label; without it our log is.
    """

    def __init__(
        self,
        options: Settings,
        replica: Replica,
        environ: Mapping[str, str],
        *,
        deadline: float,
        tell: Callable[[], None],
        show: Callable[[str, fetch.Progress], None] | None = None,
    ) -> None:
        self._options, self._replica, self._tell = options, replica, tell
        self._show = show
        self._environ = environ
        self._deadline = deadline
        self._trees = tree.Trees(options.layout)

    async def from_image(self, app: str) -> Chosen:
        """Boot what the image holds at ROOT/app; raises `SettingsError` where there is nothing."""
        app_folder.require_release(self._options.layout)
        return Chosen(Deploy("", app), self._options.layout.app, None)

    async def given(self, app: str, url: str) -> Chosen:
        """Boot one slug, whatever is on the volume."""
        app_folder.claim(self._options.layout)

        async def ask() -> Deploy:
            return Deploy(url, app)

        deploy, slug = await self._fetched(ask, patient=True)
        return Chosen(deploy, slug.path, slug)

    async def from_controller(self, app: str) -> Chosen:
        """Boot the current deploy, or in an outage the last good one on the volume."""
        app_folder.claim(self._options.layout)
        kept = await asyncio.to_thread(self._trees.last_good, app)
        if kept is not None:
            self._deadline -= min(RESERVE_SECONDS, self._remaining() * RESERVE_SHARE)
        source = controller.connect(self._options, app)
        index = asyncio.create_task(self._host_index(source), name="asks for the host index")

        async def ask() -> Deploy:
            patience = min(KEPT_PATIENCE_SECONDS, self._remaining()) if kept else math.inf
            return await self._current(source, patience)

        try:
            deploy, slug = await self._fetched(ask, patient=kept is None)
        except (UnavailableError, DeniedError) as error:
            if kept is None:
                raise
            deploy, slug = self._fall_back(kept, error)
        return Chosen(deploy, slug.path, slug, await index)

    async def wanted(
        self, source: controller.Controller | None, given: Deploy | None
    ) -> tuple[Deploy, Slug]:
        """Fetch the current deploy, or the `given` one, beside what runs; no outage is bridged."""

        async def ask() -> Deploy:
            if given is not None:
                return given
            assert source is not None
            return await self._current(source, min(KEPT_PATIENCE_SECONDS, self._remaining()))

        try:
            return await self._fetched(ask, patient=False)
        finally:  # a boot that fails says what it has waited for; this is over
            self._replica.wait_for("boot", None)
            self._tell()

    async def _fetched(
        self, ask: Callable[[], Awaitable[Deploy]], *, patient: bool
    ) -> tuple[Deploy, Slug]:
        """Ask which deploy it is to be, and fetch its slug; the worker starts up meanwhile.

        Where that is all there is to boot, be `patient` with the storage until the boot's
        deadline. The controller is asked each time: a signed URL may have expired.
        """
        # Deploys that never became ready must not fill the volume; the newest is spared, since a
        # predecessor of ours may have fetched it for this very boot.
        await asyncio.to_thread(self._prune)
        pause = FIRST_PAUSE_SECONDS
        while True:
            async with fetch.start(self._environ) as fetcher:
                deploy = await ask()
                try:
                    return deploy, await self._fetch(fetcher, deploy)
                except UnavailableError as error:
                    if not patient or error.exit_code != os.EX_TEMPFAIL:
                        raise  # waiting does not mend an untrusted certificate
                    log.warning("%s; trying again in %d s", error, pause)
            await asyncio.sleep(pause)
            pause = min(pause * 2, LAST_PAUSE_SECONDS)

    def _prune(self) -> None:
        self._trees.prune(in_use(self._options.layout, self._replica.facts), spare=1)

    async def _current(self, source: controller.Controller, patience: float) -> Deploy:
        with self._waiting(f"the current deploy from {self._options.controller_url}"):
            return await asyncio.to_thread(source.current_deploy, patience)

    async def _fetch(self, fetcher: fetch.Fetcher, deploy: Deploy) -> Slug:
        request = fetch.Request(
            url=deploy.slug_url,
            sha256=deploy.slug_sha256,
            deploys=self._options.layout.deploys,
            label=deploy.label,
            max_members=self._options.slug_max_members,
            max_bytes=self._options.slug_max_bytes,
        )
        with (
            self._waiting(f"the slug of deploy {deploy.label}"),
            closing(Progress(deploy.label)) as progress,
        ):
            show = functools.partial(self._show, deploy.label) if self._show else progress.tell
            if self._show:
                show(fetch.Progress(0, None, 0, 0))  # a storage may hang before its first byte
            return await fetcher.fetch(request, show, self._remaining())

    def _fall_back(self, kept: tuple[Deploy, Slug], error: RunAgentError) -> tuple[Deploy, Slug]:
        """Take the kept deploy, loudly: a 4xx is somebody's mistake, an outage is weather."""
        said = f"{error}; booting deploy {kept[0].label} kept on the volume"
        log.log(logging.ERROR if isinstance(error, DeniedError) else logging.WARNING, said)
        self._replica.note(said)
        self._replica.wait_for("boot", None)
        return kept

    async def _host_index(self, source: controller.Controller) -> str | None:
        hostname = self._options.hostname or os.uname().nodename
        try:
            return await asyncio.to_thread(source.host_index, hostname, INDEX_PATIENCE_SECONDS)
        except (UnavailableError, DeniedError) as error:
            log.warning("%s; the release gets no HOST_INDEX", error)
            return None

    def _remaining(self) -> float:
        return max(0.0, self._deadline - asyncio.get_running_loop().time())

    @contextmanager
    def _waiting(self, what: str) -> Iterator[None]:
        self._replica.wait_for("boot", what)
        self._tell()
        yield
        self._replica.wait_for("boot", None)
        self._tell()


def changes_on_disk(layout: Layout, digest: str) -> Additions:
    """Return what changes in place have added to the tree of that slug."""
    return Additions(layout.deploys / digest, record.added_path(layout.deploys, digest))


def in_use(layout: Layout, facts: Facts) -> set[str]:
    """Return the digests of the slugs that run, or that can be gone back to in place.

    The node stays in the tree that it began in. Raises `RunAgentError` (74).
    """
    if facts.started is None:
        return {facts.digest} if facts.digest else set()
    added = changes_on_disk(layout, facts.started).digests()
    return added | {facts.started, facts.digest or facts.started}


class Progress:
    """Shows how a fetch goes: a line that is redrawn on a terminal, one line per 10 s elsewhere."""

    def __init__(self, label: str) -> None:
        self._label = label
        self._terminal = sys.stderr.isatty()
        self._drawn = False
        self._next = time.monotonic() + PROGRESS_LOG_SECONDS

    def tell(self, progress: fetch.Progress) -> None:
        """Show it, if it is time to."""
        now = time.monotonic()
        if self._terminal:
            self._redraw(progress)
        elif now >= self._next:
            self._next = now + PROGRESS_LOG_SECONDS
            log.info("fetching the slug of deploy %s: %s", self._label, amount(progress))

    def _redraw(self, progress: fetch.Progress) -> None:
        sys.stderr.write(f"\r\033[Kfetching the slug of deploy {self._label}: {amount(progress)}")
        sys.stderr.flush()
        self._drawn = True

    def close(self) -> None:
        """End the line that was drawn."""
        if self._drawn:
            sys.stderr.write("\n")
            sys.stderr.flush()


def amount(progress: fetch.Progress) -> str:
    """Say how much of a slug is there."""
    done = f"{progress.bytes / 1e6:.0f} MB"
    if progress.total:
        done = f"{progress.bytes * 100 // progress.total} % of {progress.total / 1e6:.0f} MB"
    return f"{done}, {progress.members} files"
