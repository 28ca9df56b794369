"""Real containers of the image, with podman and runc, as root.

    with Container("init", "hello", settings={"CONTROLLER_URL": "none"}) as container:
        container.exec("run-agent", "status")
        assert container.stop() == 0

The images are `support.images`.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, Self

from support import images, podman
from support.wait import PATIENCE_SECONDS, until

STOP_SECONDS = 40.0
"""How long `stop` waits before the runtime kills: longer than the default GRACE_SECONDS."""


class Container:
    """One `podman run`; its output is in the files `stdout` and `log` (stderr).

    `network` is as podman has it: none, host, ns:/run/netns/NAME; `image` is `image()` where none
    is given. `read_only` mounts a tmpfs where run-agent writes, unless one of `volumes` is there;
    `options` are further ones of `podman run`.
    """

    def __init__(  # noqa: PLR0913 - they are podman run's
        self,
        *arguments: str,
        settings: Mapping[str, str] | None = None,
        options: Sequence[str] = (),
        network: str = "none",
        memory: str | None = None,
        user: str | None = None,
        read_only: bool = False,
        volumes: Mapping[Path | str, str] | None = None,
        image: str | None = None,
        stdin: int | IO[bytes] = subprocess.DEVNULL,
    ) -> None:
        self.name = f"test-{os.getpid()}-{os.urandom(4).hex()}"
        self.folder = Path(tempfile.mkdtemp(prefix="run-agent-container-"))
        self.settings = dict(settings or {})
        self.stdout, self.log = self.folder / "stdout", self.folder / "log"
        self._pid = self.folder / "pid"
        given: Iterable[str] = (
            *podman.LIMITS,
            "--cgroups=no-conmon",
            "--log-driver=none",  # the frontend writes the files
            "--no-healthcheck",  # podman wants a systemd for it
            f"--name={self.name}",
            f"--network={network}",
            f"--pidfile={self._pid}",
            *(f"--env={name}={value}" for name, value in self.settings.items()),
            *(f"--volume={source}:{target}" for source, target in (volumes or {}).items()),
            *((f"--memory={memory}",) if memory else ()),
            *((f"--user={user}",) if user else ()),
            *(_read_only(volumes or {}) if read_only else ()),
            *options,
        )
        self.argv = podman.argv("run", *given, image or images.image(), *arguments)
        self._stdin = stdin
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def start(self) -> None:
        """Run it; returns at once, `pid` waits for PID 1."""
        with self.stdout.open("ab") as out, self.log.open("ab") as err:
            self._process = subprocess.Popen(
                self.argv, stdin=self._stdin, stdout=out, stderr=err,
                cwd=self.folder,  # where conmon notes that memory ran out
            )  # fmt: skip

    @property
    def process(self) -> "subprocess.Popen[bytes]":
        """The `podman run` in front of it: it ends with PID 1's exit code."""
        assert self._process, "the container was not started"
        return self._process

    @property
    def pid(self) -> int:
        """PID 1 as this machine sees it; waits until it is there."""
        until(
            lambda: self._pid.exists() and self._pid.read_text().strip(),
            lambda: f"podman starts nothing: {self.text()}",
        )
        return int(self._pid.read_text())

    @property
    def running(self) -> bool:
        """Whether the container has not ended yet."""
        return self.process.poll() is None

    def text(self) -> str:
        """Return what it has written to stderr so far: run-agent's own log."""
        return self.log.read_text(errors="replace")

    def until(self, written: str, seconds: float = PATIENCE_SECONDS) -> Self:
        """Wait until this is in its log, and return the container."""
        until(lambda: written in self.text(), lambda: f"no {written}: {self.text()}", seconds)
        return self

    def exec(self, *argv: str, **options: Any) -> "subprocess.CompletedProcess[str]":
        """Run a command in it, as `kubectl exec` does; `options` are subprocess.run's.

        `podman=("--user=0",)` adds options of podman's own.
        """
        more = options.pop("podman", ())
        stdin = ("--interactive",) if {"input", "stdin"} & options.keys() else ()
        options = {"timeout": PATIENCE_SECONDS, "text": True, "capture_output": True} | options
        if not stdin:
            options["stdin"] = subprocess.DEVNULL
        return subprocess.run(
            podman.argv("exec", *stdin, *more, self.name, *argv), check=False, **options
        )

    def signal(self, number: int) -> None:
        """Send PID 1 a signal, as the runtime does from outside its namespace."""
        os.kill(self.pid, number)

    def wait(self, seconds: float = PATIENCE_SECONDS) -> int:
        """Wait for the end; return the exit code."""
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still running after {seconds:g} s:\n{self.text()}") from None

    def stop(self, seconds: float = STOP_SECONDS) -> int:
        """Stop it as a runtime does (TERM, after `seconds` KILL); return the exit code."""
        podman.run("stop", f"--time={seconds:.0f}", self.name)
        return self.wait()

    def end(self) -> None:
        """Remove it and all that belongs to it, whatever state it is in."""
        if self._process is not None:
            subprocess.run(
                podman.argv("rm", "--force", "--time=0", "--volumes", self.name),
                capture_output=True, timeout=podman.COMMAND_SECONDS, check=False,
            )  # fmt: skip
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(PATIENCE_SECONDS)
            if self._process.poll() is None:
                self._process.send_signal(signal.SIGKILL)
                self._process.wait()
        shutil.rmtree(self.folder)


def _read_only(volumes: Mapping[Path | str, str]) -> Iterator[str]:
    """Give the options of a pod in which nothing can be written but what is mounted."""
    yield from ("--read-only", "--read-only-tmpfs=false")
    for folder in ("/tmp", "/run/run-agent", "/var/lib/run-agent"):
        if folder not in (target.partition(":")[0] for target in volumes.values()):
            yield f"--tmpfs={folder}:mode=1777,exec"
