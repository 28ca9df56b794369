"""The SSH daemon alone, behind a stand-in for the agent's door; keys; and the real `ssh`.

PID 1's part is played here too: the daemon is started when somebody connects and none runs. What
it starts carries its token, and so is found in the end.
"""

import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from entrypoint.init import children
from entrypoint.init.sockets import listen_unix
from entrypoint.orders import EXEC, Orders
from run_agent import files
from run_agent.model import Layout
from run_agent.ssh import kept, wire
from run_agent.ssh.daemon.processes.children import SESSION_MARK
from support import replica
from support.need import need
from support.ports import Ports
from support.wait import PATIENCE_SECONDS, until

APP = "hello"

GRACE_SECONDS = 60.0

OPTIONS = {
    "BatchMode": "yes",
    "ControlPath": "none",
    "IdentitiesOnly": "yes",
    "LogLevel": "ERROR",
    "StrictHostKeyChecking": "accept-new",  # a host key that changed is refused
    "ConnectTimeout": "20",
}


class Key(NamedTuple):
    """A user's key: the private half's file, and the line that admits it."""

    path: Path
    line: str

    @property
    def fingerprint(self) -> str:
        return _keygen("-l", "-f", f"{self.path}.pub").split()[1]

    def with_options(self, options: str) -> str:
        """Return its line with `options` in front, as in authorized_keys."""
        return f"{options} {self.line}"


def make_key(folder: Path, name: str = "key", kind: str = "ed25519", *options: str) -> Key:
    """Make a key with ssh-keygen(1); its comment is its name."""
    need(shutil.which("ssh-keygen"), "OpenSSH's client")
    path = folder / name
    folder.mkdir(parents=True, exist_ok=True)
    _keygen("-t", kind, "-N", "", "-C", name, "-f", str(path), *options)
    return Key(path, path.with_name(f"{name}.pub").read_text().strip())


