"""What a client asks for on its connection (RFC 4254), and what it may have.

Sessions up to a number, and forwards to the replica itself. Everything else is refused, which the
audit tells, and the client as far as the protocol has words for it.
"""

from __future__ import annotations

import itertools
from collections.abc import Awaitable

import asyncssh

from run_agent.ssh.daemon.connection import Connection
from run_agent.ssh.daemon.forwards.forward import Forward, Forwards
from run_agent.ssh.daemon.sessions.session import Session
from run_agent.ssh.daemon.site import Login

NUMBERS = itertools.count(1)
"""Of sessions: no two in the life of the daemon have the same."""


class Requests(asyncssh.SSHServer):
    """Answers one connection; asyncssh makes it and asks it."""

    _connection: Connection
    _forwards: Forwards

    def __init__(self) -> None:
        self._sessions = 0

    # -- logging in -------------------------------------------------------------------------------

    def connection_made(self, conn: asyncssh.SSHServerConnection) -> None:
        """Begin."""
        assert isinstance(conn, Connection)
        self._connection = conn

    def begin_auth(self, username: str) -> bool:
        """Nobody gets in without a key."""
        self._connection.begin(username)
        return True

    def public_key_auth_supported(self) -> bool:
        """Keys are the one way in."""
        return True

    def validate_public_key(self, username: str, key: asyncssh.SSHKey) -> bool:  # noqa: ARG002
        """Whether this is the key that the connection has found in the list."""
        return self._connection.trusts(key)

    def auth_completed(self) -> None:
        """Somebody has logged in."""
        self._connection.logged_in()
        self._forwards = Forwards(self._connection.site, self._login, self._connection.refuse)
        self._connection.flows.add(self._forwards)

    def connection_lost(self, exc: Exception | None) -> None:
        """End what belongs to the connection; sessions hear it from their channels."""
        if self._connection.login is not None:
            self._forwards.close()
        self._connection.lost(exc)

    # -- what is given ----------------------------------------------------------------------------

    def session_requested(self) -> Session:
        """Open a session, up to `SSH_MAX_SESSIONS` of this connection at once."""
        most = self._connection.site.options.ssh_max_sessions
        if self._sessions >= most:
            reason = f"{most} sessions are open on this connection already"
            self._connection.refuse_session(reason)
            raise asyncssh.ChannelOpenError(asyncssh.OPEN_RESOURCE_SHORTAGE, reason)
        self._sessions += 1
        return Session(self._connection.site, self._login, next(NUMBERS), self._session_ended)

    def _session_ended(self) -> None:
        self._sessions -= 1

    def connection_requested(
        self,
        dest_host: str,
        dest_port: int,
        orig_host: str,  # noqa: ARG002 - whatever the client says
        orig_port: int,  # noqa: ARG002
    ) -> Awaitable[Forward]:
        """Open a forward (`-L`, `-D`)."""
        return self._forwards.request(dest_host, dest_port)

    # -- what is refused --------------------------------------------------------------------------

    def unix_connection_requested(self, dest_path: str) -> bool:
        """Refuse `-L` to a Unix socket: behind one is the agent's own."""
        raise self._prohibited("forward", "Unix socket", destination=dest_path)

    def server_requested(self, listen_host: str, listen_port: int) -> bool:
        """Refuse `-R`; the protocol has no word for why, the client's debug log has."""
        self._prohibited("remote forward", "remote", destination=f"{listen_host}:{listen_port}")
        return False

    def unix_server_requested(self, listen_path: str) -> bool:
        """Refuse `-R` from a Unix socket."""
        self._prohibited("remote forward", "remote", destination=listen_path)
        return False

    def tun_requested(self, unit: int | None) -> bool:  # noqa: ARG002 - none is given
        """Refuse `-w`."""
        raise self._prohibited("forward", "network device")

    def tap_requested(self, unit: int | None) -> bool:
        """Refuse `-w` with `Tunnel=ethernet`."""
        return self.tun_requested(unit)

    def _prohibited(self, what: str, kind: str, **fields: object) -> asyncssh.ChannelOpenError:
        reason = f"{kind} forwards are not allowed here"
        self._connection.refuse(what, reason, **fields)
        return asyncssh.ChannelOpenError(asyncssh.OPEN_ADMINISTRATIVELY_PROHIBITED, reason)

    @property
    def _login(self) -> Login:
        assert self._connection.login is not None  # asyncssh lets nobody ask before
        return self._connection.login
