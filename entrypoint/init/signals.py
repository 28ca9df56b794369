"""The signals that PID 1 gets: which mean what, and none of them is lost."""

import os
import signal

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)
PASSED_ON = (signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2, signal.SIGWINCH)
IGNORED = (signal.SIGTTIN, signal.SIGTTOU)
"""We write to a terminal whose foreground is the release."""


class Signals:
    """Collects signals; the descriptor wakes the loop."""

    def __init__(self) -> None:
        self._arrived: list[int] = []
        self.wakeup, write_end = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(write_end, warn_on_full_buffer=False)
        for number in (*STOP_SIGNALS, *PASSED_ON, signal.SIGCHLD):
            signal.signal(number, lambda number, _: self._arrived.append(number))
        for number in IGNORED:
            signal.signal(number, signal.SIG_IGN)
        # `run-agent init` blocked them, so that none was lost while it became us
        signal.pthread_sigmask(signal.SIG_SETMASK, ())

    def take(self) -> list[int]:
        """Return the signals since the last call, in order."""
        try:
            while os.read(self.wakeup, 4096):
                pass
        except BlockingIOError:
            pass
        arrived, self._arrived = self._arrived, []
        return arrived
