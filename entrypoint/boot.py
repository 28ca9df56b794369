"""The composition root: from orders to the launch of a release."""

import asyncio
import functools
import logging
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from entrypoint import launch as launches
from entrypoint.deploys import Chooser, Chosen
from entrypoint.orders import BOOTSTRAP, EXEC, Orders
from entrypoint.replica import Replica
from run_agent import health, node, release
from run_agent.errors import RunAgentError, SettingsError
from run_agent.model import Launch, Secret
from run_agent.release import environment, identity, releases_file, start
from run_agent.settings import NO_CONTROLLER, Settings
from run_agent.slug import tree

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
    what = release.identify(
        chosen.tree, chosen.deploy.app_name, distillery_eval=chosen.deploy.distillery_eval
    )
    started = start.choose(what, options.layout.app, orders.command)
    _refuse_check_without_node(options, has_node=what.tool is not None or bool(what.erl_call))
    if chosen.slug is not None:
        releases_file.create_missing(what)  # an image's own release is the builder's business
    who = identity.establish(orders.app, options)
    for name in who.generated:
        log.warning("%s was not given: made one, kept on the volume; other replicas differ", name)
    env = await environment.build(
        environ, settings=options, identity=who, deploy=chosen.deploy, release=what,
        command=orders.command, host_index=chosen.host_index,
    )  # fmt: skip
    _refuse_unusable_port(options, env)
    if chosen.slug is not None:
        tree.Trees(options.layout).switch(chosen.slug.digest)
    launch = Launch(started.argv, env, options.layout.app, started.stop_group)
    launches.save(options.layout, launch, chosen.deploy if chosen.slug else None)
    _learn(replica, chosen, what, who, env)
    return launch


def _refuse_check_without_node(options: Settings, *, has_node: bool) -> None:
    if options.ready_check.kind == "node" and not has_node:
        advice = "set it to port, http:/PATH or none"
        raise SettingsError([f"READY_CHECK=node asks a release's node, and this is none: {advice}"])


async def _choose(orders: Orders, options: Settings, chooser: Chooser) -> Chosen:
    if orders.verb == BOOTSTRAP:
        assert options.slug_url is not None
        return await chooser.given(orders.app, options.slug_url.reveal())
    if options.controller_url == NO_CONTROLLER:
        return await chooser.from_image(orders.app)
    return await chooser.from_controller(orders.app)


def _learn(
    replica: Replica,
    chosen: Chosen,
    what: release.Release,
    who: identity.Identity,
    env: Mapping[str, str],
) -> None:
    replica.learn(
        node=who.node,
        deploy=chosen.deploy.label if chosen.slug else "image",
        digest=chosen.slug and chosen.slug.digest,
        kind=str(what.kind),
        version=what.version,
        release=what.name,
        port=_port(env),
    )


def _port(env: Mapping[str, str]) -> int | None:
    port = env.get("PORT", "")
    return int(port) if port.isdecimal() and 1 <= int(port) <= 65535 else None


def _refuse_unusable_port(options: Settings, env: Mapping[str, str]) -> None:
    """Refuse a PORT, the config's or a script's, at which no app can become ready."""
    port = _port(env)
    if options.ready_check.kind in {"port", "http"} and port is None:
        raise SettingsError([f"PORT={env.get('PORT', '')!r} in the release's environment is none"])
    if port is not None and port == options.health_port:
        raise SettingsError(
            [f"PORT={port} in the release's environment is HEALTH_PORT as well; set another one"]
        )


def ready_check(options: Settings, replica: Replica) -> health.Check:
    """Return how to ask whether what was booted is ready; works for a successor as well."""
    facts = replica.facts
    running = functools.cache(_node)

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


def _node(options: Settings, name: str) -> node.Node:
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
    for removed in trees.prune({digest}):
        log.info("removed the old deploy %s", removed[:12])
