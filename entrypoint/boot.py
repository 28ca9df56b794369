"""The composition root: from orders to the launch of a release."""

import asyncio
import functools
import logging
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from entrypoint import launch as launches
from entrypoint.deploys import Chooser, Chosen, changes_on_disk, in_use
from entrypoint.orders import BOOTSTRAP, DISTILLERY_JOB, EXEC, Orders
from entrypoint.replica import Replica
from entrypoint.session import Session
from run_agent import health, node, release
from run_agent.errors import RunAgentError, SettingsError
from run_agent.model import Deploy, Launch, Secret
from run_agent.release import environment, identity, releases_file, start
from run_agent.settings import NO_CONTROLLER, Settings, port_number
from run_agent.slug import tree

JOB_NAME_BYTES = 4
"""Of chance in the name of a job's node: two jobs at one address are few, and never share it."""

log = logging.getLogger("boot")


async def boot(
    orders: Orders,
    options: Settings,
    environ: Mapping[str, str],
    replica: Replica,
    *,
    up_seconds: float,
    tell: Callable[[], None],
) -> dict[str, Any]:
    """Prepare everything that the release needs, and return its launch for PID 1.

    `up_seconds` of the boot's deadline are gone already; `tell` publishes what is waited for.
    Raises `RunAgentError`; 75 when the deadline is reached.
    """
    _say_who_gets_in(orders, options)
    left = max(0.0, options.boot_deadline_seconds - up_seconds)
    try:
        async with asyncio.timeout(left) as deadline:
            if orders.verb == EXEC:
                launch = _given_command(orders, options, environ, replica)
            else:
                chooser = Chooser(
                    options, replica, environ, deadline=deadline.when() or 0, tell=tell
                )
                launch = await _release(orders, options, environ, replica, chooser)
    except TimeoutError:
        if not deadline.expired():
            raise  # not ours: some system call's own
        waits = ", ".join(str(wait["what"]) for wait in replica.waits()) or "the start"
        raise RunAgentError(
            f"cannot boot within {options.boot_deadline_seconds:g} s: still waiting for {waits}; "
            "see the log above, or raise BOOT_DEADLINE_SECONDS",
            exit_code=os.EX_TEMPFAIL,
        ) from None
    return launches.to_json(launch)


def _say_who_gets_in(orders: Orders, options: Settings) -> None:
    if options.serves_ssh(has_controller=orders.asks_controller):
        log.info("SSH listens on port %d", options.ssh_port)
    elif options.ssh_port is not None:
        log.info(
            "SSH is off: nobody tells whose keys may log in; follow a controller, or set "
            "SSH_KEYS_FILE"
        )


def _given_command(
    orders: Orders, options: Settings, environ: Mapping[str, str], replica: Replica
) -> Launch:
    _refuse_check_without_node(options, has_node=False)
    launch = Launch(orders.command, environ, Path.cwd(), stop_group=True)
    launches.save(options.layout, launch, None)
    replica.learn(port=options.port, kind="command")
    return launch


async def _release(
    orders: Orders,
    options: Settings,
    environ: Mapping[str, str],
    replica: Replica,
    chooser: Chooser,
) -> Launch:
    chosen = await _choose(orders, options, chooser)
    environment.discard_written(options.layout)
    if chosen.slug is not None and not orders.is_job:  # a replica may be running there
        additions = changes_on_disk(options.layout, chosen.slug.digest)
        await asyncio.to_thread(additions.restore)  # what a change in place has left there
    prepared = await prepare(
        orders, options, environ, chosen.deploy, chosen.tree, chosen.host_index
    )
    _refuse_check_without_node(
        options, has_node=prepared.what.tool is not None or bool(prepared.what.erl_call)
    )
    if chosen.slug is not None:
        releases_file.create_missing(prepared.what)  # an image's own is the builder's business
        tree.Trees(options.layout).switch(chosen.slug.digest)
    for name in prepared.who.generated:
        log.warning("%s was not given: made one, kept on the volume; other replicas differ", name)
    launches.save(options.layout, prepared.launch, chosen.deploy if chosen.slug else None)
    _learn(replica, chosen, prepared)
    return prepared.launch


@dataclass(frozen=True, slots=True)
class Prepared:
    """A release, who its node is, and how it is started."""

    what: release.Release
    who: identity.Identity
    launch: Launch


async def prepare(
    orders: Orders,
    options: Settings,
    environ: Mapping[str, str],
    deploy: Deploy,
    folder: Path,
    host_index: str | None = None,
) -> Prepared:
    """Prepare a start of `deploy` in its tree; writes what it needs into the run folder."""
    what = release.identify(folder, deploy.app_name, distillery_eval=deploy.distillery_eval)
    started = None
    if not orders.is_job:
        named_by = None if _follows(orders, options) else orders.verb
        started = start.choose(what, options.layout.app, orders.command, named_by=named_by)
    basename = _job_basename(orders.app) if orders.is_job else None
    who = identity.establish(orders.app, options, basename=basename)
    env = await environment.build(
        environ, settings=options, identity=who, deploy=deploy, release=what,
        command=orders.command, host_index=host_index,
    )  # fmt: skip
    _refuse_unusable_port(options, env)
    if started is None:
        started = _start_of_job(orders, what, Session(options.layout, folder, env))
    return Prepared(what, who, Launch(started.argv, env, options.layout.app, started.stop_group))


