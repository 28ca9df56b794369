"""SSH next to Debian's sshd: the same key, the same OpenSSH client, the same run, taken in turn.

Connection and `true` (goals: 0.3 × sshd's time once the daemon is warm, 1.0 × with its start),
512 MB from a command and through `-L` with AES-GCM (at least 0.5 × sshd's throughput), the
daemon's memory with 0, 1 and 50 idle sessions and after the idle time, and `run-agent
remote_console` to its first prompt next to the release's own script (at most 150 ms more).
"""

import json
import os
import pty
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import psutil
from _figures import (
    RUN_AGENT,
    free_port,
    in_memory_folder,
    median_pair,
    replica,
    report,
    wait_until,
)

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from support.controller_server import ControllerServer
from support.slugs import slug

SSHD = "/usr/sbin/sshd"
CIPHER = "aes128-gcm@openssh.com"
BULK_BYTES = 512 << 20
CONNECTIONS, TRANSFERS, CONSOLES = 15, 5, 5
IDLE_SECONDS = 3
SESSIONS = 50

SSHD_CONFIG = """\
Port {port}
ListenAddress 127.0.0.1
HostKey {folder}/host-key
AuthorizedKeysFile {folder}/key.pub
StrictModes no
UsePAM no
PidFile none
MaxSessions 100
"""


class Rival:
    """An SSH server on a port of its own, and what the client is told about it."""

    def __init__(self, folder: Path, port: int) -> None:
        self._key, self.port = folder / "key", port

    def ssh(self, *words: str) -> list[str]:
        """Return the client's argv."""
        options = ("BatchMode=yes", "StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null",
                   "LogLevel=ERROR", "IdentitiesOnly=yes", f"Ciphers={CIPHER}")  # fmt: skip
        flags = [word for option in options for word in ("-o", option)]
        return ["ssh", "-F", "none", *flags, "-i", str(self._key), "-p", str(self.port),
                "root@127.0.0.1", *words]  # fmt: skip

    def connects(self) -> bool:
        """Tell whether somebody can log in."""
        argv = self.ssh("true")
        return subprocess.run(argv, stderr=subprocess.DEVNULL, check=False).returncode == 0

    def connect(self) -> float:
        """Return the seconds of one connection that runs `true`."""
        return _timed(lambda: subprocess.run(self.ssh("true"), check=True))

    def read(self) -> float:
        """Return the seconds of 512 MB from a command."""
        command = self.ssh(f"head -c {BULK_BYTES} /dev/zero")
        return _timed(lambda: subprocess.run(command, stdout=subprocess.DEVNULL, check=True))

    def read_forwarded(self, source: int) -> float:
        """Return the seconds of 512 MB through `-L`, the connection's start not counted."""
        port = free_port()
        forward = ["-N", "-L", f"{port}:127.0.0.1:{source}"]
        argv = self.ssh()
        with subprocess.Popen([*argv[:-1], *forward, argv[-1]]) as client:
            wait_until(lambda: _accepts(port), "the forward", Path(os.devnull))
            took = _timed(lambda: _drain(port))
            client.terminate()
        return took


