"""A replica in a container of the real image, and the folder that is its controller.

    with Host(tmp_path, ports) as host:
        replica = host.boot_release("mix")
        assert replica.verb("status").returncode == 0      # podman exec … run-agent status

`Contained` shows of it what `Replica` shows of an ordinary process, so that the tests of both ask
in the same words. PID 1 is the container's own; the pids are those of this side.
"""

import hashlib
import itertools
import json
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import psutil

from run_agent.files import atomic_write
from support import podman, ssh_replica, upgrading
from support.containers import STOP_SECONDS, Container
from support.platform import until_kept
from support.ports import Ports
from support.replica import Replica, environment, state_and_parent
from support.ssh import Key, make_key
from support.wait import PATIENCE_SECONDS

VOLUME = "/var/lib/run-agent"
CONTROLLER = "/etc/controller"

QUIET = {"HEALTH_PORT": "none", "MY_POD_IP": "127.0.0.1"}
"""Settings of a container that has no network to be probed by."""


class Contained(Replica):
    """One container that runs `run-agent ARGUMENTS…`.

    Its volume is a folder of `root`; without `volume` nothing of it outlives the container.
    """

    def __init__(
        self,
        root: Path,
        arguments: Sequence[str],
        *,
        settings: Mapping[str, str],
        mounted: Mapping[Path, str],
        volume: bool = True,
        **options: Any,
    ) -> None:
        self.root = root
        inside = environment(Path("/"))
        self.environ = {name: inside[name] for name in inside.keys() - {"PATH"}} | dict(settings)
        volumes: dict[Path | str, str] = {path: f"{place}:ro" for path, place in mounted.items()}
        if volume:
            volumes[self._volume()] = VOLUME
        self.container = Container(*arguments, settings=self.environ, volumes=volumes, **options)
        self.container.start()

    def _volume(self) -> Path:
        folder = self.root / VOLUME.lstrip("/")
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o1777)  # as an emptyDir is: anybody may be who runs there
        return folder

    # -- its processes ----------------------------------------------------------------------------

    @cached_property
    def pid(self) -> int:
        """PID 1, as this side of the namespace numbers it."""
        return self.container.pid

    def alive(self) -> list[psutil.Process]:
        """List every process of its PID namespace; none once PID 1 has ended."""
        ours = _namespace(self.pid)
        return [
            process for process in psutil.process_iter() if ours and _namespace(process.pid) == ours
        ]

    def zombies(self) -> list[int]:
        """List the processes in it that have ended and that nobody has reaped."""
        states = {process.pid: state_and_parent(process.pid) for process in self.alive()}
        return [pid for pid, state in states.items() if state and state[0] == "Z"]

    # -- what it says, and what it is asked -------------------------------------------------------

    @property
    def stdout(self) -> str:
        return self.container.stdout.read_text(errors="replace")

    @property
    def log(self) -> str:
        return self.container.text()

    def verb(self, *arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
        """Run `run-agent VERB …` beside it, as `kubectl exec` does."""
        return self.exec("run-agent", *arguments, **options)

    def exec(self, *argv: str, **options: Any) -> subprocess.CompletedProcess[str]:
        """Run a program in it, beside the replica."""
        return self.container.exec(*argv, **options)

    # -- what its runtime does --------------------------------------------------------------------

    def runtime(self, *words: str) -> str:
        """Run `podman WORDS… NAME`, and return what it prints."""
        return str(podman.run(*words, self.container.name).stdout)

    def restart(self) -> None:
        """Have it stopped and started again in place; what it says from then on is not kept."""
        self.runtime("restart", f"--time={STOP_SECONDS:g}")
        vars(self).pop("pid", None)

    # -- its end ----------------------------------------------------------------------------------

    def wait(self, seconds: float = PATIENCE_SECONDS) -> int:
        return self.container.wait(seconds)

    def end(self) -> None:
        """Remove it, whatever state it is in, unless that has been done."""
        if self.container.folder.exists():
            self.container.end()


class Host:
    """Where containers run: a folder that is their controller, and volumes that outlive them.

    They share this machine's network, with ports of their own. It stands where a `Platform` does.
    """

    def __init__(self, folder: Path, ports: Ports) -> None:
        self.controller = folder / "controller"
        self.controller.mkdir()
        self._folder, self._ports = folder, ports
        self._replicas: list[Contained] = []
        self._numbers = itertools.count()  # several threads may boot at a time
        self.admit()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for replica in self._replicas:
            replica.end()

    def deploy(self, slug: bytes, version: str = "41", **fields: Any) -> str:
        """Make `slug` the current deploy and return its digest."""
        digest = hashlib.sha256(slug).hexdigest()
        (self.controller / f"{digest}.tar.gz").write_bytes(slug)
        release = {
            "slug_url": f"{digest}.tar.gz",
            "slug_sha256": digest,
            "customer_app_name": "hello",
            "version": version,
        }
        self._tell("release.json", json.dumps(release | fields))
        return digest

    def admit(self, *lines: str) -> None:
        """Let these keys in, and no others."""
        self._tell("ssh_keys", "".join(f"{line}\n" for line in lines))

    def _tell(self, name: str, text: str) -> None:
        atomic_write(self.controller / name, text.encode(), mode=0o644)  # whoever runs there

    def boot(
        self,
        *command: str,
        verb: tuple[str, ...] = ("init", "hello"),
        root: Path | None = None,
        settings: Mapping[str, str] | None = None,
        network: str = "host",
        **options: Any,
    ) -> Contained:
        """Run a container; `options` are those of `Container`."""
        names = ("PORT", "HEALTH_PORT", "TCP_PORT", "ERL_EPMD_PORT")
        usual = {name: str(self._ports.free()) for name in names}
        usual |= {"CONTROLLER_URL": f"file://{CONTROLLER}", "MY_POD_IP": "127.0.0.1"}
        replica = Contained(
            root or self._folder / f"replica-{next(self._numbers)}",
            [*verb, *command],
            settings=usual | (QUIET if network == "none" else {}) | dict(settings or {}),
            mounted={self.controller: CONTROLLER},
            network=network,
            **options,
        )
        self._replicas.append(replica)
        return replica

    def boot_release(
        self,
        kind: str = "mix",
        version: str = "0.1.0",
        settings: Mapping[str, str] | None = None,
        **options: Any,
    ) -> Contained:
        """Run a container with that release of the example, until it counts as good."""
        digest = upgrading.deploy(self, kind, version)  # type: ignore[arg-type]
        replica = self.boot(settings=upgrading.QUICK | dict(settings or {}), **options)
        replica.until_ready(upgrading.NODE_SECONDS)
        if options.get("volume", True):
            until_kept(replica, digest)
        return replica

    def boot_open(self, kind: str = "mix", **options: Any) -> tuple[Contained, Key]:
        """Do the same with SSH; return the key as well, once it may log in."""
        key = make_key(self._folder)
        self.admit(key.line)
        settings = {"SSH_PORT": str(self._ports.free()), "SSH_KEYS_SECONDS": "1"}
        replica = self.boot_release(kind, settings=settings, **options)
        ssh_replica.until_open(replica, key)
        return replica, key

    def boot_again(self, before: Contained, *command: str, **options: Any) -> Contained:
        """Stop a container, and run another one on its volume."""
        before.term().wait()
        return self.boot(*command, root=before.root, **options)


def _namespace(pid: int) -> Path | None:
    with suppress(OSError):
        return Path(f"/proc/{pid}/ns/pid").readlink()
    return None
