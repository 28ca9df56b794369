"""The public `gigalixir` client, and the part of the platform's API that its `ps:` commands ask.

with GigalixirApi(ssh_host="127.0.0.1") as api:
    client = Client(tmp_path, api, "-p", "2222", "-i", "key")
    client.run("ps:run", "--", "ls", "-la")
"""

import base64
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self

from support.terminal import on_terminal

PROGRAM = Path(sys.executable).with_name("gigalixir")

APP = "hello"
EMAIL, API_KEY = "somebody@example.org", "the-api-key"

RUN_SECONDS = 60.0
"""How long one command of the client may take; its observer alone waits 5 s for its connection."""

NOBODY_LISTENS = "http://127.0.0.1:9"

OBSERVER = {
    "elixir": {
        "get_cookie": "Node.get_cookie() |> Atom.to_charlist()",
        "get_node_name": "Node.self() |> Atom.to_charlist()",
    },
    "erlang": {"get_cookie": "erlang:get_cookie().", "get_node_name": "node()."},
}
"""Expressions of the kind that the platform hands out, by the language of the release's eval."""


class GigalixirApi:
    """Answers on a socket of its own, or on `listener`, which may be in another network."""

    def __init__(
        self, *, ssh_host: str, language: str = "elixir", listener: socket.socket | None = None
    ) -> None:
        self.answers: dict[str, Any] = {
            "/api/ssh_keys": [{"id": "1", "key": "ssh-ed25519 AAAA somebody"}],
            f"/api/apps/{APP}/ssh_ip": {"ssh_ip": ssh_host},
            f"/api/apps/{APP}/releases/latest": {"customer_app_name": APP},
            f"/api/apps/{APP}/observer-commands": OBSERVER[language],
        }
        server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self.answers), listener is None)
        if listener is not None:
            server.socket.close()
            server.socket, server.server_address = listener, listener.getsockname()
        self._server = server
        self._thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})

    @property
    def url(self) -> str:
        return "http://{}:{}".format(*self._server.server_address[:2])

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


def _handler(answers: Mapping[str, Any]) -> type[BaseHTTPRequestHandler]:
    credentials = base64.b64encode(f"{EMAIL}:{API_KEY}".encode()).decode()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.headers.get("Authorization") != f"Basic {credentials}":
                self._answer(401, {"errors": {"": ["Unauthorized"]}})
            elif self.path in answers:
                self._answer(200, {"data": answers[self.path]})
            else:
                self._answer(404, {"errors": {"": [f"there is no {self.path}"]}})

        def _answer(self, status: int, content: object) -> None:
            body = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    return Handler


class Client:
    """The client as it is on PyPI, logged in by a ~/.netrc, with `ssh_options` as its `-o`."""

    def __init__(
        self,
        folder: Path,
        api: GigalixirApi,
        *ssh_options: str,
        wrapper: tuple[str, ...] = (),
        programs: Mapping[str, str] | None = None,
    ) -> None:
        home = folder / "home"
        (home / "bin").mkdir(parents=True)
        netrc = home / ".netrc"
        netrc.write_text(f"machine 127.0.0.1\n\tlogin {EMAIL}\n\tpassword {API_KEY}\n")
        netrc.chmod(0o600)
        for name, script in (programs or {}).items():
            (home / "bin" / name).write_text(script)
            (home / "bin" / name).chmod(0o755)
        self._options, self._wrapper = " ".join(ssh_options), wrapper
        self.env = {
            "PATH": f"{home / 'bin'}:{os.environ['PATH']}",
            "HOME": str(home),
            "LC_ALL": "C.UTF-8",
            "GIGALIXIR_CLI__HOST": api.url,
            "HTTPS_PROXY": NOBODY_LISTENS,  # it reports its errors to a service outside
        }

    def argv(self, command: str, *arguments: str) -> list[str]:
        return [
            *self._wrapper, str(PROGRAM), command, "-a", APP, "-o", self._options, *arguments
        ]  # fmt: skip

    def run(self, command: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a command of the client to its end, without a terminal."""
        return subprocess.run(
            self.argv(command, *arguments),
            env=self.env,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=RUN_SECONDS,
            check=False,
        )

    def on_terminal(self, command: str, *arguments: str) -> Any:
        """Run a command of the client on a terminal, as people do."""
        return on_terminal(self.argv(command, *arguments), env=self.env)


def is_there() -> bool:
    """Tell whether the client is installed, and what it calls."""
    return PROGRAM.exists() and all(map(shutil.which, ("ssh", "lsof")))
