"""What asyncssh's channel of a session does otherwise than OpenSSH's, put right.

It keeps every variable that a client sends, for as long as the channel is open; and it refuses a
command that is not UTF-8, though to the system it is but bytes.
"""

from __future__ import annotations

import functools
import os

import asyncssh
from asyncssh.packet import SSHPacket

from run_agent.ssh.daemon.sessions import environment


def prepare(channel: asyncssh.SSHServerChannel[bytes]) -> None:
    """Change this one channel, which has just been opened: there is no hook, nor a class to give.

    The command is text as `os.fsdecode` makes it; `os.fsencode` gives its bytes.
    """
    channel._env = environment.Sent()  # noqa: SLF001 - see above
    run = functools.partial(_run, channel)
    channel._process_exec_request = run  # type: ignore[method-assign] # noqa: SLF001 - see above


def _run(channel: asyncssh.SSHServerChannel[bytes], packet: SSHPacket) -> bool:
    """Take a request to run a command (RFC 4254, 6.5)."""
    command = packet.get_string()
    packet.check_end()
    return channel._start_session(command=os.fsdecode(command))  # noqa: SLF001 - as asyncssh's own
