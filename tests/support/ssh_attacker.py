"""A program that attacks an SSH port of this machine: bounded in number and time, then it ends.

python ssh_attacker.py never PORT COUNT RATE SECONDS SOURCE…    connects, and never logs in
python ssh_attacker.py keys PORT COUNT RATE SECONDS SOURCE…     tries a new key each time

COUNT connections at RATE a second at most, from each SOURCE (127.0.0.x) in turn; after SECONDS at
the latest it is over. It prints "attacking" before the first connection, and in the end one JSON
object with what became of them. `Attack` runs it.
"""

import asyncio
import contextlib
import json
import os
import resource
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator

BANNER = b"SSH-2.0-never\r\n"

LISTS = (
    "curve25519-sha256", "ssh-ed25519",
    "chacha20-poly1305@openssh.com", "chacha20-poly1305@openssh.com",
    "hmac-sha2-256-etm@openssh.com", "hmac-sha2-256-etm@openssh.com",
    "none", "none", "", "",
)  # fmt: skip
"""What a KEXINIT offers (RFC 4253, 7.1)."""

LEAST_PAUSE_SECONDS = 0.01

TURN = asyncio.Semaphore(25)
"""So many try a key at once: on a slow machine none would get to its end otherwise."""


def _kexinit() -> bytes:
    """Build a KEXINIT in the packet of RFC 4253, 6."""
    lists = b"".join(len(names).to_bytes(4, "big") + names.encode() for names in LISTS)
    payload = b"\x14" + bytes(16) + lists + bytes(5)
    padding = 8 - (len(payload) + 5) % 8 + 8
    size = (len(payload) + padding + 1).to_bytes(4, "big")
    return size + bytes([padding]) + payload + bytes(padding)


WORDS = (b"", BANNER, BANNER + _kexinit())
"""What those say who never log in: nothing, their banner, as much as makes us work."""


@contextlib.contextmanager
def attack(
    what: str, port: int, *, count: int, rate: int, seconds: float, sources: Iterable[str]
) -> Iterator["Attack"]:
    """Attack in the background; when the context ends the attack ends."""
    command = [sys.executable, "-I", __file__, what, port, count, rate, seconds, *sources]
    with subprocess.Popen(
        [str(word) for word in command], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        env={"PATH": os.environ["PATH"]},
    ) as process:  # fmt: skip
        try:
            assert process.stdout.readline() == b"attacking\n"
            yield Attack(process, time.monotonic() + seconds)
        finally:
            process.kill()


class Attack:
    """One that is under way."""

    def __init__(self, process: subprocess.Popen[bytes], ends: float) -> None:
        self._process = process
        self._ends = ends

    @property
    def is_on(self) -> bool:
        return self._process.poll() is None

    def outcome(self, patience: float) -> dict[str, int]:
        """Wait for its end, `patience` seconds beyond its time; tell what became of it."""
        left = max(self._ends - time.monotonic(), 0)
        said, _ = self._process.communicate(timeout=left + patience)
        assert self._process.returncode == 0, said
        outcome: dict[str, int] = json.loads(said)
        return outcome


async def never(port: int, source: str, number: int, until: float, seen: Counter[str]) -> None:
    """Connect, say little, and stay until the server hangs up or the time is over."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, local_addr=(source, 0))
    seen["connected"] += 1
    with contextlib.closing(writer):
        writer.write(WORDS[number % len(WORDS)])
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(until):
                while await reader.read(65536):
                    pass
                seen["hung up on"] += 1
                return
        seen["stayed"] += 1


async def keys(port: int, source: str, _number: int, until: float, seen: Counter[str]) -> None:
    """Try to log in with a key that nobody knows."""
    import asyncssh

    try:
        async with asyncio.timeout_at(until), TURN:
            seen["tried"] += 1
            await asyncssh.connect(
                "127.0.0.1", port, local_addr=(source, 0), username="root", known_hosts=None,
                config=None, client_keys=[asyncssh.generate_private_key("ssh-ed25519")],
                agent_path=None,
            )  # fmt: skip
        seen["in"] += 1
    except asyncssh.PermissionDenied:
        seen["denied"] += 1
    except asyncssh.Error:
        seen["turned away"] += 1


async def main(
    what: str, port: str, count: str, rate: str, seconds: str, *sources: str
) -> Counter[str]:
    """Make them all, each when it is due."""
    made, seen = {"never": never, "keys": keys}[what], Counter[str]()
    if made is keys:
        import asyncssh  # noqa: F401 - takes a while, in which the first ones would pile up
    loop = asyncio.get_running_loop()
    began, until = loop.time(), loop.time() + float(seconds)
    tasks = []
    say("attacking")
    for number in range(int(count)):
        early = began + number / float(rate) - loop.time()
        if early > LEAST_PAUSE_SECONDS:
            await asyncio.sleep(early)
        if loop.time() >= until:
            break
        source = sources[number % len(sources)]
        tasks.append(loop.create_task(made(int(port), source, number, until, seen)))
    for ended in await asyncio.gather(*tasks, return_exceptions=True):
        if isinstance(ended, BaseException):
            seen[type(ended).__name__] += 1
    seen["milliseconds"] = round(1000 * (loop.time() - began))
    return seen


def say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    say(json.dumps(asyncio.run(main(*sys.argv[1:]))))
