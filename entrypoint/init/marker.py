"""A file on the volume while we run: found at a start, it tells that the last run was cut off.

Where the kernel kills the whole container at once (a cgroup v2 group kill, a lost node), nobody
is left to report it; the next start does.
"""

import json
import os
import time

from entrypoint.init.log import Log


class Marker:
    """`running-HOST.json` on the volume, one per host name that shares it."""

    def __init__(self, volume: str, log: Log) -> None:
        self._path = os.path.join(volume, f"running-{os.uname().nodename}.json")
        self._log = log

    def set(self) -> None:
        """Report what an earlier run left, and mark this one as running."""
        try:
            with open(self._path) as file:
                since = json.load(file).get("started_at", "an unknown time")
            self._log.error(
                f"the previous run, started at {since}, ended without a stop: the container was "
                "killed as a whole (out of memory is the usual reason) or its machine was lost"
            )
        except (OSError, ValueError, AttributeError):
            pass  # no earlier run, or nothing readable of it
        try:
            with open(self._path, "w") as file:
                json.dump({"started_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())}, file)
        except OSError as error:
            self._log.warning(f"cannot write {self._path} ({error.strerror}); an unclean end of "
                              "this run will go unreported")  # fmt: skip

    def clear(self) -> None:
        """Note that this run ends in order."""
        try:
            os.unlink(self._path)
        except OSError:
            pass  # never written
