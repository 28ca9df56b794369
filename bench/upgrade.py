"""A hot upgrade next to the release handler's own calls, and the other changes next to bare rpc.

`mix release` hello 0.1.0 and 0.2.0, on the disk, since what we write is synced. Ours is the whole
`run-agent upgrade`, from the command line to its exit: the controller asked, files placed, the app
ready, the version permanent. Fetch and extract are left out, from when the controller was asked to
the step that follows. Theirs is one `bin/hello rpc` of all that must be called by hand (`BY_HAND`),
from the command line to its exit, its files placed before. Goal: at most 1.5 ×.

The longest pause of a client that sends a line every 10 ms, next to a plain restart of the replica
(goal: at most 100 ms). `migrate` and `reconfigure`, next to the same by one `bin/hello rpc` on the
same node (goal: at most 200 ms more).
"""

import itertools
import json
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import NamedTuple, Self

from _figures import RUN_AGENT, median_pair, report

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from run_agent import release
from run_agent.release import releases_file
from support import by_hand, slugs, upgrade_slugs
from support.platform import Platform, until_kept
from support.ports import Ports
from support.replica import Replica

OLD, NEW = "0.1.0", "0.2.0"

NEW_NODES = 5
"""Nodes that have never seen the new version; each must boot first."""

RUNS = 8
"""Changes up and down on one node, and calls of the other verbs."""

PAUSES, RESTARTS = 6, 3

LINE_SECONDS = 0.01
"""How often the client sends a line."""

QUIET_SECONDS = 1.0
"""How long the client is watched while nothing changes: the machine makes pauses, too."""

READY_SECONDS, COMMAND_SECONDS = 120.0, 60.0

STEP = re.compile(r"(?<![\w.])[a-z]{3,}")
"""The word that names a step: its line's first, or `permanent` behind a version."""

BY_HAND = """
version = ~c"VERSION"
folder = Path.join([:code.root_dir(), "releases", version])
path = Path.join(folder, "sys.config")
{microseconds, :ok} = :timer.tc(fn ->
  unless List.keymember?(:release_handler.which_releases(), version, 1) do
    rel = String.to_charlist(Path.join(folder, "hello.rel"))
    {:ok, _} = :release_handler.set_unpacked(rel, [])
  end
  {:ok, _, _} = :release_handler.check_install_release(version)
  original = File.read!(path)
  {:ok, [config]} = :file.consult(path)
  providers = config[:elixir][:config_provider_init].providers
  config = Enum.reduce(providers, config, fn {module, state}, so_far ->
    module.load(so_far, state)
  end)
  File.write!(path, :io_lib.format("~tp.~n", [config]))
  {:ok, _, _} = :release_handler.install_release(version, update_paths: true)
  File.write!(path, original)
  :ok = :release_handler.make_permanent(version)
end)
IO.puts(microseconds)
"""
"""Elixir for the node; prints how many microseconds the calls took."""

MIGRATE = """
[repo | _] = Application.get_env(:hello, :ecto_repos)
folder = Application.app_dir(:hello, "priv/repo/migrations")
Ecto.Migrator.run(repo, folder, :up, all: true)
"""

PUT = 'System.put_env("BY_HAND", "VALUE"); Application.put_env(:hello, :by_hand, "VALUE")'

CALLS = "the release handler's own calls in one bin/hello rpc"


def main() -> None:
    """Measure all of it; the last line is that of the upgrade to a version that is new."""
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="run-agent-bench-"))
        ports = Ports()
        stack.callback(ports.close)
        settings = {name: str(ports.free()) for name in ("ERL_EPMD_PORT", "TCP_PORT")}
        settings["UPGRADE_SETTLE_SECONDS"] = "0"
        with Platform(Path(folder), ports, **settings) as platform:
            _measure_pause(platform)
            _measure_migrate(platform)
            _measure_reconfigure(platform)
            _measure_both_ways(platform, ports)
            _measure_new_version(platform, ports)


# -- the time of an upgrade -----------------------------------------------------------------------


def _measure_new_version(platform: Platform, ports: Ports) -> None:
    """Upgrade nodes that have just booted: the files are fetched, extracted and placed."""
    ours: list[_Change] = []
    theirs: list[_Calls] = []
    for _ in range(NEW_NODES):
        with _booted(platform, OLD) as replica, _by_hand(replica, ports) as node:
            _deploy(platform, NEW)
            ours.append(_change(platform, replica, "upgrade"))
            theirs.append(_move(node, NEW))
    _report_upgrade("upgrade", ours, theirs)


def _measure_both_ways(platform: Platform, ports: Ports) -> None:
    """Go up and down between two versions of which the node has the files, after the first time."""
    ways, versions = _up_and_down(), itertools.cycle((NEW, OLD))
    with _booted(platform, OLD) as replica, _by_hand(replica, ports) as node:
        _deploy(platform, NEW)
        pairs = [
            (_change(platform, replica, *next(ways)), _move(node, next(versions)))
            for _ in range(RUNS + 1)
        ]
    ours, theirs = zip(*pairs[1:], strict=True)
    _report_upgrade("upgrade and downgrade", ours, theirs)


