"""Slugs without Erlang: a Procfile and what it starts, packed in memory.

small_slugs.serving()              answers HTTP on PORT, within milliseconds of its start
small_slugs.running("sleep 300")   a line for bash, for an app that need not listen
"""

import random
import sys

from support import tarballs
from support.tarballs import Member

PYTHON = f"{sys.executable} -I -S -X utf8"
"""Quick to start, and nothing in a test's environment changes it."""

SERVER = b'''\
"""GET / tells the pid, GET /env/NAME the bytes of a variable; POST /CODE sets the status of both.
TERM ends it at once."""
import os, signal, socket

status = os.environb.get(b"STATUS", b"200")
signal.signal(signal.SIGTERM, lambda *_: (print("asked to stop", flush=True), os._exit(0)))
bind = os.environ.get("BIND", "127.0.0.1")
server = socket.create_server((bind, int(os.environ["PORT"])), backlog=128)
print("serving", flush=True)
while True:
    connection, _ = server.accept()
    with connection:
        connection.settimeout(5)
        try:
            method, path, *_ = connection.recv(1 << 16).split()
        except (OSError, ValueError):
            continue  # somebody asked whether we accept
        if method == b"POST":
            status = path[1:]
        kind, _, name = path[1:].partition(b"/")
        body = os.environb.get(name, b"") if kind == b"env" else b"%d" % os.getpid()
        head = b"HTTP/1.1 %b x\\r\\nContent-Length: %d\\r\\nConnection: close\\r\\n\\r\\n"
        connection.sendall(head % (status, len(body)) + body)
'''


def serving(*more: Member) -> bytes:
    """Return a slug that serves on PORT. Each call's has another digest."""
    return running(f"exec {PYTHON} server.py", tarballs.file("server.py", SERVER), *more)


def running(line: str, *more: Member) -> bytes:
    """Return a slug whose `web:` line is `line`. Each call's has another digest."""
    return packed(tarballs.file("Procfile", f"web: {line}\n".encode()), *more)


def packed(*members: Member) -> bytes:
    """Return a slug of these members, and of one that makes it differ from all others."""
    return tarballs.slug([*members, tarballs.file("ID", random.randbytes(16))])


def ballast(size: int) -> list[Member]:
    """Return members that make a slug `size` bytes larger, packed, so that it takes its time."""
    return [
        tarballs.file(f"ballast/{number}", random.randbytes(min(1 << 16, size - start)))
        for number, start in enumerate(range(0, size, 1 << 16))
    ]
