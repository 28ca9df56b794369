"""What a replica lives on: a controller that tells its deploy, and a storage that has the slug.

platform.deploy(small_slugs.serving(), config={"GREETING": "hi"})
replica = platform.boot().until_ready()
platform.deploy(…)
again = platform.boot_again(replica)
"""

import hashlib
import http.client
from collections.abc import Mapping
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, Self

from support.controller_server import ControllerServer
from support.http_server import USUAL, Answer, HttpServer
from support.ports import Ports
from support.replica import Replica
from support.wait import PATIENCE_SECONDS, until

APP_KEY = "the-app-key-0123456789abcdef"
SIGNATURE = "the-signature-of-the-url"
"""Secrets; no log line and no argv may show them."""


class Platform:
    """A controller and a storage on real sockets, and the replicas that boot from them."""

    def __init__(self, folder: Path, ports: Ports, **settings: str) -> None:
        self._folder, self._ports, self._settings = folder, ports, settings
        self._replicas: list[Replica] = []
        self.controller = ControllerServer(app="hello", key=APP_KEY)
        self.storage = HttpServer()

    def __enter__(self) -> Self:
        self.controller.__enter__()
        self.storage.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        for replica in self._replicas:
            replica.end()
        self.storage.__exit__(*error)
        self.controller.__exit__(*error)

    def deploy(
        self,
        slug: bytes,
        version: str = "41",
        *,
        announced: bool = True,
        etag: str | None = None,
        headers: Mapping[str, str] | None = None,
        usual: Answer = USUAL,
        **fields: Any,
    ) -> str:
        """Make `slug` the current deploy and return its digest; `announced`: it is told as well."""
        path, digest = f"/slugs/hello-{version}.tar.gz", hashlib.sha256(slug).hexdigest()
        self.storage.put(path, slug, etag=etag, headers=headers, usual=usual)
        release = {
            "slug_url": self.storage.url(f"{path}?signature={SIGNATURE}"),
            "customer_app_name": "hello",
            "version": version,
        }
        if announced:
            release["slug_sha256"] = digest
        self.controller.release = release | fields
        return digest

    def boot(
        self,
        *command: str,
        verb: tuple[str, ...] = ("init", "hello"),
        root: Path | None = None,
        settings: Mapping[str, str] | None = None,
        **options: Any,
    ) -> Replica:
        """Start `run-agent init hello COMMAND…`, in a root of its own unless one is given."""
        usual = {
            "CONTROLLER_URL": self.controller.url,
            "APP_KEY": APP_KEY,
            "MY_POD_IP": "127.0.0.1",
            "PORT": str(self._ports.free()),
        }
        replica = Replica(
            root or self._folder / f"replica-{len(self._replicas)}",
            [*verb, *command],
            ports=self._ports,
            settings=usual | self._settings | (settings or {}),
            **options,
        )
        self._replicas.append(replica)
        return replica

    def boot_again(self, before: Replica, *command: str, **options: Any) -> Replica:
        """Stop a replica and start another one on its volume; the log begins anew."""
        before.term().wait()
        before.out.unlink()
        before.err.unlink()
        return self.boot(*command, root=before.root, **options)

    def asked_for_slug(self, version: str = "41") -> int:
        """Return how often the slug of a deploy was asked for."""
        return len(self.storage.asked(f"/slugs/hello-{version}.tar.gz"))


def ask(replica: Replica, path: str, method: str = "GET") -> tuple[int, bytes]:
    """Ask the app; raises what the connection raises."""
    port = int(replica.environ["PORT"])
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_SECONDS)
    with closing(connection):
        connection.request(method, path)
        response = connection.getresponse()
        return response.status, response.read()


def until_kept(replica: Replica, digest: str) -> Replica:
    """Wait until the deploy counts as good, and return the replica."""
    until((volume(replica.root) / "deploys" / f"{digest}.good.json").exists, "it is not kept")
    return replica


def until_waits_for(replica: Replica, what: str) -> str:
    """Wait until `/readyz` says that `what` is waited for; return since when."""

    def since() -> str | None:
        with suppress(OSError):
            waits = replica.get("/readyz").body.get("waits_for", [])
            return next((wait["since"] for wait in waits if what in wait["what"]), None)
        return None

    return until(since, lambda: f"{what!r}: {replica.log}")


def volume(root: Path) -> Path:
    return root / "var" / "lib" / "run-agent"


def trees(root: Path) -> set[str]:
    """Return the digests of the slugs that are unpacked."""
    deploys = volume(root) / "deploys"
    return {path.name for path in deploys.glob("*") if path.is_dir() and path.name[0] != "."}


def half_done(root: Path) -> list[str]:
    """List the trees that are being made or removed, or whose maker did not get to the end."""
    names = (path.name for path in (volume(root) / "deploys").glob(".*"))
    return [name for name in names if name.startswith((".fetching", ".removed"))]


def half_written(root: Path) -> list[str]:
    """List the files that are being replaced, or whose writer did not get to the end."""
    return [str(path) for path in root.rglob(".*.new")]


def current(root: Path) -> str | None:
    """Return the digest that `current` points to."""
    link = volume(root) / "current"
    return link.readlink().name if link.is_symlink() else None
