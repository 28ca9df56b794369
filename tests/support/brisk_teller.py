"""A teller of pods whose workers are not nice: beside other tests they would not get their turn."""

from collections.abc import Sequence
from dataclasses import replace

from run_agent.cluster.account import Account
from run_agent.cluster.messages import Request, Result
from run_agent.cluster.teller import Pace, Teller, ask_worker


def brisk_teller(account: Account, *, pace: Pace | None = None) -> Teller:
    """Return a teller with real workers, each as quick as one that is urgent."""
    return Teller(account, ask=_ask, pace=pace)


async def _ask(request: Request, deadline: float) -> Sequence[Result]:
    return await ask_worker(replace(request, is_urgent=True), deadline)
