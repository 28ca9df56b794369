"""A Kubernetes API on a real socket, with TLS, tokens and RBAC, which does what it is told.

    with KubernetesApi() as api:
        settings = api.mount(root)  # the service account's files below ROOT, and where the API is
        api.add({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "hello-1"}, …})
        api.rules = [{"apiGroups": [""], "resources": ["pods/status"], "verbs": ["patch"]}]
        api.fail(429, headers={"Retry-After": "7"}, match="PATCH")
        api.get("Pod", "hello-1")["metadata"]["labels"]

The objects are `kubernetes_objects`. It runs in a thread; with `enter=("ip", "netns", "exec",
NAME)` its port is in that network namespace. `match` of a fault is a part of "METHOD /path", by
default it concerns every request; the fault set last counts.
"""

import asyncio
import contextlib
import ctypes
import datetime as dt
import os
import secrets
import socket
import ssl
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Self, TypeVar

import aiohttp.web

from support.kubernetes_certificate import certificate
from support.kubernetes_objects import Objects, error

CLONE_NEWNET = 0x40000000

ACCOUNT = Path("var/run/secrets/kubernetes.io/serviceaccount")
"""Where the kubelet mounts it, below the root."""

CALL_SECONDS = 20.0
"""Longer than anything takes that the server's thread is asked."""

T = TypeVar("T")


class Request(NamedTuple):
    """One request; `status` is 0 while, or where, it has no answer; `at` is monotonic seconds."""

    method: str
    path: str
    status: int
    at: float


@dataclass
class _Fault:
    kind: str
    match: str
    left: int | None
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    seconds: float = 0.0


