"""What the kernel's memory controller says, read from a tree of files as both versions have it."""

import pytest

from entrypoint.init.cgroup import MemoryWatch

V1, V2 = "sys/fs/cgroup/memory", "sys/fs/cgroup"
UNLIMITED_V1 = "9223372036854771712"


def write(root, files):
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)


def v1(folder, kills, limit="67108864"):
    return {
        f"{folder}/memory.oom_control": f"oom_kill_disable 0\nunder_oom 0\noom_kill {kills}\n",
        f"{folder}/memory.limit_in_bytes": f"{limit}\n",
        f"{folder}/memory.max_usage_in_bytes": "66060288\n",
    }


def v2(folder, kills, limit="67108864"):
    return {
        f"{folder}/memory.events": (
            f"low 0\nhigh 0\nmax 9\noom 2\noom_kill {kills}\noom_group_kill 8\nsock_throttled 7\n"
        ),
        f"{folder}/memory.max": f"{limit}\n",
        f"{folder}/memory.peak": "66060288\n",
    }


HYBRID = "9:name=systemd:/\n4:memory:/docker/abc\n1:cpu,cpuacct:/docker/abc\n0::/\n"
UNIFIED = "0::/kubepods/pod1/abc\n"

PLACES = [
    pytest.param(HYBRID, v1, f"{V1}/docker/abc", id="v1"),
    pytest.param(HYBRID, v1, V1, id="v1, the path is the host's"),
    pytest.param("3:memory:/a:b\n", v1, f"{V1}/a:b", id="v1, a colon in the path"),
    pytest.param("5:cpu,memory:/x\n", v1, f"{V1}/x", id="v1, with another controller"),
    pytest.param(UNIFIED, v2, f"{V2}/kubepods/pod1/abc", id="v2"),
    pytest.param(UNIFIED, v2, V2, id="v2, the path is the host's"),
    pytest.param("0::/\n", v2, V2, id="v2, a namespace of its own"),
    pytest.param("0::/init\n", v2, f"{V2}/init", id="v2, moved within its namespace"),
    pytest.param("0::/../../other\n", v2, V2, id="v2, outside of its namespace"),
]


@pytest.mark.parametrize(("cgroup", "version", "folder"), PLACES)
def test_a_new_kill_is_told_once_with_limit_and_peak(tmp_path, cgroup, version, folder):
    write(tmp_path, {"proc/self/cgroup": cgroup} | version(folder, 3))
    watch = MemoryWatch(str(tmp_path))
    assert watch.new_kill() is None, "those of an earlier run do not count"
    write(tmp_path, version(folder, 4))
    assert watch.new_kill() == "out of memory: limit 64 MiB, peak 63 MiB"
    assert watch.new_kill() is None


@pytest.mark.parametrize(
    ("cgroup", "version", "folder", "limit"),
    [(HYBRID, v1, V1, UNLIMITED_V1), ("0::/\n", v2, V2, "max")],
)
def test_without_a_limit_it_says_none(tmp_path, cgroup, version, folder, limit):
    write(tmp_path, {"proc/self/cgroup": cgroup} | version(folder, 0, limit))
    watch = MemoryWatch(str(tmp_path))
    write(tmp_path, version(folder, 1, limit))
    assert watch.new_kill() == "out of memory: limit none, peak 63 MiB"


@pytest.mark.parametrize("cgroup", [None, "", HYBRID, UNIFIED])
def test_a_machine_that_tells_nothing_is_no_error(tmp_path, cgroup):
    if cgroup is not None:
        write(tmp_path, {"proc/self/cgroup": cgroup})
    assert MemoryWatch(str(tmp_path)).new_kill() is None


def test_an_old_kernel_without_a_peak_says_unknown(tmp_path):
    write(tmp_path, {"proc/self/cgroup": "0::/\n"} | v2(V2, 0))
    watch = MemoryWatch(str(tmp_path))
    write(tmp_path, v2(V2, 1))
    (tmp_path / V2 / "memory.peak").unlink()
    assert watch.new_kill() == "out of memory: limit 64 MiB, peak unknown"
