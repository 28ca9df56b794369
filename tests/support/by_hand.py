"""A release that a test starts by hand, with the environment that run-agent would give it."""

import contextlib
import http.client
import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from support import slugs
from support.wait import until

READY_SECONDS = 30.0
"""How long a release may take to listen: a third of a second alone, more beside other tests."""

STOP_SECONDS = 30.0
"""How long an orderly stop may take; one second is usual."""

COMMAND_SECONDS = 60.0
"""How long a command of a start script may take; it may start a VM of its own."""


@dataclass
class Started:
    """A release that runs, and how to reach it."""

    kind: str
    tree: Path
    env: dict[str, str]
    process: subprocess.Popen[bytes]

    def get(self, path: str) -> tuple[int, bytes]:
        with contextlib.closing(self.connect_http()) as connection:
            connection.request("GET", path)
            response = connection.getresponse()
            return response.status, response.read()

    def connect_http(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", int(self.env["PORT"]), timeout=READY_SECONDS)

    def connect_line(self) -> socket.socket:
        address = ("127.0.0.1", int(self.env["TCP_PORT"]))
        return socket.create_connection(address, timeout=READY_SECONDS)

    def command(self, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
        return run_command(self.tree, {**self.env, **env}, *arguments)

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(STOP_SECONDS)


def environment(ports: tuple[int, int], home: Path) -> dict[str, str]:
    """Return what CONTRACTS 3 gives to a release; `ports` are PORT and TCP_PORT."""
    node = f"hello{ports[0]}@127.0.0.1"
    cookie = "s3cret"
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(home),
        "LC_ALL": "C.UTF-8",
        "MY_NODE_NAME": node,
        "RELEASE_NODE": node,
        "MY_COOKIE": cookie,
        "RELEASE_COOKIE": cookie,
        "ERLANG_COOKIE": cookie,
        "RELEASE_DISTRIBUTION": "name",
        "REPLACE_OS_VARS": "true",
        "RELX_REPLACE_OS_VARS": "true",
        "PORT": str(ports[0]),
        "TCP_PORT": str(ports[1]),
        "GREETING": "Grüße",
        "SECRET_KEY_BASE": "0123456789",
    }


@contextlib.contextmanager
def started(
    kind: str, tree: Path, env: dict[str, str], *, port: str | None = "PORT"
) -> Iterator[Started]:
    """Start the release and wait until it listens on the port that the variable `port` names.

    And on TCP_PORT, which it opens after that; with `port=None` nothing is waited for.
    """
    log = tree.parent / f"{tree.name}.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            (tree / "bin" / "hello", "start" if kind == "mix" else "foreground"),
            env=env,
            cwd=tree,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    running = Started(kind, tree, env, process)
    try:
        for name in dict.fromkeys((port, "TCP_PORT") if port else ()):
            until(partial(listens, int(env[name]), process), f"no listener: {name}", READY_SECONDS)
        yield running
    except BaseException as error:
        error.add_note(f"{kind} said:\n{log.read_text(errors='replace')}")
        raise
    finally:
        process.kill()
        process.wait(STOP_SECONDS)


def listens(port: int, process: subprocess.Popen[bytes]) -> bool:
    """Tell whether the port is open; fails where the process has ended instead."""
    assert process.poll() is None, f"it ended with {process.returncode}"
    with contextlib.suppress(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), timeout=READY_SECONDS).close()
        return True
    return False


def run_command(
    tree: Path, env: dict[str, str], *arguments: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        (tree / "bin" / "hello", *arguments),
        env=env,
        cwd=tree,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=COMMAND_SECONDS,
        check=False,
    )


def app(kind: str, folder: Path) -> Path:
    """Unpack the slug of `kind` below `folder`."""
    return slugs.unpack(slugs.slug(kind), folder / "app")
