"""From `podman run` to ready, next to the same release started by hand in a base.

Ready is what a load balancer would act on: `/readyz`; by hand, the first answer of the app itself.

Goal: at most 1.0 s more, beyond the slug's fetch, which a volume that has the slug spares. Shown
beside it: the first start, with that fetch; the megabytes that the image adds to its base, and
what most of them are; the memory (PSS) of the agent's processes in the container.
"""

import contextlib
import json
import shutil
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path

import psutil
from _figures import free_port, median_pair, report, wait_until

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from support import images
from support.containers import Container
from support.slugs import slug, unpack

RUNS = 7
GOAL_SECONDS = 1.0
SETTLE_SECONDS = 5
SHARES = ("kubernetes", "cryptography", "google", "pydantic*", "asyncssh")

SIZES = """
import glob, json, os, sys, sysconfig
os.chdir(sysconfig.get_path("purelib"))
sizes = {}
for pattern in sys.argv[1:]:
    files = (f for top in glob.glob(pattern) for f in glob.glob(f"{top}/**", recursive=True))
    sizes[pattern] = sum(os.path.getsize(file) for file in files if os.path.isfile(file))
print(json.dumps(sizes))
"""


def main() -> None:
    """Measure what is added, then the start, then the memory."""
    added = _megabytes_added()
    with tempfile.TemporaryDirectory(prefix="run-agent-bench-") as folder:
        work = Path(folder)
        controller, app, volume = _controller(work), work / "app", work / "volume"
        unpack(slug("mix"), app)
        volume.mkdir()
        with_fetch = _seconds_to_ready(_ours(controller, volume))
        ours, theirs = median_pair(
            lambda: _seconds_to_ready(_ours(controller, volume)),
            lambda: _seconds_to_ready(_by_hand(app)),
            runs=RUNS,
        )
        pss = _pss(_ours(controller, volume))
    print(f"start: {ours:.2f} s with run-agent (with the fetch {with_fetch:.2f} s), "
          f"{theirs:.2f} s by hand: {ours - theirs:+.2f} s "
          f"(goal <= +{GOAL_SECONDS} s)")  # fmt: skip
    report("image", ours, "the release by hand in the same base", theirs, unit="s",
           goal=f"at most {GOAL_SECONDS} s more", seconds_more=round(ours - theirs, 3),
           megabytes_added=round(added, 1), pss_mib=round(pss, 1))  # fmt: skip


def _megabytes_added() -> float:
    """Return what the image has more than its base, and print what most of that is."""
    image, base = (images.inspect(tag)["Size"] for tag in (images.image(), images.base()))
    added = float(image - base) / 1e6
    print(f"the image adds {added:.0f} MB to its base (which has the Python), of which:")
    entrypoint = ("--entrypoint=/opt/run-agent/bin/python",)
    with Container("-I", "-c", SIZES, *SHARES, options=entrypoint) as container:
        container.wait()
        sizes: dict[str, int] = json.loads(container.stdout.read_text())
    for name, size in sizes.items():
        print(f"  {name.rstrip('*'):12} {size / 1e6:5.1f} MB")
    print("  the default build adds the standalone Python to that: not measured here")
    return added


def _controller(work: Path) -> Path:
    """Make a folder that is the controller."""
    folder = work / "controller"
    folder.mkdir()
    shutil.copy(slug("mix"), folder / "slug.tar.gz")
    (folder / "ssh_keys").touch()
    release = {"slug_url": "slug.tar.gz", "customer_app_name": "hello", "version": "1"}
    (folder / "release.json").write_text(json.dumps(release))
    return folder


def _ours(controller: Path, volume: Path) -> Container:
    ports = _ports("PORT", "TCP_PORT", "HEALTH_PORT", "SSH_PORT", "ERL_EPMD_PORT")
    return Container(
        "init", "hello", network="host",
        volumes={controller: "/controller:ro", volume: "/var/lib/run-agent"},
        settings=ports | {"CONTROLLER_URL": "file:///controller", "MY_POD_IP": "127.0.0.1",
                          "SECRET_KEY_BASE": "0123456789", "DRAIN_SECONDS": "0"},
    )  # fmt: skip


def _by_hand(app: Path) -> Container:
    """Run the same release as a Dockerfile without run-agent would."""
    settings = _ports("PORT", "TCP_PORT", "ERL_EPMD_PORT") | {
        "RELEASE_DISTRIBUTION": "name", "RELEASE_NODE": "hello@127.0.0.1",
        "RELEASE_COOKIE": "s3cret", "SECRET_KEY_BASE": "0123456789", "LC_ALL": "C.UTF-8",
    }  # fmt: skip
    return Container(
        "/app/bin/hello", "start", network="host", volumes={app: "/app"}, settings=settings,
        image=images.base(), options=("--init",),
    )  # fmt: skip


def _ports(*names: str) -> dict[str, str]:
    return {name: str(free_port()) for name in names}


def _seconds_to_ready(container: Container) -> float:
    """Return how long it took from `podman run` on."""
    began = time.monotonic()
    with _serving(container):
        return time.monotonic() - began


@contextlib.contextmanager
def _serving(container: Container) -> Iterator[None]:
    with container:
        wait_until(lambda: _is_ready(container.settings), "the app's answer", container.log)
        yield


def _is_ready(settings: Mapping[str, str]) -> bool:
    probes = settings.get("HEALTH_PORT", "none")
    where = f"{settings['PORT']}/" if probes == "none" else f"{probes}/readyz"
    with contextlib.suppress(OSError):  # an answer other than 2xx is one as well (urllib)
        urllib.request.urlopen(f"http://127.0.0.1:{where}", timeout=5).close()
        return True
    return False


def _pss(container: Container) -> float:
    """Return the PSS of PID 1 and the agent, in MiB, once the start is over."""
    with _serving(container):
        time.sleep(SETTLE_SECONDS)
        init = psutil.Process(container.pid)
        sizes = {}
        for process in (init, *init.children(recursive=True)):
            if any(word.startswith("entrypoint.") for word in process.cmdline()):
                name = process.cmdline()[3].rpartition(".")[2]
                sizes[name] = process.memory_full_info().pss / (1 << 20)
    for name, size in sizes.items():
        print(f"  {name:8} {size:5.1f} MiB PSS")
    return float(sum(sizes.values()))


if __name__ == "__main__":
    main()
