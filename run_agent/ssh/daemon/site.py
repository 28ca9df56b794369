"""What all parts of the daemon share, and what is known of somebody who has logged in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from run_agent.model import Launch
from run_agent.settings import Settings
from run_agent.ssh.authorized_keys import AuthorizedKey

if TYPE_CHECKING:
    from run_agent.ssh.daemon.audit import Audit
    from run_agent.ssh.daemon.processes.children import Children


@dataclass(frozen=True, slots=True)
class Site:
    """The daemon's surroundings; one for the life of the process."""

    app: str
    options: Settings
    launch: Callable[[], Launch]
    """What sessions get: the release's environment and the app folder, as it was last started;
    before that the container's own."""
    children: Children
    audit: Audit


@dataclass(frozen=True, slots=True)
class Login:
    """Somebody who got in: over which connection, with which key, from where."""

    number: int
    user: str
    key: AuthorizedKey
    source: tuple[str, int]
    local: tuple[str, int]
