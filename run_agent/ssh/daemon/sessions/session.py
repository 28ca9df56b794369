"""A session: one channel with a process behind it, on a terminal or on three pipes.

The process is the session's leader. When it has ended, what it left behind may still finish what
it writes to the client (`tee` behind a script), but not for long, and then it is ended: a session
leaves nothing behind. On a terminal the kernel itself hangs up on the rest, so nothing is waited
for. OpenSSH would wait for ever for whoever holds a pipe open.

A file transfer is handed to `transfer`, which then gets all that comes on the channel.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import Callable, Mapping
from contextlib import ExitStack

import asyncssh

from run_agent.errors import RunAgentError
from run_agent.ssh.daemon import streams
from run_agent.ssh.daemon.audit import Entry
from run_agent.ssh.daemon.connection import Connection
from run_agent.ssh.daemon.processes.kin import Child
from run_agent.ssh.daemon.sessions import channel, environment, signals
from run_agent.ssh.daemon.sessions.closing import Closing
from run_agent.ssh.daemon.sessions.environment import Request
from run_agent.ssh.daemon.sessions.terminal import Size, Terminal
from run_agent.ssh.daemon.site import Login, Site
from run_agent.ssh.daemon.transfers import transfer

LINGER_SECONDS = 2.0
"""How long others may hold the output open after the leader has ended."""

CANNOT_START = 254
"""Exit status where nothing could be started; ssh(1) keeps 255 for its own errors."""

INTERNAL_SFTP = "internal-sftp"
"""What `command=` says where a key is for SFTP alone (sshd_config(5), ForceCommand)."""

log = logging.getLogger("ssh")


class Session(asyncssh.SSHServerSession[bytes]):
    """A session from its first request to its end.

    `number` tells it apart in the audit. `ended` is called once, when its channel is closed.
    """

    def __init__(self, site: Site, login: Login, number: int, ended: Callable[[], None]) -> None:
        self._site, self._login, self._number, self._ended = site, login, number, ended
        self._command: str | None = None
        self._original: str | None = None
        self._terminal: Terminal | None = None
        self._transfer: asyncssh.SSHServerSession[bytes] | None = None
        self._child: Child | None = None
        self._entry: Entry | None = None
        self._input: streams.Input | None = None
        self._outputs: list[streams.Output] = []
        self._lingering: asyncio.TimerHandle | None = None
        self._channel_full = self._connection_full = self._held_back = False
        self._sent_eof = self._finished = self._lost = False

    # -- its beginning ----------------------------------------------------------------------------

    def connection_made(self, chan: asyncssh.SSHServerChannel[bytes]) -> None:
        """Know the channel."""
        self._channel = chan
        channel.prepare(chan)
        self._closing = Closing(chan, self._owes_status)
        connection = chan.get_connection()
        assert isinstance(connection, Connection)
        self._connection = connection
        self._connection.flows.add(self)
        self._connection_full = connection.congested

    def pty_requested(self, term_type: str, term_size: Size, term_modes: Mapping[int, int]) -> bool:
        """Open a terminal, unless the key has `no-pty`; a session goes on without one."""
        if not self._login.key.allows_terminal:
            self._connection.send_debug("this key gets no terminal (no-pty or restrict)")
            return False
        try:
            self._terminal = Terminal(term_type, term_size, term_modes)
        except OSError as error:
            log.warning("cannot open a terminal (%s); is /dev/pts mounted?", error.strerror)
            return False
        return True

    def shell_requested(self) -> bool:
        """Accept."""
        return self._accept(None, None)

    def exec_requested(self, command: str) -> bool:
        """Accept."""
        return self._accept(command, None)

    def subsystem_requested(self, subsystem: str) -> bool:
        """Accept what is a transfer; there are no other subsystems."""
        return self._accept(None, subsystem)

    def _accept(self, command: str | None, subsystem: str | None) -> bool:
        forced = self._login.key.command
        if forced is not None:
            self._original = command or subsystem
            command, subsystem = (None, "sftp") if forced == INTERNAL_SFTP else (forced, None)
        if transfer.wanted(command, subsystem):
            self._transfer = transfer.open(self._site, self._login, self._channel, command=command)
        elif subsystem is not None:
            self._connection.refuse("session", f"there is no subsystem {subsystem} here")
            return False
        self._command = command
        return True

    def session_started(self) -> None:
        """Start its process, or tell the client why not."""
        if self._transfer is not None:
            self._close_terminal()
            self._transfer.session_started()
            return
        try:
            self._start()
        except (OSError, RunAgentError) as error:
            reason = error.strerror if isinstance(error, OSError) else str(error)
            log.error("cannot start a session: %s", reason)
            self._channel.write_stderr(f"run-agent: cannot start a session: {reason}\r\n".encode())
            self._channel.exit(CANNOT_START)
            self._finish(reason=reason)

    def _start(self) -> None:
        launch = self._site.launch()
        terminal = self._terminal
        request = Request(
            self._command,
            terminal=terminal.kind if terminal else None,
            tty=terminal.name if terminal else None,
            original=self._original,
            sent=self._channel.get_environment(),
        )
        env = environment.build(launch, self._site.options.layout, self._login, request)
        argv = environment.shell(env, self._command, interactive=terminal is not None)
        with ExitStack() as theirs, ExitStack() as ours:
            redirect, ends = self._open(theirs, ours)
            self._child = self._site.children.start(
                argv, env=env, cwd=str(launch.cwd), redirect=redirect, terminal=terminal is not None
            )
            ours.pop_all()
        self._connect(*ends)
        self._child.ended.add_done_callback(lambda _: self._leader_ended())
        asked = self._original if self._login.key.command is not None else self._command
        self._entry = self._site.audit.open(
            "session",
            self._login,
            session=self._number,
            command=None if asked is None else os.fsencode(asked),
            forced_command=self._login.key.command,
            terminal=terminal is not None,
        )

    def _open(self, theirs: ExitStack, ours: ExitStack) -> tuple[dict[int, int], list[int]]:
        """Open what the process gets as its 0, 1 and 2, and our ends; the stacks close them."""
        if self._terminal is not None:
            theirs.callback(self._terminal.close_slave)
            ends = [self._terminal.duplicate(ours), self._terminal.duplicate(ours)]
            return dict.fromkeys((0, 1, 2), self._terminal.slave), ends
        stdin, our_stdin = streams.pipe(theirs, ours)
        our_stdout, stdout = streams.pipe(ours, theirs)
        our_stderr, stderr = streams.pipe(ours, theirs)
        return {0: stdin, 1: stdout, 2: stderr}, [our_stdin, our_stdout, our_stderr]

    def _connect(self, stdin: int, stdout: int, stderr: int | None = None) -> None:
        self._input = streams.Input(self._channel, stdin, abandoned=self._is_abandoned)
        kinds = {stdout: None, stderr: asyncssh.EXTENDED_DATA_STDERR}
        self._outputs = [
            streams.Output(self._channel, descriptor, ended=self._output_ended, kind=kind)
            for descriptor, kind in kinds.items()
            if descriptor is not None
        ]
        self._hold_back()

    # -- what comes from the client ---------------------------------------------------------------

    def data_received(self, data: bytes, datatype: int | None) -> None:
        """Pass it on."""
        if self._transfer is not None:
            self._transfer.data_received(data, datatype)
        elif self._input is not None:
            self._input.write(data)

    def eof_received(self) -> bool:
        """Close the process's stdin; on a terminal, write its end-of-file character."""
        if self._transfer is not None:
            return bool(self._transfer.eof_received())
        if self._input is not None:
            terminal = self._terminal
            self._input.end(terminal.end_of_file(self._input.last) if terminal else b"")
        return True

    def break_received(self, msec: int) -> bool:  # noqa: ARG002 - a terminal here has no wire
        """Interrupt the foreground group, as a terminal with BRKINT does (termios(3))."""
        if self._terminal is None or self._child is None:
            return False
        self._child.signal(signal.SIGINT)
        return True

    def signal_received(self, signal: str) -> None:
        """Pass it on to the foreground group, or to the leader's."""
        if self._child is not None and signal in signals.BY_NAME:
            self._child.signal(signals.BY_NAME[signal])

    def terminal_size_changed(self, width: int, height: int, pixwidth: int, pixheight: int) -> None:
        """Pass it on."""
        if self._terminal is not None:
            self._terminal.resize((width, height, pixwidth, pixheight))

    # -- what the client does not take ------------------------------------------------------------

    def pause_writing(self) -> None:
        """Read no more: the channel is full."""
        self._channel_full = True
        self._hold_back()

    def resume_writing(self) -> None:
        """Go on."""
        self._channel_full = False
        self._hold_back()

    def congest(self, *, congested: bool) -> None:
        """Read no more, or go on: the connection is full, whatever the channel's window is."""
        self._connection_full = congested
        self._hold_back()

    def _hold_back(self) -> None:
        back = self._channel_full or self._connection_full
        for output in self._outputs:
            output.hold_back(back=back)
        if self._transfer is not None and back is not self._held_back:
            (self._transfer.pause_writing if back else self._transfer.resume_writing)()
        self._held_back = back

    # -- its end ----------------------------------------------------------------------------------

    def _output_ended(self) -> None:
        if self._finished or not all(output.closed for output in self._outputs):
            return
        assert self._child is not None
        if self._child.ended.done():
            self._conclude()
        else:
            self._sent_eof = True
            self._channel.write_eof()

    def _leader_ended(self) -> None:
        if self._finished:
            return
        if all(output.closed for output in self._outputs):
            self._conclude()
        elif self._terminal is not None:
            self._stop_lingering()
        else:
            loop = asyncio.get_running_loop()
            self._lingering = loop.call_later(LINGER_SECONDS, self._stop_lingering)

    def _stop_lingering(self) -> None:
        """Take what the output holds now, and leave nobody to add to it."""
        assert self._child is not None
        self._child.dismiss()
        for output in self._outputs:
            output.finish()

    def _conclude(self) -> None:
        """Tell the client how the leader ended; whatever happens, it may not wait for ever."""
        try:
            self._tell_end()
        except Exception:
            log.exception(
                "cannot tell how a session ended: a bug in run-agent; please report it "
                "with this trace"
            )
            self._channel.abort()
            self._finish(reason="its end could not be told")
        self._closing.release()

    def _tell_end(self) -> None:
        """Tell the client how the leader ended, which closes the channel."""
        assert self._child is not None
        code = self._child.ended.result()
        if code >= 0:
            self._channel.exit(code)
            self._finish(exit_status=code)
        else:
            name = signals.name(-code)
            self._channel.exit_with_signal(name, self._child.dumped_core)
            self._finish(signal=name)

    def connection_lost(self, exc: Exception | None) -> None:
        """End everything of it: the channel is closed."""
        if self._lost:
            return
        self._lost = True
        self._connection.flows.discard(self)
        if self._transfer is not None:
            self._transfer.connection_lost(exc)
        self._finish(reason=f"lost: {exc}" if exc else "closed by the client")
        self._ended()

    def _finish(self, **outcome: object) -> None:
        if self._finished:
            return
        self._finished = True
        if self._lingering is not None:
            self._lingering.cancel()
        if self._input is not None:
            self._input.close()
        for output in self._outputs:
            output.close()
        self._close_terminal()
        if self._child is not None:
            self._child.dismiss()
        if self._entry is not None:
            bytes_in = self._input.bytes if self._input else 0
            bytes_out = sum(output.bytes for output in self._outputs)
            self._entry.close(**outcome, bytes_in=bytes_in, bytes_out=bytes_out)

    def _close_terminal(self) -> None:
        if self._terminal is not None:
            self._terminal.close()

    def _owes_status(self) -> bool:
        """Whether a client that closes the channel has all output, and waits for nothing else."""
        has_all = self._sent_eof and self._channel.get_write_buffer_size() == 0
        return has_all and not self._finished

    def _is_abandoned(self) -> bool:
        return self._channel.is_closing() and not self._sent_eof
