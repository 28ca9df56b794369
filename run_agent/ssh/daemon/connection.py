"""One SSH connection, from its first byte to its last: who it is, its limits, its end.

What somebody may ask for once logged in is `requests`. asyncssh speaks the protocol (RFC 4252);
added here is what it leaves to the embedder: what a stranger can make us parse and do is bounded.
"""

from __future__ import annotations

import asyncio
import enum
import logging
from dataclasses import dataclass
from typing import AnyStr, Protocol, cast

import asyncssh
from asyncssh.packet import PacketDecodeError, SSHPacket

from run_agent.ssh import public_key
from run_agent.ssh.authorized_keys import AuthorizedKey
from run_agent.ssh.daemon.admission import Admission
from run_agent.ssh.daemon.algorithms import SIGNATURES
from run_agent.ssh.daemon.audit import Entry
from run_agent.ssh.daemon.site import Login, Site
from run_agent.ssh.daemon.transport import Transport

STRANGER_BYTES = 128 << 10
"""Most that somebody may send before logging in: six keys of RSA 16384 take a tenth of it."""

log = logging.getLogger("ssh")


@dataclass(frozen=True, slots=True)
class Arrival:
    """Somebody whom the door handed over: from where, and the seconds left to log in."""

    number: int
    source: tuple[str, int]
    local: tuple[str, int]
    grace: float


class Limit(enum.StrEnum):
    """A limit of the settings that may end a connection, as the door counts it."""

    ATTEMPTS = "too_many_attempts"
    SLOW = "too_slow"
    UNRESPONSIVE = "unresponsive"


class Watcher(Protocol):
    """Who hears what becomes of a connection."""

    def authenticated(self, connection: Connection) -> None:
        """Note that somebody has logged in: `connection.login` is set."""

    def failed(self, connection: Connection) -> None:
        """Count a wrong key."""

    def session_refused(self, connection: Connection) -> None:
        """Count a session that is one too many."""

    def closed(self, connection: Connection, reason: str) -> None:
        """Forget it: it has gone."""


