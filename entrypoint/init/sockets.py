"""The listening sockets: opened once, and inherited by every agent and every SSH daemon.

So nothing is refused while one of them is started again.
"""

import os
import socket

ANY = ((socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::"))  # noqa: S104 - what SSH is for


class CannotStartError(Exception):
    """PID 1 cannot open what it needs; the code is that of sysexits(3)."""

    def __init__(self, message: str, exit_code: int = os.EX_OSERR) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def listen_unix(run: str, name: str, kind: int) -> socket.socket:
    """Open a Unix socket in the run folder, mode 0600.

    Through /proc, as its path may exceed the 108 bytes of unix(7). Raises `CannotStartError`.
    """
    folder = os.open(run, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    path = f"/proc/self/fd/{folder}/{name}"
    listener = socket.socket(socket.AF_UNIX, kind)
    before = os.umask(0o177)
    try:
        if os.path.lexists(path):
            os.unlink(path)
        listener.bind(path)
        listener.listen(socket.SOMAXCONN)  # who connects waits there while nobody serves it
    except OSError as error:
        raise CannotStartError(f"cannot open {run}/{name} ({error.strerror})") from error
    finally:
        os.umask(before)
        os.close(folder)
    return listener


def listen_ssh(port: int) -> list[socket.socket]:
    """Listen on all addresses: one socket each for IPv4 and IPv6.

    On a dual-stack socket a key's `from=` would not know an IPv4 address. A machine without IPv6
    does without. Raises `CannotStartError` (78).
    """
    listeners: list[socket.socket] = []
    for family, address in ANY:
        try:
            listener = socket.socket(family, socket.SOCK_STREAM)
        except OSError:
            continue  # the kernel does not have this family
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            listener.bind((address, port))
            listener.listen(socket.SOMAXCONN)
            listener.setblocking(False)
        except OSError as error:
            listener.close()
            if family == socket.AF_INET6 and listeners:
                continue  # switched off by sysctl
            raise CannotStartError(
                f"cannot listen on port {port} for SSH ({error.strerror}): free it, or set "
                "SSH_PORT to another port or none",
                os.EX_CONFIG,
            ) from error
        listeners.append(listener)
    return listeners
