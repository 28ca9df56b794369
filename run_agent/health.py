"""Whether the app is ready: the checks that READY_CHECK names, each one question with a deadline.

Asks the app and the node; publishes nothing. PID 1 answers the probes.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

from run_agent.errors import RunAgentError
from run_agent.settings import ReadyCheck

CHECK_SECONDS = 2.0
"""How long one check may take; an app that needs longer to accept is not ready."""

FIRST_PAUSE, LAST_PAUSE = 0.1, 1.0
"""Seconds between checks until the app is ready: quick at first, so that readiness is noticed."""

READY_PAUSE = 10.0
"""Seconds between checks of a ready app; the kubelet's own default period."""

MISSES = 3
"""So many checks in a row must fail, a LAST_PAUSE apart, before a ready app counts as unready."""

Check = Callable[[], Awaitable[str | None]]
"""Asks once: None when ready, else what is being waited for."""


def check_for(
    ready_check: ReadyCheck, *, port: int, address: str | None, node: Check | None
) -> Check:
    """Return the check that `ready_check` names.

    `address` is the replica's own, for an app that listens on nothing else; `node` is how to ask
    the node.
    """
    hosts = tuple(dict.fromkeys(host for host in ("127.0.0.1", "::1", address) if host))
    if ready_check.kind == "port":
        return lambda: port_accepts(port, hosts)
    if ready_check.kind == "http":
        return lambda: http_answers(port, hosts, ready_check.path)
    if ready_check.kind == "node" and node is not None:
        return node
    return _always


async def watch(check: Check, tell: Callable[[str | None], None], *, ready: bool) -> None:
    """Check for ever; `tell` what is being waited for, or None while the app is ready.

    `ready` is how the app was found before: a successor of a watch goes on with it.
    """
    pause, misses = FIRST_PAUSE, 0
    while True:
        problem = await _problem(check)
        misses = misses + 1 if problem else 0
        if problem is None:
            ready, pause = True, FIRST_PAUSE
            tell(None)
        elif not ready or misses >= MISSES:
            ready, pause = False, min(pause * 2, LAST_PAUSE)
            tell(problem)
        await asyncio.sleep(READY_PAUSE if problem is None else LAST_PAUSE if ready else pause)


async def _problem(check: Check) -> str | None:
    """Ask once; what keeps a check from being made is waited for as well."""
    try:
        return await check()
    except RunAgentError as error:
        return f"its check, which fails: {error}"


async def port_accepts(port: int, hosts: tuple[str, ...]) -> str | None:
    """Ask whether something accepts on `port` at one of `hosts`."""
    for host in hosts:
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(CHECK_SECONDS):
                _, writer = await asyncio.open_connection(host, port)
            writer.close()
            return None
    return f"the app to accept on port {port}"


async def http_answers(port: int, hosts: tuple[str, ...], path: str) -> str | None:
    """Ask whether a GET of `path` is answered with 2xx or 3xx."""
    status: int | None = None
    for host in hosts:
        with contextlib.suppress(OSError, TimeoutError, ValueError, IndexError):
            async with asyncio.timeout(CHECK_SECONDS):
                status = await _status_of_get(host, port, path)
            if 200 <= status < 400:
                return None
    got = "no answer yet" if status is None else f"it answers {status}"
    return f"GET {path} on port {port} to succeed ({got})"


async def _status_of_get(host: str, port: int, path: str) -> int:
    reader, writer = await asyncio.open_connection(host, port)
    try:
        request = f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
        writer.write(request.encode())
        await writer.drain()
        return int((await reader.readline()).split()[1])
    finally:
        writer.close()


async def _always() -> str | None:
    return None
