"""The release that runs here, for verbs that reach its node: what it is, and whether it is up."""

import os
from collections.abc import Sequence
from dataclasses import dataclass

from entrypoint import launch as launches
from entrypoint.session import Session
from run_agent import epmd, erl_home, release, turns
from run_agent.errors import UnavailableError
from run_agent.model import Secret


@dataclass(frozen=True, slots=True)
class Running:
    """The release and its node (`name@host`) in the environment of a session."""

    session: Session
    release: release.Release
    node: str
    cookie: Secret

    @property
    def script(self) -> str:
        """The start script by the app folder's name, as the release itself was started."""
        return str(self.session.layout.app / "bin" / self.release.name)

    @property
    def epmd_port(self) -> int:
        """Where the node's port mapper listens."""
        return epmd.port_in(self.session.env)

    def distribution_port(self) -> int:
        """Return where the node takes other nodes; raises `UnavailableError` if it is down."""
        port = epmd.distribution_port(self.node, self.epmd_port)
        if port is None:
            raise UnavailableError(
                f"cannot reach the node {self.node}: epmd on port {self.epmd_port} does not know "
                "it, so it is down, still booting, or was started without its name; see "
                "`run-agent status`"
            )
        return port

    def without_release(self) -> tuple[Session, str]:
        """Return what an Erlang program needs that we start ourselves, instead of a start script.

        These are a session whose home folder holds the cookie, and a name for its hidden node. It
        is our process's number, which no other console has meanwhile, and which comes again:
        every new name stays in the node's atom table for good.
        """
        home = erl_home.prepare(self.session.layout.run, self.cookie)
        name = f"run-agent-console-{os.getpid()}@{self.node.partition('@')[2]}"
        return self.session.with_env({"HOME": str(home)}), name

    def take_turns(self, arguments: Sequence[str]) -> None:
        """Wait while another call of the start script runs that these `arguments` would disturb.

        What we become keeps the lock until it ends. Raises `RunAgentError` (75) past the deadline.
        """
        tool = self.release.tool
        if tool is None or not arguments or arguments[0] not in tool.alone:
            return
        turns.take_for_good(self.session.layout.run, f"{self.release.name} {arguments[0]}")


def find(session: Session) -> Running:
    """Return what runs here; raises `UnavailableError` where it is no release but a command."""
    env = session.env
    deploy = launches.load_deploy(session.layout)
    name = deploy.app_name if deploy else env.get("GIGALIXIR_APP_NAME")
    if name is None or "RELEASE_NODE" not in env:
        raise UnavailableError(
            "cannot reach a node: what runs here is a command (`run-agent exec`), and no release"
        )
    what = release.identify(
        session.layout.app.resolve(),
        name,
        distillery_eval=deploy.distillery_eval if deploy else None,
    )
    return Running(session, what, env["RELEASE_NODE"], Secret(env["RELEASE_COOKIE"]))


def find_any(session: Session) -> Running | None:
    """Return what runs here; None where it is no release."""
    try:
        return find(session)
    except UnavailableError:
        return None
