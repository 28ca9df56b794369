"""What the kernel's memory controller says, to name an out-of-memory kill (cgroup v1 and v2)."""

import os

_V1, _V2 = "/sys/fs/cgroup/memory", "/sys/fs/cgroup"

UNLIMITED_BYTES = 1 << 62
"""What cgroup v1 says where there is no limit is a little more than this; v2 says max."""


class MemoryWatch:
    """Remembers the kill counter, so that a later rise tells of a kill since.

    `root` is where /proc and /sys are.
    """

    def __init__(self, root: str = "") -> None:
        self._folder, self._version = _find(root)
        self._kills = self._count()

    def new_kill(self) -> str | None:
        """Return how to name a kill since the last call (limit and peak), None without one."""
        kills = self._count()
        if kills <= self._kills:
            return None
        self._kills = kills
        limit, peak = (
            ("memory.max", "memory.peak")
            if self._version == 2
            else ("memory.limit_in_bytes", "memory.max_usage_in_bytes")
        )
        return f"out of memory: limit {self._size(limit)}, peak {self._size(peak)}"

    def _count(self) -> int:
        name = "memory.events" if self._version == 2 else "memory.oom_control"
        for line in _read(f"{self._folder}/{name}").splitlines():
            key, _, value = line.partition(" ")
            if key == "oom_kill":
                return int(value)
        return 0

    def _size(self, name: str) -> str:
        text = _read(f"{self._folder}/{name}").strip()
        if text == "max" or (text.isdecimal() and int(text) > UNLIMITED_BYTES):
            return "none"
        return f"{int(text) / (1 << 20):.0f} MiB" if text.isdecimal() else "unknown"


def _find(root: str) -> tuple[str, int]:
    """Return our memory cgroup's folder and its version.

    Inside a container /proc/self/cgroup may name a path of the host that is not mounted here;
    the mount's own root is then ours.
    """
    path = ""
    for line in _read(f"{root}/proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if "memory" in controllers.split(","):
            inside = root + _V1 + path
            return (inside if os.path.isdir(inside) else root + _V1), 1
    inside = root + _V2 + path.rstrip("/")
    return (inside if os.path.exists(f"{inside}/memory.events") else root + _V2), 2


def _read(path: str) -> str:
    try:
        with open(path) as file:
            return file.read()
    except OSError:
        return ""
