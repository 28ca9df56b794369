"""The process that fetches one slug: `python -m run_agent.slug.worker`, spawned by `fetch`.

Reads one request from stdin and writes events to stdout (`messages`). A process of its own, so
that its memory goes back and that nothing in a slug can hurt the agent. It ends, its temporary
files removed, on TERM and when stdin ends: no worker outlives its agent.
"""

import logging
import os
import signal
import sys
import threading
import time
import traceback
from typing import NoReturn

from run_agent import oom
from run_agent.errors import RunAgentError, UnavailableError
from run_agent.slug import messages, pipeline
from run_agent.storage import http as _preloaded  # noqa: F401 - while the agent asks for the URL

LEAVE_SECONDS = 10.0
"""How long the clean-up may take after stdin has ended: milliseconds are usual, seconds were seen
on a busy disk, and one that hangs is not waited for."""

STOPPED = 128 + signal.SIGTERM


class _StoppedError(BaseException):
    """TERM arrived, or the agent is gone."""


class _LateError(_StoppedError):
    """The fetch took longer than it may."""


class _Voice(logging.Handler):
    """Writes events, each in one piece, and the log of our own modules as notices."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.last: messages.Progress | None = None
        self._lock = threading.RLock()  # a signal may come while its own thread holds it

    def say(self, event: messages.Event) -> None:
        if isinstance(event, messages.Progress):
            self.last = event
        line = messages.event_line(event)
        with self._lock:
            while line:
                line = line[os.write(sys.stdout.fileno(), line) :]

    def emit(self, record: logging.LogRecord) -> None:
        self.say(messages.Notice(record.getMessage()))


def main() -> int:
    """Fetch what is asked for; return the exit code."""
    oom.volunteer()
    signal.signal(signal.SIGTERM, _stop)
    voice = _Voice()
    logging.getLogger("run_agent").addHandler(voice)
    try:
        line = sys.stdin.buffer.readline()
        if not line:
            return STOPPED
        request, seconds = messages.parse_request(line)
        threading.Thread(target=_end_with_stdin, name="stdin", daemon=True).start()
        return _fetch(request, seconds, voice)
    except (_StoppedError, BrokenPipeError):
        return STOPPED


def _fetch(request: messages.Request, seconds: float, voice: _Voice) -> int:
    def be_late(_number: int, _frame: object) -> NoReturn:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # as in `_stop`
        # Said before the clean-up, which may take its time where the disk is why it is late.
        voice.say(_lateness(request, seconds, voice.last))
        raise _LateError

    signal.signal(signal.SIGALRM, be_late)
    try:
        signal.setitimer(signal.ITIMER_REAL, max(seconds, 0.001))
        slug = pipeline.fetch(request, voice.say)
        signal.setitimer(signal.ITIMER_REAL, 0)
    except _LateError:
        return UnavailableError.exit_code
    except RunAgentError as error:
        signal.setitimer(signal.ITIMER_REAL, 0)
        voice.say(error)
        return error.exit_code
    voice.say(slug)
    pipeline.make_durable(request.deploys, slug)
    return 0


def _lateness(
    request: messages.Request, seconds: float, progress: messages.Progress | None
) -> UnavailableError:
    return UnavailableError(
        f"cannot fetch slug {request.label} within {seconds:.3g} s ({_amount(progress)} by then); "
        "check the storage and the network",
        exit_code=os.EX_TEMPFAIL,
    )


def _amount(progress: messages.Progress | None) -> str:
    if progress is None:
        return "nothing had come"
    of = f" of {progress.total / 1e6:.1f}" if progress.total else ""
    return f"{progress.bytes / 1e6:.1f}{of} MB had come"


def _stop(_number: int, _frame: object) -> NoReturn:
    # What the exception unwinds removes the temporary files: nothing may interrupt that.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.setitimer(signal.ITIMER_REAL, 0)
    raise _StoppedError


def _end_with_stdin() -> None:
    while os.read(sys.stdin.fileno(), 1 << 10):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(LEAVE_SECONDS)
    os._exit(STOPPED)


if __name__ == "__main__":
    try:
        code = main()
    except Exception:  # noqa: BLE001 - the root of a process
        traceback.print_exc()
        code = os.EX_SOFTWARE
    # Not sys.exit: it would wait for what the threads are in the middle of.
    os._exit(code)