class Daemon:
    """One root with an SSH daemon, reached on `port` of 127.0.0.1 (and of 127.0.0.2 and so on).

    `keys` are authorized_keys lines or `Key`s. `launch` gives what sessions run in; without it
    nothing has been started here yet. `settings` are environment variables of the daemon.
    """

    def __init__(
        self,
        root: Path,
        ports: Ports,
        *keys: str | Key,
        settings: Mapping[str, str] | None = None,
        env: Mapping[str, str] | None = None,
    ) -> None:
        self.root, self.layout, self.port = root, Layout(root), ports.free()
        for folder in (self.layout.run, self.layout.volume, self.layout.app):
            folder.mkdir(parents=True, exist_ok=True)
        self.err = root / "stderr"
        self.environ = replica.environment(root) | {"SSH_PORT": str(self.port)} | (settings or {})
        if env is not None:
            self.write_launch(env)
        self.write_keys(*keys)
        self.tokens: list[str] = []
        self.process: subprocess.Popen[bytes] | None = None
        self._run = listen_unix(str(self.layout.run), "sshd.sock", socket.SOCK_SEQPACKET)
        self.door = Door(self)

    # -- the daemon -------------------------------------------------------------------------------

    def start(self) -> subprocess.Popen[bytes]:
        """Start the daemon as PID 1 does, unless it runs."""
        if self.process is not None and self.process.poll() is None:
            return self.process
        self.tokens.append(os.urandom(8).hex())
        orders = Orders(EXEC, APP).to_argument()
        with self.err.open("ab") as err:
            self.process = subprocess.Popen(
                [sys.executable, "-I", "-m", "entrypoint.sshd",
                 str(self._run.fileno()), self.tokens[-1], orders],
                env=self.environ, cwd=self.root, pass_fds=(self._run.fileno(),),
                stdin=subprocess.DEVNULL, stdout=err, stderr=err, start_new_session=True,
            )  # fmt: skip
        return self.process

    @property
    def pid(self) -> int:
        """The daemon that runs now."""
        assert self.process is not None, "no daemon has been started"
        return self.process.pid

    def wait(self, seconds: float = PATIENCE_SECONDS) -> int:
        """Wait for the daemon's end; return its exit code as `Popen` has it."""
        assert self.process is not None, "no daemon has been started"
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"waited {seconds:g} s for its end in vain: {self.log}") from None

    def sessions(self) -> list[int]:
        """List the processes of its sessions."""
        marks = [f"{SESSION_MARK}={token}.".encode() for token in self.tokens]
        return [pid for pid in children._processes() if any(
            mark in children._environ(pid) for mark in marks
        )]  # fmt: skip

    def end(self) -> None:
        """Leave nothing of it behind."""
        self.door.close()
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(PATIENCE_SECONDS / 2)
            self.process.kill()
            self.process.wait(PATIENCE_SECONDS)
        self._run.close()
        for token in self.tokens:
            children.kill_marked(f"{SESSION_MARK}={token}.")

    # -- what it reads ----------------------------------------------------------------------------

    def write_keys(self, *keys: str | Key) -> None:
        """Put the list on the volume, as the agent does; a daemon reads it when it starts."""
        kept.save(self.layout, _kept(keys))

    def change_keys(self, *keys: str | Key) -> None:
        """Put another list there, and give it to the daemon that runs."""
        self.write_keys(*keys)
        with wire.in_memory("keys", kept.to_json(_kept(keys))) as passed:
            wire.send(self.door.link(), {"keys": True}, passed.fileno())

    def write_launch(self, env: Mapping[str, str], cwd: Path | None = None) -> None:
        """Say what the release was started with: its environment and its folder."""
        launch = {"argv": ["true"], "env": dict(env), "cwd": str(cwd or self.layout.app)}
        launch |= {"stop_group": False, "deploy": None}
        files.atomic_write(self.layout.environment, json.dumps(launch).encode())

    # -- what it says -----------------------------------------------------------------------------

    @property
    def log(self) -> str:
        return self.err.read_text(errors="replace") if self.err.exists() else ""

    def events(self, containing: str = "", **fields: object) -> list[dict[str, Any]]:
        """List the lines of its log whose message holds `containing` and that have `fields`."""
        found = []
        for line in self.log.splitlines():
            with suppress(ValueError):
                event = json.loads(line)
                if containing in event["message"] and fields.items() <= event.items():
                    found.append(event)
        return found

    def until_said(self, containing: str = "", **fields: object) -> dict[str, Any]:
        """Wait for such a line, and return it."""
        return until(
            lambda: self.events(containing, **fields),
            lambda: f"{containing!r} {fields} in {self.log}",
        )[0]

    # -- clients ----------------------------------------------------------------------------------

    def client(
        self,
        *arguments: str,
        key: Key,
        program: str = "ssh",
        user: str = "root",
        address: str = "127.0.0.1",
        options: Mapping[str, str] | None = None,
    ) -> list[str]:
        """Return the argv of a client: ssh (ARGUMENTS before the host), scp or sftp (none).

        A command for ssh goes after `--`: `client("-t", "--", "true", key=key)`.
        """
        need(shutil.which(program), f"OpenSSH's {program}")
        known = OPTIONS | {"UserKnownHostsFile": str(self.root / "known_hosts")}
        words = [f"-o{name}={value}" for name, value in (known | dict(options or {})).items()]
        argv = [program, "-F", "none", *words, "-i", str(key.path)]
        if program != "ssh":
            return [*argv, "-P", str(self.port), *arguments]
        before, command = list(arguments), []
        if "--" in before:
            at = before.index("--")
            before, command = before[:at], before[at + 1 :]
        return [*argv, "-p", str(self.port), *before, f"{user}@{address}", *command]

    def ssh(self, *arguments: str, key: Key, **options: Any) -> subprocess.CompletedProcess[bytes]:
        """Run `ssh` to its end, with its output as bytes; `input`, `timeout`, `env` as `run`."""
        ours = {"user", "address", "options", "program"}
        argv = self.client(*arguments, key=key, **{k: options.pop(k) for k in ours & set(options)})
        usual = {"timeout": PATIENCE_SECONDS, "capture_output": True, "env": client_environ()}
        if "input" not in options:
            usual["stdin"] = subprocess.DEVNULL
        return subprocess.run(argv, check=False, **usual | options)


