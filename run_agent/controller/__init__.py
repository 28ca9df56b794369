"""The controller: what tells us the current deploy and the SSH keys.

Owns HTTP out to the controller (`http`, on `exchange`), the folder that stands in
for one (`directory`), and the judgement of what either says (`parse`). Must not touch the slug
itself, the volume, the environment or the node: what comes out is a `model.Deploy`, lines and
strings. Which deploy is booted when there is no answer is decided by the caller.

All calls block; asyncio code makes them in a thread. Any number of threads may share a
controller. Requests is imported only where the controller is an HTTP one.
"""

from pathlib import Path
from typing import Protocol
from urllib.parse import unquote, urlsplit

from run_agent.controller.directory import DirectoryController
from run_agent.controller.parse import SshKeys
from run_agent.errors import SettingsError
from run_agent.model import Deploy
from run_agent.settings import Settings

__all__ = ["Controller", "SshKeys", "connect"]


class Controller(Protocol):
    """Where the current deploy and the keys come from.

    `patience` is how many seconds a call may take, retries included; 0 asks once. Every call
    raises `DeniedError` where asking again is useless before somebody changes something (401,
    403, 404), and `UnavailableError` where there was no usable answer in time.
    """

    def current_deploy(self, patience: float) -> Deploy:
        """Return the deploy that is to run."""

    def ssh_keys(self, patience: float) -> SshKeys:
        """Return the keys that may log in; asked once, for it is asked again in a minute."""

    def host_index(self, hostname: str, patience: float) -> str | None:
        """Return the `HOST_INDEX` of this replica; none where the controller assigns none."""

    def migrate_expression(self, app_name: str, patience: float) -> str | None:
        """Return what to evaluate to migrate `app_name`; none where we build it ourselves."""


def connect(settings: Settings, app: str) -> Controller:
    """Return the controller that `CONTROLLER_URL` names; nothing is asked yet.

    Raises `SettingsError` for `none`, and for an HTTP controller without `APP_KEY`.
    """
    url = settings.controller_url
    parts = urlsplit(url)
    if parts.scheme == "file":
        return DirectoryController(Path(unquote(parts.path)))
    if not settings.follows_http_controller:
        raise SettingsError([f"CONTROLLER_URL={url} names no controller, and this needs one"])
    if settings.app_key is None:
        raise SettingsError([f"APP_KEY is missing: the controller at {url} wants it"])
    from run_agent.controller import http  # noqa: PLC0415 - brings requests and tenacity

    return http.HttpController(url, app, settings.app_key)