def _report_upgrade(name: str, ours: Sequence["_Change"], theirs: Sequence["_Calls"]) -> None:
    steps = {step: median(change.steps[step] for change in ours) for step in ours[-1].steps}
    report(name, median(change.seconds for change in ours), CALLS,
           median(calls.seconds for calls in theirs), unit="s", goal="ratio <= 1.5",
           calls_alone=round(median(calls.on_node for calls in theirs), 3),
           fetch_and_extract=round(median(change.fetched for change in ours), 3),
           steps={step: round(took, 3) for step, took in steps.items()})  # fmt: skip


def _up_and_down() -> Iterator[tuple[str, ...]]:
    return itertools.cycle((("upgrade",), ("downgrade", OLD)))


@dataclass(frozen=True, slots=True)
class _Change:
    """A verb that changed the version: what its steps took, each until the next one was told.

    Seconds; fetch and extract are a step of their own, which is not in `steps`.
    """

    steps: dict[str, float]
    fetched: float

    @property
    def seconds(self) -> float:
        return sum(self.steps.values())


def _change(platform: Platform, replica: Replica, *arguments: str) -> _Change:
    """Run the verb to its exit. A fetch begins when the controller is asked: no line tells it."""
    told = [("asking", time.monotonic())]
    with subprocess.Popen(
        [*RUN_AGENT, *arguments], env=replica.environ, text=True,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        assert process.stderr is not None
        told += [(STEP.findall(line)[0], time.monotonic()) for line in process.stderr]
        verdict = process.stdout.read()
    told.append(("end", time.monotonic()))
    if process.returncode != 0 or not verdict.startswith("done"):
        sys.exit(f"cannot measure {' '.join(arguments)}: {verdict}{told}\n{replica.log}")
    asked = platform.controller.requests[-1].at
    begun = [(step, asked if step == "fetching" else at) for step, at in told]
    steps: dict[str, float] = {}
    for (step, began), (_, ended) in itertools.pairwise(begun):
        steps[step] = steps.get(step, 0) + ended - began
    return _Change(steps, steps.pop("fetching", 0.0))


@contextmanager
def _by_hand(replica: Replica, ports: Ports) -> Iterator[by_hand.Started]:
    """Start the old version as the replica does, with the new one's files beside it.

    It registers with the replica's epmd, which must outlive it.
    """
    with tempfile.TemporaryDirectory(prefix="run-agent-bench-") as name:
        folder = Path(name)
        tree = slugs.unpack(upgrade_slugs.slug("mix", OLD), folder / "app")
        new = slugs.unpack(upgrade_slugs.slug("mix", NEW), folder / "new")
        releases_file.create_missing(release.identify(tree, "hello"))
        for path in (*new.glob("lib/*"), new / "releases" / NEW):
            if not (place := tree / path.relative_to(new)).exists():
                shutil.copytree(path, place)
        env = by_hand.environment((ports.free(), ports.free()), folder)
        env["ERL_EPMD_PORT"] = replica.environ["ERL_EPMD_PORT"]
        with by_hand.started("mix", tree, env) as node:
            yield node


class _Calls(NamedTuple):
    """What an upgrade by hand took, from the command line to its exit and on the node alone."""

    seconds: float
    on_node: float


def _move(node: by_hand.Started, version: str) -> _Calls:
    """Make all the calls for a version."""
    began = time.monotonic()
    done = node.command("rpc", BY_HAND.replace("VERSION", version))
    seconds = time.monotonic() - began
    if done.returncode != 0:
        sys.exit(f"cannot move the node by hand to {version}: {done.stdout}{done.stderr}")
    return _Calls(seconds, int(done.stdout) / 1e6)


# -- the pause ------------------------------------------------------------------------------------


def _measure_pause(platform: Platform) -> None:
    """Watch the answers to a client while the version changes, and while the replica restarts."""
    with _booted(platform, OLD) as replica:
        _deploy(platform, NEW)
        port, ways, running = int(replica.environ["TCP_PORT"]), _up_and_down(), [replica]

        def change() -> None:
            _change(platform, replica, *next(ways))

        def restart() -> None:
            running.append(platform.boot_again(running[-1]).until_ready(READY_SECONDS))

        changed = [_watched(port, change) for _ in range(PAUSES)]
        quiet = [_watched(port, lambda: time.sleep(QUIET_SECONDS)) for _ in range(PAUSES)]
        restarted = [_watched(port, restart) for _ in range(RESTARTS)]
        running[-1].term().wait()
    report("upgrade pause", max(client.longest_ms for client in changed),
           "a plain restart of the replica, without a drain",
           median(client.longest_ms for client in restarted), unit="ms", goal="<= 100 ms",
           each=[client.longest_ms for client in changed],
           without_a_change=[client.longest_ms for client in quiet],
           connections_lost=sum(client.lost for client in changed))  # fmt: skip


def _watched(port: int, change: Callable[[], object]) -> "_Client":
    with _Client(port) as client:
        change()
    return client


class _Client:
    """Sends a line every 10 ms, on a new connection where one is `lost`, from its first answer on.

    `longest_ms` is the longest time from one answer to the next.
    """

    def __init__(self, port: int) -> None:
        self.longest_ms = 0
        self.lost = -1  # the last one is closed by us
        self._address = ("127.0.0.1", port)
        self._last: float | None = None
        self._answered, self._ended = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        self._wait_for_answer()
        return self

    def __exit__(self, *_: object) -> None:
        """End with an answer: the pause that may last until then counts."""
        self._wait_for_answer()
        self._ended.set()
        self._thread.join()

    def _wait_for_answer(self) -> None:
        self._answered.clear()
        if not self._answered.wait(READY_SECONDS):
            sys.exit(f"cannot measure a pause: nobody answers on {self._address}")

    def _run(self) -> None:
        while not self._ended.wait(LINE_SECONDS):
            with suppress(OSError), socket.create_connection(self._address) as connection:
                connection.settimeout(READY_SECONDS)
                with suppress(OSError):
                    self._talk(connection)
                self.lost += 1

    def _talk(self, connection: socket.socket) -> None:
        answers = connection.makefile("rb")
        while not self._ended.wait(LINE_SECONDS):
            connection.sendall(b"line\n")
            if not answers.readline():
                return
            now = time.monotonic()
            if self._last is not None:
                self.longest_ms = max(self.longest_ms, round(1000 * (now - self._last)))
            self._last = now
            self._answered.set()


# -- the other changes ----------------------------------------------------------------------------


def _measure_migrate(platform: Platform) -> None:
    """Run two migrations, which are due each time and do nothing."""
    with _booted(platform, OLD, "migrating") as replica:
        ours, theirs = median_pair(
            lambda: _seconds(lambda: _verb(replica, "migrate")),
            lambda: _seconds(lambda: _rpc(replica, MIGRATE)),
            runs=RUNS,
        )
    _report_more("migrate", ours, "the same expression by bin/hello rpc", theirs)


def _measure_reconfigure(platform: Platform) -> None:
    """Change one value that runtime.exs reads."""
    values = itertools.count()
    with _booted(platform, OLD) as replica:

        def reconfigure() -> float:
            _deploy(platform, OLD, greeting=f"the {next(values)}th")
            return _seconds(lambda: _verb(replica, "reconfigure"))

        def put() -> float:
            return _seconds(lambda: _rpc(replica, PUT.replace("VALUE", f"the {next(values)}th")))

        ours, theirs = median_pair(reconfigure, put, runs=RUNS)
    _report_more("reconfigure", ours, "System and Application.put_env by bin/hello rpc", theirs)


def _report_more(name: str, ours: float, against: str, theirs: float) -> None:
    report(name, ours, against, theirs, unit="s", goal="<= 0.200 s more",
           more=round(ours - theirs, 3))  # fmt: skip


def _verb(replica: Replica, name: str) -> None:
    done = replica.verb(name, timeout=COMMAND_SECONDS)
    if done.returncode != 0 or "nothing to do" in done.stdout:
        sys.exit(f"cannot measure {name}: {done.stdout}{done.stderr}{replica.log}")


def _rpc(replica: Replica, expression: str) -> None:
    """Evaluate on the replica's node by the release's own script, as a session would."""
    kept = json.loads((replica.root / "run/run-agent/environment.json").read_bytes())
    done = by_hand.run_command(Path(kept["cwd"]), kept["env"], "rpc", expression)
    if done.returncode != 0:
        sys.exit(f"cannot evaluate {expression}: {done.stdout}{done.stderr}")


# -- what all of them need ------------------------------------------------------------------------


@contextmanager
def _booted(platform: Platform, version: str, variant: str = "good") -> Iterator[Replica]:
    """Boot a replica with that version; it is stopped at the end, if it still runs."""
    digest = _deploy(platform, version, variant)
    replica = until_kept(platform.boot().until_ready(READY_SECONDS), digest)
    yield replica
    if replica.process.poll() is None:
        replica.term().wait()


def _deploy(
    platform: Platform, version: str, variant: str = "good", greeting: str = "hello"
) -> str:
    slug = upgrade_slugs.slug("mix", version, variant).read_bytes()
    config = {"GREETING": greeting}
    return platform.deploy(slug, version=f"{variant}-{version}", config=config)


def _seconds(action: Callable[[], object]) -> float:
    began = time.monotonic()
    action()
    return time.monotonic() - began


if __name__ == "__main__":
    main()
