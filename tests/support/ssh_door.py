"""The door alone, with a stand-in for the daemon behind it.

The stand-in is a real listener that speaks the wire. The door has an event loop of its own, whose
clock stands still until the tests put it forward.
"""

import asyncio
import contextlib
import os
import socket
import threading
from collections.abc import Callable, Iterator

from run_agent import settings
from run_agent.model import Layout
from run_agent.ssh import wire
from run_agent.ssh.door import Door, connect_to
from support.wait import PATIENCE_SECONDS, until

PERSON, ATTACKER, PROBER = "127.0.0.1", "127.0.0.2", "127.0.0.3"

BANNER = b"SSH-2.0-test\r\n"

Enter = Callable[..., "Entrance"]


class Loop(asyncio.SelectorEventLoop):
    """A loop whose time passes only when it is put forward: however slow the machine is."""

    def __init__(self):
        super().__init__()
        self._now = super().time()

    def time(self):
        return self._now

    def put_forward(self, seconds):
        self._now += seconds


async def turns():
    """Let the loop do what is due: timers one turn after their time has come."""
    for _ in range(3):
        await asyncio.sleep(0)


class Entrance:
    """A door with its listener and the daemon's socket, held by a thread."""

    def __init__(self, root, *, daemon_runs=False, **environ):
        self.layout = Layout(root)
        self.options = settings.load(
            {"CONTROLLER_URL": "none", "RUN_AGENT_ROOT": str(root), **environ}
        )
        self.layout.run.mkdir(parents=True)
        self.listener = socket.create_server(("", 0), backlog=4096)
        self.port = self.listener.getsockname()[1]
        self.sshd = self._listen()
        self.loop = Loop()
        self.door = Door(
            [self.listener],
            self.options,
            connect=lambda: connect_to(self.layout),
            clock=self.loop.time,
        )
        self._task = self.loop.create_task(self.door.serve(daemon_runs=daemon_runs))
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        self._open = contextlib.ExitStack()

    def _listen(self):
        sshd = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        folder = os.open(self.layout.run, os.O_PATH)
        sshd.bind(f"/proc/self/fd/{folder}/{self.layout.sshd_socket.name}")
        os.close(folder)
        sshd.listen(16)
        return sshd

    def _run(self):
        with contextlib.suppress(asyncio.CancelledError):
            self.loop.run_until_complete(self._task)

    def close(self):
        self._open.close()
        self.loop.call_soon_threadsafe(self._task.cancel)
        self._thread.join(PATIENCE_SECONDS)
        self.loop.close()
        self.listener.close()
        self.sshd.close()

    def connect(self, source=PERSON, says=b""):
        client = socket.create_connection((PERSON, self.port), PATIENCE_SECONDS, (source, 0))
        self._open.enter_context(client)
        if says:
            client.sendall(says)
        return client

    def daemon(self):
        self.sshd.settimeout(PATIENCE_SECONDS)
        daemon = Daemon(self.sshd.accept()[0])
        self._open.callback(daemon.close)
        return daemon

    def daemon_is_wanted(self):
        self.sshd.setblocking(False)
        try:
            link, _ = self.sshd.accept()
        except BlockingIOError:
            return False
        link.close()
        return True

    def put_forward(self, seconds):
        self.loop.call_soon_threadsafe(self.loop.put_forward, seconds)
        self._in_its_loop(turns())

    def _in_its_loop(self, what):
        return asyncio.run_coroutine_threadsafe(what, self.loop).result(PATIENCE_SECONDS)

    async def _count(self):
        return self.door.counts()

    def counts(self, *names):
        counts = self._in_its_loop(self._count())  # between two events, never in one
        return [counts[name] for name in names] if names else counts

    def until(self, **counts):
        until(
            lambda: self.counts(*counts) == list(counts.values()),
            lambda: f"{counts}, it is {self.counts()}",
        )


class Daemon:
    """The other end of the wire."""

    def __init__(self, link):
        link.settimeout(PATIENCE_SECONDS)
        self.link, self.clients = link, {}

    def receive(self):
        received = wire.receive(self.link)
        if received is None:
            return None
        message, descriptor = received
        if descriptor is not None:
            self.clients[message["connection"]] = socket.socket(fileno=descriptor)
        return message

    def receive_passed(self):
        message, descriptor = wire.receive(self.link)
        return message, wire.read_passed(descriptor)

    def connection(self):
        return self.receive()["connection"]

    def say(self, **message):
        wire.send(self.link, message)

    def hello(self, unauthenticated=(), logged_in=()):
        has = {"unauthenticated": list(unauthenticated), "logged_in": list(logged_in)}
        self.say(hello=has)

    def hang_up_on(self, number, **said):
        self.clients.pop(number).close()
        self.say(closed=number, reason="test", **said)

    def log_in(self, number):
        self.say(authenticated=number)

    def fail(self, number):
        self.say(failed=number)
        self.hang_up_on(number, login=False)

    def close(self):
        for client in self.clients.values():
            client.close()
        self.link.close()


def entrances(folder) -> Iterator[Enter]:
    """Give a function that builds a door, with settings by name; all of them end in the end."""
    with contextlib.ExitStack() as stack:

        def enter(root=folder, **options):
            entrance = Entrance(root, **options)
            stack.callback(entrance.close)
            return entrance

        yield enter


def goes(client):
    """Read to the end and return it; a reset is one as well."""
    said = b""
    with contextlib.suppress(ConnectionResetError):
        while piece := client.recv(4096):
            said += piece
    return said