class Connection(Transport):
    """Somebody at the other end; `login` is None while it is a stranger."""

    login: Login | None = None

    def __init__(
        self,
        options: asyncssh.SSHServerConnectionOptions,
        arrival: Arrival,
        site: Site,
        admission: Admission,
        watcher: Watcher,
    ) -> None:
        super().__init__(options)
        self.arrival, self.site = arrival, site
        self._admission, self._watcher = admission, watcher
        self._received_bytes = 0
        self._user: str | None = None
        self._key: AuthorizedKey | None = None
        self._attempts, self._wrong_keys = 0, 0
        self._refused: dict[str, str] = {}
        self._entry: Entry | None = None
        self._end_reason = ""
        self._limit: Limit | None = None
        loop = asyncio.get_running_loop()
        self._grace = loop.call_later(arrival.grace, self.end, "too slow to log in", Limit.SLOW)

    @property
    def limit(self) -> Limit | None:
        """The limit that has ended it; None where it was something else."""
        return Limit.UNRESPONSIVE if self.unresponsive else self._limit

    def end(self, reason: str, limit: Limit | None = None) -> None:
        """Disconnect, and tell the client and the audit why; one that has ended is left alone."""
        if not self._end_reason and not self.is_closed():
            self._end_reason, self._limit = reason, limit
            self.create_task(_disconnect(reason))

    def abort(self) -> None:
        """Drop it at once."""
        self._end_reason = self._end_reason or "dropped"
        super().abort()

    # -- its bytes --------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        try:
            super().connection_made(transport)
        except OSError as error:  # it is gone already
            cast(asyncio.Transport, transport).abort()
            self.lost(error)

    def data_received(self, data: bytes, datatype: int | None = None) -> None:
        """Take what came; from a stranger only so much."""
        if self.login is None:
            self._received_bytes += len(data)
            if self._received_bytes > STRANGER_BYTES:
                self.end("too much data before the login")
                return
        super().data_received(data, datatype)
        if self.login is None:
            self.acknowledge()

    # -- its login --------------------------------------------------------------------------------

    async def reload_config(self) -> None:
        """Keep the options: they do not depend on the user, and building them takes a thread."""

    def begin(self, user: str) -> None:
        """Note who wants in; raises for another user than before, as OpenSSH does."""
        if self._user is not None:
            raise asyncssh.ProtocolError("the user may not change")
        self._user = user

    async def validate_public_key(
        self, username: str, key_data: bytes, msg: bytes, signature: bytes
    ) -> bool:
        """Whether this key lets in; with `msg`, whether it has signed it.

        It is looked up as the bytes that came: what is not in the list is not even parsed, and so
        no certificate ever.
        """
        found = self._admission.find(username, key_data, self.arrival.source[0])
        if isinstance(found, str):
            return self._refuse(key_data, found)
        if not msg:
            return True
        self._key = found
        if not await self._has_signed(username, key_data, msg, signature):
            return self._refuse(key_data, "its signature is wrong")
        return True

    async def _has_signed(self, user: str, key_data: bytes, msg: bytes, signature: bytes) -> bool:
        try:
            kind = SSHPacket(signature).get_string().decode()
        except (PacketDecodeError, UnicodeDecodeError):
            return False
        # asyncssh tells clients what we accept, and then accepts the SHA-1 of `ssh-rsa` as well
        return kind in SIGNATURES and await super().validate_public_key(
            user, key_data, msg, signature
        )

    def trusts(self, key: asyncssh.SSHKey) -> bool:
        """Whether this is the key whose signature is being checked."""
        return self._key is not None and key.public_data == self._key.blob

    def get_key_option(self, option: str, default: object = None) -> object:
        """Answer for the one option that asyncssh enforces itself."""
        if option == "no-touch-required":
            return self._key is not None and not self._key.requires_touch
        return default

    def _refuse(self, key_data: bytes, reason: str) -> bool:
        self._wrong_keys += 1
        self._refused[public_key.fingerprint(key_data)] = reason
        self._watcher.failed(self)
        return False

    def send_userauth_failure(self, partial_success: bool) -> None:  # noqa: FBT001 - asyncssh's own
        """Refuse an attempt of whatever kind; raises when there were too many.

        Free is the first one without a key: clients ask what is possible with `none`.
        """
        self._attempts += 1
        others = self._attempts - self._wrong_keys
        if self._wrong_keys + max(others - 1, 0) >= self.site.options.ssh_max_attempts:
            self._limit = Limit.ATTEMPTS
            raise asyncssh.PermissionDenied("too many authentication failures")
        super().send_userauth_failure(partial_success)

    def logged_in(self) -> None:
        """Be somebody from now on."""
        assert self._key is not None
        assert self._user is not None
        self._grace.cancel()
        arrival = self.arrival
        self.login = Login(arrival.number, self._user, self._key, arrival.source, arrival.local)
        self._entry = self.site.audit.open("login", self.login)
        self._watcher.authenticated(self)

    # -- what it may not ---------------------------------------------------------------------------

    def refuse(self, what: str, reason: str, **fields: object) -> None:
        """Tell the audit that somebody who has logged in was refused something, and the client.

        It shows that with `-v`; where the protocol lets it, it also gets the reason as an answer.
        """
        assert self.login is not None
        self.send_debug(reason)
        self.site.audit.refuse(
            what,
            self.login.source[0],
            reason,
            user=self.login.user,
            key_fingerprint=self.login.key.fingerprint,
            key_comment=self.login.key.comment,
            connection=self.login.number,
            **fields,
        )

    def refuse_session(self, reason: str) -> None:
        """Refuse one that is too many, and have it counted."""
        self.refuse("session", reason)
        self._watcher.session_refused(self)

    async def create_agent_listener(self) -> bool:
        """Refuse to forward the client's agent: whoever runs here could use its keys."""
        self.refuse("agent forward", "agent forwarding is not allowed here")
        return False

    async def attach_x11_listener(
        self,
        chan: asyncssh.SSHServerChannel[AnyStr],  # noqa: ARG002 - asyncssh's own signature
        auth_proto: bytes,  # noqa: ARG002
        auth_data: bytes,  # noqa: ARG002
        screen: int,  # noqa: ARG002
    ) -> str | None:
        """Refuse to forward X11: whoever runs here could read the client's screen and keyboard."""
        self.refuse("X11 forward", "X11 forwarding is not allowed here")
        return None

    # -- its end ----------------------------------------------------------------------------------

    def lost(self, error: Exception | None) -> None:
        """Tell the audit and the watcher that it has gone, and why."""
        self._grace.cancel()
        reason = self._end_reason or _why(error)
        if self._entry is not None:
            self._entry.close(reason=reason)
            if error is not None and not isinstance(error, OSError | asyncssh.Error):
                log.error("cannot go on with a connection: a bug in run-agent; please report it "
                          "with this trace", exc_info=error)  # fmt: skip
        elif self._user is not None or isinstance(error, asyncssh.KeyExchangeFailed):
            self._tell_refusal(reason)
        self._watcher.closed(self, reason)

    def _tell_refusal(self, reason: str) -> None:
        host, port = self.arrival.source
        reasons = dict.fromkeys(self._refused.values())
        self.site.audit.refuse(
            "login",
            host,
            ", ".join(reasons) or reason,
            user=self._user,
            key_fingerprint=" ".join(self._refused) or None,
            source_port=port,
            connection=self.arrival.number,
        )


async def _disconnect(reason: str) -> None:
    """Let asyncssh disconnect with the reason.

    Its `disconnect` closes the channels first, upon which clients go before they read why.
    """
    raise asyncssh.DisconnectError(asyncssh.DISC_BY_APPLICATION, reason)


def _why(error: Exception | None) -> str:
    if error is None:
        return "closed by the client"
    if isinstance(error, asyncssh.Error):
        return error.reason
    if isinstance(error, OSError):
        return error.strerror or str(error)
    return f"not understood ({type(error).__name__})"