def _follows(orders: Orders, options: Settings) -> bool:
    return orders.asks_controller and options.controller_url != NO_CONTROLLER


def _job_basename(app: str) -> str:
    """Name a job's node: like no replica, and like no other job that has the same address."""
    return f"job-{app}-{os.urandom(JOB_NAME_BYTES).hex()}"


def _start_of_job(orders: Orders, what: release.Release, session: Session) -> start.Start:
    """Return the given command, or that of the release's script by the app folder's name."""
    if orders.verb != DISTILLERY_JOB:
        return start.Start(session.argv_of(orders.command), stop_group=True)
    if what.script is None:
        raise RunAgentError(
            f"cannot run a command of the release's script: the slug has no bin/{what.name}; set "
            "customer_app_name to the name of the release, or use `run-agent job -- CMD`",
            exit_code=os.EX_CONFIG,
        )
    script = session.layout.app / "bin" / what.name
    return start.Start((str(script), *orders.command), stop_group=True)


def _refuse_check_without_node(options: Settings, *, has_node: bool) -> None:
    problems = []
    if options.ready_check.kind == "node" and not has_node:
        advice = "set it to port, http:/PATH or none"
        problems.append(f"READY_CHECK=node asks a release's node, and this is none: {advice}")
    if options.cluster_min > 1 and not has_node:
        problems.append(
            f"CLUSTER_MIN={options.cluster_min} counts a release's nodes, and this is none: "
            "leave it out"
        )
    if problems:
        raise SettingsError(problems)


async def _choose(orders: Orders, options: Settings, chooser: Chooser) -> Chosen:
    if orders.verb == BOOTSTRAP:
        assert options.slug_url is not None
        return await chooser.given(orders.app, options.slug_url.reveal())
    if options.controller_url == NO_CONTROLLER:
        return await chooser.from_image(orders.app)
    return await chooser.from_controller(orders.app)


def _learn(replica: Replica, chosen: Chosen, prepared: Prepared) -> None:
    digest = chosen.slug and chosen.slug.digest
    replica.learn(
        node=prepared.who.node,
        deploy=chosen.deploy.label if chosen.slug else "image",
        digest=digest,
        started=digest,
        kind=str(prepared.what.kind),
        version=prepared.what.version,
        release=prepared.what.name,
        port=port_in(prepared.launch.env),
    )


def port_in(env: Mapping[str, str]) -> int | None:
    """Return the port on which the app is to accept; none where PORT is no port."""
    return port_number(env.get("PORT", ""))


def _refuse_unusable_port(options: Settings, env: Mapping[str, str]) -> None:
    """Refuse a PORT, the config's or a script's, at which no app can become ready."""
    port = port_in(env)
    if options.ready_check.kind in {"port", "http"} and port is None:
        raise SettingsError([f"PORT={env.get('PORT', '')!r} in the release's environment is none"])
    for name, taken in (("HEALTH_PORT", options.health_port), ("DIST_PORT", options.dist_port)):
        if port is not None and port == taken:
            raise SettingsError(
                [f"PORT={port} in the release's environment is {name} as well; set another one"]
            )


def ready_check(options: Settings, replica: Replica) -> health.Check:
    """Return how to ask whether what was booted is ready; works for a successor as well."""
    facts = replica.facts
    running = functools.cache(node_of)

    async def node_runs() -> str | None:
        name = facts.release or facts.app
        runs = await running(options, name).runs(name)
        return None if runs else f"the node {facts.node} to answer and to run {name}"

    return health.check_for(
        options.ready_check,
        port=facts.port or options.port,
        address=facts.node.partition("@")[2] if facts.node else None,
        node=node_runs,
    )


def node_of(options: Settings, name: str) -> node.Node:
    """Return the node that was started here, as its saved environment names it."""
    launch = launches.load(options.layout)
    deploy = launches.load_deploy(options.layout)
    what = release.identify(
        options.layout.app.resolve(),
        name,
        distillery_eval=deploy.distillery_eval if deploy else None,
    )
    return node.Node(
        name=launch.env["RELEASE_NODE"],
        cookie=Secret(launch.env["RELEASE_COOKIE"]),
        env=launch.env,
        run=options.layout.run,
        erl_call=what.erl_call,
        by_tool=what.evaluate,
    )


def keep(options: Settings, replica: Replica) -> None:
    """Remember the deploy that became ready as good, and remove what is not needed any more."""
    digest, deploy = replica.facts.digest, launches.load_deploy(options.layout)
    if digest is None or deploy is None:
        return
    trees = tree.Trees(options.layout)
    trees.mark_good(digest, deploy, time.time(), app=replica.facts.app)
    for removed in trees.prune(in_use(options.layout, replica.facts)):
        log.info("removed the old deploy %s", removed[:12])
