"""Which pod is ours, and the service account with which it is told.

The files are read by the worker, each time anew: tokens are rotated in place, about every hour
(Kubernetes documentation, "Bound service account tokens").
"""

import logging
import os
import socket
from dataclasses import dataclass
from pathlib import Path

from run_agent.model import Layout
from run_agent.settings import Settings

log = logging.getLogger("cluster")


@dataclass(frozen=True, slots=True)
class Account:
    """Where the API is, whose files prove who we are, and which pod is ours (`uid` if known)."""

    host: str
    port: int
    folder: Path
    namespace: str
    pod: str
    uid: str | None = None

    @property
    def url(self) -> str:
        """Where the API is; an IPv6 address stands in brackets (RFC 3986, 3.2.2)."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"https://{host}:{self.port}"

    @property
    def label(self) -> str:
        """How messages name the pod."""
        return f"{self.namespace}/{self.pod}"


def find(options: Settings) -> Account | None:
    """Return the account, or None where there is none, or reports are turned off.

    Where reports lack nothing but a token that is said: a readiness gate would wait for ever.
    """
    if options.kubernetes_reports == "none" or options.kubernetes_host is None:
        return None
    folder = Layout(options.root).service_account
    # `lexists`: a file that we may not read is a mistake, which the worker will name.
    if not os.path.lexists(folder / "token"):
        log.info(
            "our pod is not told how its replica is: there is no %s; give the pod a service "
            "account (automountServiceAccountToken), or set KUBERNETES_REPORTS=none",
            folder / "token",
        )
        return None
    namespace = options.pod_namespace or _namespace_in(folder)
    if namespace is None:
        log.warning(
            "cannot tell our pod how its replica is: nothing says in which namespace it is; "
            "set POD_NAMESPACE"
        )
        return None
    pod = options.pod_name or options.hostname or socket.gethostname()
    return Account(
        options.kubernetes_host, options.kubernetes_port, folder, namespace, pod, options.pod_uid
    )


def _namespace_in(folder: Path) -> str | None:
    try:
        return (folder / "namespace").read_text(encoding="utf-8").strip() or None
    except (OSError, UnicodeDecodeError):
        return None
