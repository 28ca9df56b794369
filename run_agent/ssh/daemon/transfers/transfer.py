"""Files over SSH: SFTP, and the far side of the older scp protocol.

The work is done by a process for each session (run_agent.ssh.files); here are the bytes between it
and the channel, and what it tells for the audit. An image needs neither sftp-server nor scp.
"""

from __future__ import annotations

import logging
import sys
from contextlib import ExitStack

import asyncssh

from run_agent.errors import RunAgentError
from run_agent.ssh.daemon import streams
from run_agent.ssh.daemon.processes.kin import Child
from run_agent.ssh.daemon.site import Login, Site
from run_agent.ssh.daemon.transfers.account import Account
from run_agent.ssh.files import DRAFT_ORDER, TELL, USUAL_ORDER, scp_command

PROGRAM = (sys.executable, "-I", "-m", "run_agent.ssh.files")

IN_DRAFT_ORDER = ("AsyncSSH", "libssh_", "libssh-", "WinSCP", "ssh2js")
"""Clients that send a symbolic link's two paths in the draft's order unless the server is OpenSSH;
the others send them as OpenSSH does, whatever the server is (its PROTOCOL, 4.1)."""

FAILED = 1

log = logging.getLogger("ssh")


def wanted(command: str | None, subsystem: str | None) -> bool:
    """Whether this is ours: the subsystem sftp, or a command that is exactly scp's far side."""
    if subsystem is not None:
        return subsystem == "sftp"
    return command is not None and scp_command.parse(command) is not None


def open(  # noqa: A001 - callers read transfer.open(…)
    site: Site,
    login: Login,
    channel: asyncssh.SSHServerChannel[bytes],
    *,
    command: str | None,
) -> Transfer:
    """Return what takes all further callbacks of the session; without `command` it is SFTP.

    Relative paths start in the app folder, `~` is the HOME of the release's environment.
    """
    return Transfer(site, login, channel, command)


class Transfer(asyncssh.SSHServerSession[bytes]):
    """A session's channel, and the process that serves it."""

    def __init__(
        self,
        site: Site,
        login: Login,
        channel: asyncssh.SSHServerChannel[bytes],
        command: str | None,
    ) -> None:
        self._site, self._login, self._channel, self._command = site, login, channel, command
        asked = None if command is None else scp_command.parse(command)
        self._sends = asked is not None and asked.sends
        self._child: Child | None = None
        self._input: streams.Input | None = None
        self._output: streams.Output | None = None
        self._account: Account | None = None
        self._lost = False

    # -- what asyncssh calls ----------------------------------------------------------------------

    def session_started(self) -> None:
        """Start the process."""
        try:
            self._start()
        except (OSError, RunAgentError) as error:
            reason = error.strerror if isinstance(error, OSError) else str(error)
            log.error("cannot start a file transfer: %s", reason)
            told = f"run-agent: cannot start the file transfer: {reason}\n".encode()
            self._channel.write(told, asyncssh.EXTENDED_DATA_STDERR)
            self._channel.exit(FAILED)

    def data_received(self, data: bytes, datatype: int | None) -> None:  # noqa: ARG002 - asyncssh's
        """Pass on what the client sends."""
        if self._input is not None:
            self._input.write(data)

    def eof_received(self) -> bool:
        """Let the process finish; True keeps our direction open for its last answers."""
        if self._input is not None:
            self._input.end()
        if self._sends and self._output is not None:
            self._output.close()  # nobody answers any more, so nobody takes the rest
        return True

    def pause_writing(self) -> None:
        """Leave in the pipe what the client does not take: the process waits then."""
        if self._output is not None:
            self._output.hold_back(back=True)

    def resume_writing(self) -> None:
        """Go on."""
        if self._output is not None:
            self._output.hold_back(back=False)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncssh's
        """End the process: first by the end of its bytes, which it takes in order."""
        self._lost = True
        if self._child is not None and self._input is not None and self._output is not None:
            self._input.close()
            self._output.close()
            self._child.dismiss()

    # -- the process ------------------------------------------------------------------------------

    def _start(self) -> None:
        launch = self._site.launch()
        with ExitStack() as theirs, ExitStack() as ours:
            source, to_child = streams.pipe(theirs, ours)
            from_child, target = streams.pipe(ours, theirs)
            told, tells = streams.pipe(ours, theirs)
            self._child = self._site.children.start(
                [*PROGRAM, launch.env.get("HOME") or str(launch.cwd), *self._what()],
                env=launch.env,
                cwd=str(launch.cwd),
                redirect={0: source, 1: target, TELL: tells},
                terminal=False,
            )
            ours.pop_all()
        self._input = streams.Input(self._channel, to_child, abandoned=self._is_abandoned)
        self._output = streams.Output(self._channel, from_child, ended=self._finish)
        protocol = "sftp" if self._command is None else "scp"
        self._account = Account(self._site.audit, self._login, protocol, told)
        self._child.ended.add_done_callback(lambda _: self._finish())

    def _what(self) -> tuple[str, str]:
        if self._command is not None:
            return "scp", self._command
        client = str(self._channel.get_extra_info("client_version", ""))
        draft = any(name in client for name in IN_DRAFT_ORDER)
        return "sftp", DRAFT_ORDER if draft else USUAL_ORDER

    def _is_abandoned(self) -> bool:
        return self._channel.is_closing()

    def _finish(self) -> None:
        """Tell the client how it ended, once that is known and all its bytes are on their way."""
        if self._child is None or self._output is None or not self._child.ended.done():
            return
        if not self._output.closed:
            return
        self._child.dismiss()
        if not self._lost:
            code = self._child.ended.result()
            self._channel.exit(code if code >= 0 else FAILED)