class Door(threading.Thread):
    """Takes TCP connections and hands them to the daemon; keeps what the daemon says."""

    def __init__(self, daemon: Daemon) -> None:
        super().__init__(name="door", daemon=True)
        self.heard: list[dict[str, Any]] = []
        """Every message of the daemon, in order; over all links."""
        self.says_bye = True
        """Whether `idle` is answered with `bye`."""
        self.hands_over = True
        """Whether connections are handed over; the others wait."""
        self.grace = GRACE_SECONDS
        self.handed = 0
        """How many were handed over; each gets the number it makes."""
        self._daemon = daemon
        self._lock = threading.RLock()
        self._link: socket.socket | None = None
        self._listener = socket.create_server(("0.0.0.0", daemon.port), backlog=512)
        self._wake, self._woken = socket.socketpair()
        self._ending = False
        self.start()

    def run(self) -> None:
        while not self._ending:
            link = self._link
            watched = [self._woken, *([self._listener] if self.hands_over else [])]
            try:
                ready, _, _ = select.select([*watched, *([link] if link else [])], [], [], 0.2)
            except (OSError, ValueError):
                continue  # somebody has just hung up
            if self._woken in ready:
                self._woken.recv(1)
            if link in ready and link is not None:
                self._receive(link)
            if self._listener in ready:
                with suppress(OSError):
                    self.hand_over(*self._listener.accept())

    def hand_over(self, connection: socket.socket, source: tuple[str, int]) -> int:
        """Give the daemon a connection; return the number it has."""
        self.handed += 1
        message = {
            "connection": self.handed,
            "source": list(source),
            "local": list(connection.getsockname()),
            "grace": self.grace,
        }
        with connection, self._lock:
            try:
                wire.send(self.link(), message, connection.fileno())
            except OSError:
                self.hang_up()
                wire.send(self.link(), message, connection.fileno())
        return self.handed

    def link(self) -> socket.socket:
        """Return the link to the daemon; connect and start the daemon where there is none."""
        with self._lock:
            if self._link is None:
                link = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
                folder = os.open(self._daemon.layout.run, os.O_RDONLY | os.O_DIRECTORY)
                link.connect(f"/proc/self/fd/{folder}/sshd.sock")
                os.close(folder)
                self._link = link
                self._wake.send(b"x")
            self._daemon.start()
            return self._link

    def tell(self, what: str, content: object = True) -> None:  # noqa: FBT002 - JSON's true
        """Send a message: `bye`, or `drop` with a connection's number."""
        wire.send(self.link(), {what: content})

    def hang_up(self) -> None:
        """Go away as an agent does that dies; the next use opens a new link."""
        with self._lock:
            if self._link is not None:
                self._link.close()
                self._link = None
                self._wake.send(b"x")  # what is selected from is not quite closed

    def messages(self, kind: str) -> list[dict[str, Any]]:
        """List what the daemon has said of this kind."""
        return [message for message in self.heard if kind in message]

    def until_heard(self, kind: str, count: int = 1) -> list[dict[str, Any]]:
        """Wait until the daemon has said so `count` times, and return all of them."""
        until(
            lambda: len(self.messages(kind)) >= count,
            lambda: f"{count} × {kind!r} in {self.heard}; {self._daemon.log}",
        )
        return self.messages(kind)

    def _receive(self, link: socket.socket) -> None:
        with suppress(OSError, ValueError):
            received = wire.receive(link)
            if received is not None:
                if self.says_bye and "idle" in received[0]:
                    wire.send(link, {"bye": True})
                self.heard.append(received[0])
                return
        if link is self._link:
            self.hang_up()

    def close(self) -> None:
        """End it, and the link with it."""
        self._ending = True
        self._wake.send(b"x")
        self.join(PATIENCE_SECONDS)
        self.hang_up()
        for end in (self._listener, self._wake, self._woken):
            end.close()


Start = Callable[..., Daemon]


def daemons(folder: Path, ports: Ports) -> Iterator[Start]:
    """Make daemons, and end them all: the body of a fixture."""
    made: list[Daemon] = []

    def start(*keys: str | Key, **options: Any) -> Daemon:
        made.append(Daemon(folder / f"sshd-{len(made)}", ports, *keys, **options))
        return made[-1]

    yield start
    for daemon in made:
        daemon.end()


def _kept(keys: Iterable[str | Key]) -> kept.Kept:
    lines = [key.line if isinstance(key, Key) else key for key in keys]
    return kept.Kept(APP, 0.0, tuple(lines))


def client_environ() -> dict[str, str]:
    """Return an environment in which a client finds no agent and no locale to send."""
    return {"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/"), "LANG": "C"}


def _keygen(*arguments: str) -> str:
    return subprocess.run(
        ["ssh-keygen", "-q", *arguments] if "-l" not in arguments else ["ssh-keygen", *arguments],
        check=True, capture_output=True, text=True, timeout=PATIENCE_SECONDS,
        stdin=subprocess.DEVNULL,
    ).stdout  # fmt: skip
