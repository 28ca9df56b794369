"""Idle memory (PSS) and CPU of all agent processes together, a real release running beside them.

Goals: at most 40 MiB, and at most 0.2 % of a core over 60 s. Compared, in the same run, with a
bare interpreter that only imports what an agent of the usual make would: asyncio, requests,
tenacity, psutil and the JSON logger.
"""

import subprocess
import sys
import time
from pathlib import Path

import psutil
from _figures import free_port, in_memory_folder, replica, report, wait_until

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from support.controller_server import ControllerServer
from support.slugs import slug

GOAL_MIB, GOAL_CPU_PERCENT = 40, 0.2
SETTLE_SECONDS, WATCH_SECONDS = 5, 60
USUAL = "import asyncio, requests, tenacity, psutil, pythonjsonlogger.json"
WEIGHED = ("asyncio", "requests", "tenacity", "psutil", "logging", "json", "dataclasses",
           "pythonjsonlogger.json", "run_agent.settings", "entrypoint.agent")  # fmt: skip


def main() -> None:
    """Measure the replica, then what it is compared with, then what each import buys."""
    with in_memory_folder() as folder, ControllerServer(app="hello", key="bench") as controller:
        root, port = Path(folder), free_port()
        controller.release = {
            "slug_url": slug("relx").as_uri(),
            "customer_app_name": "hello",
            "version": "1",
            "config": {"PORT": str(port)},
        }
        health = free_port()
        with replica(root, ["init", "hello"], CONTROLLER_URL=controller.url, APP_KEY="bench",
                     MY_POD_IP="127.0.0.1", HEALTH_PORT=health,
                     SSH_PORT=free_port()) as process:  # fmt: skip
            log = root / "log"
            wait_until(lambda: b'"ready"' in log.read_bytes(), "readiness", log)
            ours = _agents(process.pid)
            pss, cpu = _watch(ours)
    usual = _pss_of_imports(USUAL)
    for module in WEIGHED:
        print(
            f"  import {module:24} {_pss_of_imports(f'import {module}') - _bare():5.1f} MiB alone"
        )
    print(f"bare interpreter {_bare():.1f} MiB; with {USUAL}: {usual:.1f} MiB")
    print(f"CPU while idle: {cpu:.3f} % of a core over {WATCH_SECONDS} s (goal <= "
          f"{GOAL_CPU_PERCENT} %)")  # fmt: skip
    report("memory", pss, "one bare process with the usual imports", usual, unit="MiB PSS",
           goal=f"<= {GOAL_MIB} MiB", cpu_percent=round(cpu, 3))  # fmt: skip


def _agents(init: int) -> dict[str, psutil.Process]:
    """PID 1 and what it runs besides the release."""
    supervisor = psutil.Process(init)
    found = {"init": supervisor}
    for child in supervisor.children(recursive=True):
        if child.exe() == supervisor.exe():
            found[child.cmdline()[3].rpartition(".")[2]] = child
    return found


def _watch(processes: dict[str, psutil.Process]) -> tuple[float, float]:
    """Return the sum of PSS in MiB after the watch, and the CPU used during it in percent."""
    time.sleep(SETTLE_SECONDS)
    before = sum(_cpu_seconds(process) for process in processes.values())
    time.sleep(WATCH_SECONDS)
    used = sum(_cpu_seconds(process) for process in processes.values()) - before
    sizes = {name: _pss(process.pid) for name, process in processes.items()}
    for name, size in sizes.items():
        print(f"  {name:8} {size:5.1f} MiB PSS")
    return sum(sizes.values()), used / WATCH_SECONDS * 100


def _cpu_seconds(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def _pss(pid: int) -> float:
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) / 1024
    raise ValueError(f"cannot find the PSS of {pid}")


def _bare() -> float:
    return _pss_of_imports("pass")


def _pss_of_imports(code: str) -> float:
    waits = f"{code}\nprint(flush=True)\nimport sys\nsys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-I", "-c", waits], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        cwd=Path(__file__).parent,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        process.stdout.readline()
        return _pss(process.pid)


if __name__ == "__main__":
    main()