class KubernetesApi:
    """Serves until the end of its block; set `rules` at any time (none: all is allowed)."""

    def __init__(
        self, host: str = "127.0.0.1", port: int | None = None, *, enter: Sequence[str] = ()
    ) -> None:
        self.host = host
        self.requests: list[Request] = []
        self._namespace = enter[-1] if enter else None
        self._objects = Objects()
        self._mounts: list[tuple[Path, str]] = []
        self._faults: list[_Fault] = []
        # Bound, never listening: the port stays ours while nobody listens on it.
        self._port = self._socket(port or 0)
        self.port: int = self._port.getsockname()[1]
        self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.rotate_token(remount=False)
        self.rotate_certificate(remount=False)

    def __enter__(self) -> Self:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(
            target=self._loop.run_forever, name="kubernetes", daemon=True
        )
        self._thread.start()
        self._healed = asyncio.Event()
        self._listener: socket.socket | None = None
        self._runner: aiohttp.web.ServerRunner | None = None
        self._await(self._objects.__aenter__())
        self.listen()
        return self

    def __exit__(self, *_: object) -> None:
        self.refuse()
        self._await(self._objects.__aexit__(None, None, None))
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        self._port.close()

    @property
    def rules(self) -> Sequence[Mapping[str, Any]] | None:
        """What is allowed, as the rules of a Role; none: everything."""
        return self._objects.rules

    @rules.setter
    def rules(self, rules: Sequence[Mapping[str, Any]] | None) -> None:
        self._objects.rules = rules

    @property
    def drops(self) -> set[str]:
        """Fields of the metadata (`labels`, `annotations`) that patches lose, as by a webhook."""
        return self._objects.drops

    def mount(self, root: Path, namespace: str = "default") -> dict[str, str]:
        """Put the service account's files below `root`, and return where the API is."""
        self._mounts.append((root / ACCOUNT, namespace))
        self.remount()
        return {"KUBERNETES_SERVICE_HOST": self.host, "KUBERNETES_SERVICE_PORT": str(self.port)}

    def remount(self) -> None:
        """Write the files of all mounts anew, as the kubelet does after a rotation."""
        for folder, namespace in self._mounts:
            folder.mkdir(parents=True, exist_ok=True)
            files = {"token": self.token, "ca.crt": self.ca, "namespace": namespace}
            for name, text in files.items():
                (folder / f"..{name}").write_text(text)
                (folder / f"..{name}").replace(folder / name)

    def add(self, obj: Mapping[str, Any]) -> dict[str, Any]:
        """Store an object of any kind that Kubernetes brings along."""
        return self._call(lambda: self._objects.add(obj))

    def get(self, kind: str, name: str, namespace: str = "default") -> dict[str, Any] | None:
        """Return an object, none where there is no such."""
        return self._call(lambda: self._objects.find(kind, name, namespace))

    def remove(self, kind: str, name: str, namespace: str = "default") -> None:
        """Take an object away."""
        self._call(lambda: self._objects.remove(kind, name, namespace))

    def events(self) -> list[dict[str, Any]]:
        """Return all Events, in the order in which they were created."""
        return self._call(lambda: self._objects.every("v1/events"))

    def fail(
        self,
        status: int,
        *,
        headers: Mapping[str, str] | None = None,
        times: int | None = None,
        match: str = "",
    ) -> None:
        """Answer with an error, the next `times` times, or until `heal`."""
        self._faults.append(_Fault("fail", match, times, status, headers or {}))

    def hang(
        self, match: str = "", *, times: int | None = None, after_headers: bool = False
    ) -> None:
        """Do what is asked, but do not say so until `heal`."""
        kind = "stall" if after_headers else "hang"
        self._faults.append(_Fault(kind, match, times))

    def garble(
        self, body: bytes = b"<html>Sign in</html>", *, status: int = 200, match: str = "",
        times: int | None = None,
    ) -> None:  # fmt: skip
        """Answer with `body`, which is no JSON object, and do nothing."""
        self._faults.append(_Fault("garble", match, times, status, body=body))

    def cut(self, match: str = "", *, times: int | None = None) -> None:
        """Do what is asked, but close the connection in the middle of the answer."""
        self._faults.append(_Fault("cut", match, times))

    def drip(self, seconds: float, match: str = "", *, times: int | None = None) -> None:
        """Do what is asked, and send the answer a byte at a time, so far apart."""
        self._faults.append(_Fault("drip", match, times, seconds=seconds))

    def heal(self) -> None:
        """Forget all faults; who hangs is hung up on."""
        self._faults.clear()
        self._call(self._let_go)

    def refuse(self) -> None:
        """Close the port and what is connected to it; connections are refused from now on."""
        if self._listener is None:
            return
        self._call(self._let_go)
        self._await(self._close())
        self._listener = None

    def deaf(self) -> None:
        """Accept connections (the kernel does) and say nothing on them, until `listen`."""
        self.refuse()
        self._listener = self._socket(self.port)
        self._listener.listen()

    def listen(self) -> None:
        """Listen (again) on the same port."""
        self.refuse()
        self._listener = self._socket(self.port)
        self._await(self._open(self._listener))

    def rotate_token(self, *, remount: bool = True) -> None:
        """Take another token; the old one is answered with 401."""
        self.token = self._objects.token = f"eyJhbGciOiJSUzI1NiJ9.{secrets.token_urlsafe(96)}"
        if remount:
            self.remount()

    def rotate_certificate(
        self,
        *,
        remount: bool = True,
        valid_in: dt.timedelta = dt.timedelta(hours=-1),
        bare: bool = False,
    ) -> None:
        """Take a certificate of a new CA, valid from `valid_in` on; counts for new connections.

        `bare` is one as old clusters have it, without key usage and identifiers.
        """
        self.ca, chain = certificate(self.host, valid_in, bare=bare)
        with tempfile.NamedTemporaryFile() as file:
            file.write(chain)
            file.flush()
            self._tls.load_cert_chain(file.name)
        if remount:
            self.remount()

    def _let_go(self) -> None:
        """Hang up on who hangs now; who comes later may hang again."""
        self._healed.set()
        self._healed = asyncio.Event()

    async def _open(self, listener: socket.socket) -> None:
        self._runner = aiohttp.web.ServerRunner(
            aiohttp.web.Server(self._serve, access_log=None), shutdown_timeout=0.1
        )
        await self._runner.setup()
        site = aiohttp.web.SockSite(self._runner, listener, ssl_context=self._tls)
        await site.start()

    async def _close(self) -> None:
        assert self._listener is not None
        if self._runner is not None:
            assert isinstance(self._runner.server, aiohttp.web.Server)
            for connection in self._runner.server.connections:
                if connection.transport is not None:
                    connection.transport.abort()  # no waiting for a client's TLS to say goodbye
            await self._runner.cleanup()
            self._runner = None
        self._listener.close()

    async def _serve(self, request: aiohttp.web.BaseRequest) -> aiohttp.web.StreamResponse:
        number = len(self.requests)
        asked = Request(request.method, request.path, 0, time.monotonic())
        self.requests.append(asked)
        fault = self._take_fault(f"{request.method} {request.path}")
        try:
            answer = await self._answer(request, fault)
        except ConnectionResetError:  # hung up, by the client or by us
            return aiohttp.web.Response(status=500)
        self.requests[number] = asked._replace(status=answer.status)
        return answer

    def _take_fault(self, what: str) -> _Fault | None:
        for fault in reversed(self._faults):
            if fault.match in what:
                if fault.left is not None:
                    fault.left -= 1
                    if fault.left == 0:
                        self._faults.remove(fault)
                return fault
        return None

    async def _answer(
        self, request: aiohttp.web.BaseRequest, fault: _Fault | None
    ) -> aiohttp.web.StreamResponse:
        if fault is not None and fault.kind == "fail":
            said = error(fault.status, REASONS.get(fault.status, "Unknown"), "as the test wants it")
            answer = await self._objects._render_error(said)
            answer.headers.update(fault.headers)
            return answer
        if fault is not None and fault.kind == "garble":
            return aiohttp.web.Response(status=fault.status, body=fault.body)
        answer = await self._objects(request)
        if fault is None:
            return answer
        return await self._mishandle(request, answer, fault)

    async def _mishandle(
        self,
        request: aiohttp.web.BaseRequest,
        answer: aiohttp.web.StreamResponse,
        fault: _Fault,
    ) -> aiohttp.web.StreamResponse:
        """Send an answer that was given as a fault has it, and hang up."""
        assert isinstance(answer, aiohttp.web.Response)
        assert isinstance(answer.body, bytes)
        body = answer.body
        if fault.kind != "hang":
            headers = {"Content-Type": "application/json", "Content-Length": str(len(body))}
            slow = aiohttp.web.StreamResponse(status=answer.status, headers=headers)
            await slow.prepare(request)
            if fault.kind == "cut":
                await slow.write(body[: len(body) // 2])
            elif fault.kind == "drip":
                await self._drip(slow, body, fault.seconds)
        if fault.kind in {"hang", "stall"}:
            await self._healed.wait()
        if request.transport is not None:
            request.transport.abort()
        raise ConnectionResetError

    async def _drip(self, answer: aiohttp.web.StreamResponse, body: bytes, seconds: float) -> None:
        for byte in body:
            await answer.write(bytes([byte]))
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._healed.wait(), seconds)
                return

    def _socket(self, port: int) -> socket.socket:
        """Bind a socket, in the network namespace where one was named."""
        opened: list[socket.socket] = []

        def open_one() -> None:
            if self._namespace is not None:
                _enter(self._namespace)  # setns(2) is for this thread alone
            family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
            bound = socket.socket(family)
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            bound.bind((self.host, port))
            opened.append(bound)

        thread = threading.Thread(target=open_one)
        thread.start()
        thread.join()
        return opened[0]

    def _call(self, function: Callable[[], T]) -> T:
        async def call() -> T:
            return function()

        return self._await(call())

    def _await(self, what: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(what, self._loop).result(CALL_SECONDS)


REASONS = {
    400: "BadRequest",
    401: "Unauthorized",
    403: "Forbidden",
    404: "NotFound",
    409: "Conflict",
    422: "Invalid",
    429: "TooManyRequests",
    500: "InternalError",
    503: "ServiceUnavailable",
    504: "Timeout",
}


def _enter(namespace: str) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    folder = os.open(f"/run/netns/{namespace}", os.O_RDONLY)
    try:
        if libc.setns(folder, CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), f"cannot enter the network namespace {namespace}")
    finally:
        os.close(folder)
