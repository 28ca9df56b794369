"""A file on the volume while we run: found at a start, it tells how the last run was cut off.

Where the kernel kills the whole container at once (a cgroup v2 group kill, a lost node), nobody
is left to report it; the next start does. An end for want of memory is left there as well: the
agent, which could tell our pod of it, ends with the container.
"""

import json
import os
import stat
import time

from entrypoint.init.log import Log

CUT, OUT_OF_MEMORY = "cut off", "out of memory"
"""How the run before may have ended."""

TIME = "%Y-%m-%dT%H:%M:%SZ"

LIMIT_BYTES = 10_000
"""Most that is read of the file; ours has some hundred."""

CUT_OFF = (
    "the previous run, started at %s, ended without a stop: the container was killed as a whole "
    "(out of memory is the usual reason) or its machine was lost"
)


class Marker:
    """`running-HOST.json` on the volume, one per host name that shares it."""

    def __init__(self, volume: str, log: Log) -> None:
        self._path = os.path.join(volume, f"running-{os.uname().nodename}.json")
        self._log = log
        self._started_at = _iso(time.time())

    def set(self) -> dict[str, str] | None:
        """Mark this run as running; return how the one before ended, where it was no ordinary end.

        What was cut off is logged: nobody else could have said it.
        """
        left = self._left()
        if left is not None and left["reason"] == CUT:
            self._log.error(left["message"])
        self._write({"started_at": self._started_at})
        return left

    def clear(self, out_of_memory: str | None, at: float) -> None:
        """Note that this run ends in order, or that it ended `at` for want of memory."""
        if out_of_memory is not None:
            ended = {"message": out_of_memory, "at": _iso(at)}
            self._write({"started_at": self._started_at, "ended": ended})
            return
        _remove(self._path)

    def _left(self) -> dict[str, str] | None:
        """Tell how the run before ended; the app can write here, too, and anything."""
        try:
            left = json.loads(_read(self._path))
            ended = left.get("ended")
            if ended is not None:
                time.strptime(ended["at"], TIME)
                return {
                    "reason": OUT_OF_MEMORY,
                    "message": str(ended["message"]),
                    "at": ended["at"],
                }
            since = left["started_at"]
            time.strptime(since, TIME)
            return {"reason": CUT, "message": CUT_OFF % since, "at": self._started_at}
        except (OSError, ValueError, AttributeError, KeyError, TypeError, RecursionError):
            return None  # no earlier run, or nothing readable of it

    def _write(self, content: dict[str, object]) -> None:
        new = f"{self._path}.new"
        _remove(new)
        try:
            with open(new, "x") as file:  # never through a link or into a pipe
                json.dump(content, file)
            os.replace(new, self._path)
        except OSError as error:
            _remove(new)
            _remove(self._path)  # it tells of another run
            self._log.warning(f"cannot write {self._path} ({error.strerror}); an unclean end of "
                              "this run will go unreported")  # fmt: skip


def _read(path: str) -> bytes:
    """Read the beginning of an ordinary file; raises `OSError` for what a read could hang in."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(f"{path} is no ordinary file")
        return os.read(descriptor, LIMIT_BYTES)
    finally:
        os.close(descriptor)


def _remove(path: str) -> None:
    try:
        os.unlink(path)
    except OSError:
        pass  # never written


def _iso(at: float) -> str:
    return time.strftime(TIME, time.gmtime(at))