def main() -> None:
    """Measure all of it; the last line is that of the warm connection."""
    if not Path(SSHD).exists():
        sys.exit("cannot compare with sshd: it is not installed; run `scripts/system bench`")
    with ExitStack() as stack:
        folder = Path(stack.enter_context(in_memory_folder()))
        for name in ("key", "host-key"):
            words = ["-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)]
            subprocess.run(["ssh-keygen", *words], check=True)
        theirs = stack.enter_context(_sshd(folder))
        ours, init = stack.enter_context(_run_agent(folder))
        warm = median_pair(ours.connect, theirs.connect, runs=CONNECTIONS)
        _measure_cold(init, ours, theirs)
        _measure_bulk(ours, theirs)
        _measure_forward(ours, theirs)
        _measure_memory(init, ours)
        _measure_console(folder / "root")
        report("ssh warm", warm[0], "sshd: connection and true", warm[1], unit="s",
               goal="ratio <= 0.3")  # fmt: skip


def _measure_cold(init: int, ours: Rival, theirs: Rival) -> None:
    def cold() -> float:
        wait_until(lambda: _daemon(init) is None, "the daemon's end", Path(os.devnull))
        return ours.connect()

    ours_took, theirs_took = median_pair(cold, theirs.connect, runs=5)
    report("ssh cold", ours_took, "sshd: connection and true", theirs_took, unit="s",
           goal="ratio <= 1.0")  # fmt: skip


def _measure_bulk(ours: Rival, theirs: Rival) -> None:
    a, b = median_pair(ours.read, theirs.read, runs=TRANSFERS)
    _report_throughput("ssh bulk", a, b)


def _measure_forward(ours: Rival, theirs: Rival) -> None:
    with _source() as port:
        a, b = median_pair(
            lambda: ours.read_forwarded(port), lambda: theirs.read_forwarded(port), runs=TRANSFERS
        )
    _report_throughput("ssh forward", a, b)


def _report_throughput(name: str, ours: float, theirs: float) -> None:
    mb = BULK_BYTES / 1e6
    report(name, mb / ours, "sshd, AES-GCM", mb / theirs, unit="MB/s", goal="ratio >= 0.5")


def _measure_memory(init: int, ours: Rival) -> None:
    """Print the daemon's PSS with no, one and many idle sessions, and after the idle time."""
    sizes: dict[int, float] = {}
    for count in (1, SESSIONS):
        clients = [
            subprocess.Popen(ours.ssh("read line"), stdin=subprocess.PIPE) for _ in range(count)
        ]
        _wait_for_sessions(init, count)
        sizes[count] = _pss(_daemon(init) or 0)
        for client in clients:
            client.communicate(b"\n", timeout=30)
        _wait_for_sessions(init, 0)
        sizes.setdefault(0, _pss(_daemon(init) or 0))
    wait_until(lambda: _daemon(init) is None, "the daemon's end", Path(os.devnull))
    many = sizes[SESSIONS]
    print(f"daemon's PSS: {sizes[0]:.1f} MiB without a session, {sizes[1]:.1f} with one, "
          f"{many:.1f} with {SESSIONS}; gone {IDLE_SECONDS} s after the last")  # fmt: skip
    unit = f"MiB PSS with {SESSIONS} sessions"
    report("ssh memory", many, "the daemon without a session", sizes[0], unit=unit,
           one=round(sizes[1], 1), after_idle=0)  # fmt: skip


def _wait_for_sessions(init: int, count: int) -> None:
    """Wait until so many shells run: before its exec, a child shares the daemon's memory."""

    def are_there() -> bool:
        shells = []
        with suppress(psutil.Error):
            children = psutil.Process(_daemon(init)).children()
            shells = [child for child in children if child.name() in {"bash", "sh"}]
        return len(shells) == count

    wait_until(are_there, f"{count} sessions", Path(os.devnull))


def _measure_console(root: Path) -> None:
    kept = json.loads((root / "run/run-agent/environment.json").read_bytes())
    own = [f"{kept['cwd']}/bin/hello", "remote"]
    verb = [*RUN_AGENT, "remote_console"]
    environ = {"PATH": os.environ["PATH"], "RUN_AGENT_ROOT": str(root), "TERM": "xterm"}
    release = kept["env"] | {"TERM": "xterm"}
    a, b = median_pair(
        lambda: _prompt(verb, environ, "/"), lambda: _prompt(own, release, kept["cwd"]),
        runs=CONSOLES,
    )  # fmt: skip
    report("ssh console", a, "bin/hello remote", b, unit="s", goal="<= 0.150 s more",
           more=round(a - b, 3))  # fmt: skip


def _prompt(argv: Sequence[str], environ: dict[str, str], cwd: str) -> float:
    """Return the seconds until a console's first prompt."""
    began, seen = time.monotonic(), b""
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(cwd)
        os.execvpe(argv[0], list(argv), environ)
    while b")1>" not in seen:
        if not select.select([terminal], [], [], 30)[0]:
            sys.exit(f"cannot see a prompt: {seen!r}")
        seen += os.read(terminal, 4096)
    took = time.monotonic() - began
    os.kill(pid, signal.SIGHUP)
    os.close(terminal)
    os.waitpid(pid, 0)
    return took


@contextmanager
def _sshd(folder: Path) -> Iterator[Rival]:
    port = free_port()
    Path("/run/sshd").mkdir(exist_ok=True)
    config = folder / "sshd_config"
    config.write_text(SSHD_CONFIG.format(port=port, folder=folder))
    log = folder / "sshd.log"
    with log.open("wb") as output:
        server = subprocess.Popen([SSHD, "-D", "-e", "-f", str(config)], stderr=output)
    rival = Rival(folder, port)
    try:
        wait_until(rival.connects, "sshd", log)
        yield rival
    finally:
        server.terminate()
        server.wait(10)


@contextmanager
def _run_agent(folder: Path) -> Iterator[tuple[Rival, int]]:
    root, app, port = folder / "root", free_port(), free_port()
    with ControllerServer(app="hello", key="bench") as controller:
        controller.ssh_keys = [(folder / "key.pub").read_text().strip()]
        controller.release = {
            "slug_url": slug("mix").as_uri(),
            "customer_app_name": "hello",
            "version": "1",
            "config": {"PORT": str(app)},
        }
        with replica(root, ["init", "hello"], CONTROLLER_URL=controller.url, APP_KEY="bench",
                     MY_POD_IP="127.0.0.1", SSH_PORT=port,
                     SSH_IDLE_SECONDS=IDLE_SECONDS) as process:  # fmt: skip
            log, rival = root / "log", Rival(folder, port)
            wait_until(lambda: b'"ready"' in log.read_bytes(), "readiness", log)
            wait_until(rival.connects, "SSH", log)
            yield rival, process.pid


@contextmanager
def _source() -> Iterator[int]:
    """Serve 512 MB to everybody who connects."""
    block = bytes(1 << 20)

    def serve(server: socket.socket) -> None:
        while True:
            try:
                connection, _ = server.accept()
            except OSError:
                return
            with connection:
                try:
                    for _ in range(BULK_BYTES // len(block)):
                        connection.sendall(block)
                except OSError:
                    pass  # it only wanted to know whether we are there

    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=serve, args=(server,), daemon=True).start()
        yield server.getsockname()[1]
        server.shutdown(socket.SHUT_RDWR)


def _drain(port: int) -> None:
    buffer, left = bytearray(1 << 20), BULK_BYTES
    with socket.create_connection(("127.0.0.1", port)) as connection:
        while left and (count := connection.recv_into(buffer)):
            left -= count
    if left:
        sys.exit(f"cannot read through the forward: {left} bytes are missing")


def _accepts(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _daemon(init: int) -> int | None:
    for child in psutil.Process(init).children():
        with suppress(psutil.Error):  # it may end while we look
            if "entrypoint.sshd" in child.cmdline():
                return child.pid
    return None


def _pss(pid: int) -> float:
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) / 1024
    raise ValueError(f"cannot find the PSS of {pid}")


def _timed(action: Callable[[], object]) -> float:
    began = time.monotonic()
    action()
    return time.monotonic() - began


if __name__ == "__main__":
    main()
