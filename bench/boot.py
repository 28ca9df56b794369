"""From the process's start to the release's exec, next to `curl -s URL | tar xz` of the same slug.

Two slugs of 2,000 files each, from a local HTTP server to tmpfs. Goals: 40 MB at most 1.2 ×,
150 MB at most 0.9 ×. The usual hand-written way (download, then tarfile) is shown beside them.
"""

import gzip
import io
import os
import random
import shutil
import socketserver
import subprocess
import sys
import tarfile
import threading
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from _figures import in_memory_folder, median_pair, replica, report, wait_until

FILES = 2000
RUNS = 7
GOALS = {40: 1.2, 150: 0.9}
"""Megabytes of the slug, and the most that our time may be of the other's."""

BY_HAND = """
import sys, tarfile, requests
open("slug", "wb").write(requests.get(sys.argv[1]).content)
tarfile.open("slug").extractall(".", filter="tar")
"""


def main() -> None:
    """Measure each size; the last line is that of the larger slug."""
    for megabytes, goal in GOALS.items():
        with in_memory_folder() as folder:
            work = Path(folder)
            slug = work / "slug.tar.gz"
            _make_slug(slug, megabytes)
            with _served(slug) as url:
                _measure(work, url, slug.stat().st_size, megabytes, goal)


def _measure(work: Path, url: str, size: int, megabytes: int, goal: float) -> None:
    curl_and_tar = ["sh", "-c", f"curl -s {url} | tar xz"]
    ours, theirs = median_pair(
        lambda: _boot(work, url), lambda: _unpack_with(work, curl_and_tar), runs=RUNS
    )
    by_hand = _unpack_with(work, [sys.executable, "-c", BY_HAND, url])
    print(f"slug of {size / 1e6:.0f} MB, {FILES} files: run-agent {ours:.3f} s, "
          f"curl | tar {theirs:.3f} s, download then tarfile {by_hand:.3f} s")  # fmt: skip
    report(f"boot {megabytes} MB", ours, "curl -s URL | tar xz", theirs, unit="s",
           goal=f"ratio <= {goal}")  # fmt: skip


def _boot(work: Path, url: str) -> float:
    root = work / "root"
    mark = work / "mark"
    began = time.time()
    with replica(root, ["bootstrap", "bench", url], MARK=mark, READY_CHECK="none"):
        wait_until(lambda: mark.exists() and mark.stat().st_size, "the release", root / "log")
    took = int(mark.read_text()) / 1e9 - began
    mark.unlink()
    shutil.rmtree(root)
    return took


def _unpack_with(work: Path, argv: list[str]) -> float:
    into = work / "into"
    into.mkdir()
    began = time.time()
    subprocess.run(argv, cwd=into, check=True)
    took = time.time() - began
    shutil.rmtree(into)
    return took


def _make_slug(path: Path, megabytes: int) -> None:
    """Write a slug that packs about as well as compiled code does, to less than half."""
    chance = random.Random(megabytes)
    words = [chance.randbytes(8) for _ in range(1500)]
    sample = zlib.compress(b"".join(chance.choices(words, k=200_000)), 6)
    count = megabytes * 1_000_000 // FILES * 200_000 // len(sample)
    with (
        gzip.open(path, "wb", compresslevel=6) as packed,
        tarfile.open(fileobj=packed, mode="w|") as tar,
    ):
        start = b"web: date +%s%N > $MARK; exec sleep 600\n"
        _add(tar, "Procfile", start)
        for number in range(FILES):
            content = b"".join(chance.choices(words, k=count))
            _add(tar, f"lib/app-{number % 50}/ebin/module_{number}.beam", content)


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))


class _Sender(socketserver.StreamRequestHandler):
    """Answers every request with the slug, by sendfile: the server must not be what is measured."""

    slug: Path

    def handle(self) -> None:
        while self.rfile.readline().strip():
            pass
        size = self.slug.stat().st_size
        self.wfile.write(
            f"HTTP/1.1 200 OK\r\nContent-Length: {size}\r\nConnection: close\r\n\r\n".encode()
        )
        with self.slug.open("rb") as file:
            sent = 0
            while sent < size:
                sent += os.sendfile(self.connection.fileno(), file.fileno(), sent, size - sent)


@contextmanager
def _served(slug: Path) -> Iterator[str]:
    handler = type("Sender", (_Sender,), {"slug": slug})
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}/slug.tar.gz"
        server.shutdown()


if __name__ == "__main__":
    main()
