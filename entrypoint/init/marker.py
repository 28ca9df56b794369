"""A file on the volume while we run: found at a start, it tells how the last run was cut off.

Where the kernel kills the whole container at once (a cgroup v2 group kill, a lost node), nobody
is left to report it; the next start does. An end for want of memory is left there as well: the
agent, which could tell our pod of it, ends with the container.
"""

import json
import os
import time

from entrypoint.init.log import Log

CUT, OUT_OF_MEMORY = "cut off", "out of memory"
"""How the run before may have ended."""

TIME = "%Y-%m-%dT%H:%M:%SZ"

LIMIT_CHARACTERS = 10_000
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
        self._started_at = _now()

    def set(self) -> dict[str, str] | None:
        """Mark this run as running; return how the one before ended, where it was no ordinary end.

        What was cut off is logged: nobody else could have said it.
        """
        left = self._left()
        if left is not None and left["reason"] == CUT:
            self._log.error(left["message"])
        self._write({"started_at": self._started_at})
        return left

    def clear(self, out_of_memory: str | None) -> None:
        """Note that this run ends in order, or for want of memory."""
        if out_of_memory is not None:
            ended = {"message": out_of_memory, "at": _now()}
            self._write({"started_at": self._started_at, "ended": ended})
            return
        try:
            os.unlink(self._path)
        except OSError:
            pass  # never written

    def _left(self) -> dict[str, str] | None:
        try:
            with open(self._path) as file:
                left = json.loads(file.read(LIMIT_CHARACTERS))
            ended = left.get("ended")
            if ended is not None:
                time.strptime(ended["at"], TIME)  # the app can write here, too
                return {
                    "reason": OUT_OF_MEMORY,
                    "message": str(ended["message"]),
                    "at": ended["at"],
                }
            since = str(left.get("started_at", "an unknown time"))
            return {"reason": CUT, "message": CUT_OFF % since, "at": self._started_at}
        except (OSError, ValueError, AttributeError, KeyError, TypeError):
            return None  # no earlier run, or nothing readable of it

    def _write(self, content: dict[str, object]) -> None:
        try:
            with open(self._path, "w") as file:
                json.dump(content, file)
        except OSError as error:
            self._log.warning(f"cannot write {self._path} ({error.strerror}); an unclean end of "
                              "this run will go unreported")  # fmt: skip


def _now() -> str:
    return time.strftime(TIME, time.gmtime())
