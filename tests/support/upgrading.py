"""A real replica whose release is changed, and what the replica and its node say of that.

replica = upgrading.boot(platform, "mix")
upgrading.deploy(platform, "mix", "0.2.0")
ended = upgrading.change(replica, "upgrade")
assert (ended.code, ended.outcome["serves"]) == (0, "0.2.0"), ended
"""

import json
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from support import upgrade_slugs
from support.platform import Platform, ask, until_kept, volume
from support.replica import Replica

NODE_SECONDS = 60.0
"""How long a node may take to boot beside others on two cores."""

VERB_SECONDS = 180.0
"""How long a verb may take that changes the release, the way back included."""

QUICK = {"UPGRADE_SETTLE_SECONDS": "0"}
"""No test waits to see whether a version stays ready, unless it is about that."""

ELIXIR = ("mix", "distillery2")
"""Kinds whose `distillery_eval` takes Elixir."""

_NODE_WRITES = """
Lines = [io_lib:format("~0tp ~0tp~n", [Key, Value]) || {{Key, Value}} <- {pairs}],
ok = file:write_file("{answer}", unicode:characters_to_binary(Lines)).
"""


@dataclass(frozen=True)
class Ended:
    """How a verb ended: its exit code, its `--json` if it printed one, its messages."""

    code: int
    outcome: dict[str, Any]
    messages: str

    @property
    def verdict(self) -> tuple[int, str | None, str | None]:
        """The exit code, the verdict and the version that serves."""
        return self.code, self.outcome.get("verdict"), self.outcome.get("serves")


def deploy(
    platform: Platform, kind: str, version: str, variant: str = "good", **fields: Any
) -> str:
    """Make that build the current deploy, by its own name; return its digest."""
    slug = upgrade_slugs.slug(kind, version, variant).read_bytes()
    return platform.deploy(slug, version=label(version, variant), **fields)


def label(version: str, variant: str = "good") -> str:
    """Return what the controller calls the deploy of that build."""
    return f"{version}-{variant}"


def boot(
    platform: Platform,
    kind: str,
    version: str = "0.1.0",
    settings: Mapping[str, str] | None = None,
    **fields: Any,
) -> Replica:
    """Boot that version, and wait until it counts as good."""
    digest = deploy(platform, kind, version, **fields)
    replica = platform.boot(settings=QUICK | dict(settings or {})).until_ready(NODE_SECONDS)
    return until_kept(replica, digest)


def boot_again(platform: Platform, before: Replica) -> Replica:
    """Restart the container, which keeps its ports and its volume."""
    names = ("PORT", "HEALTH_PORT", *QUICK)
    settings = {name: before.environ[name] for name in names}
    return platform.boot_again(before, settings=settings).until_ready(NODE_SECONDS)


def change(replica: Replica, *arguments: str) -> Ended:
    """Run a verb that changes the release, with `--json`."""
    done = replica.verb(*arguments, "--json", timeout=VERB_SECONDS)
    return Ended(done.returncode, json.loads(done.stdout or "{}"), done.stderr)


def serves(replica: Replica) -> str:
    """Return the version that answers requests."""
    first = ask(replica, "/")[1].split()[0]
    return first.decode().removeprefix("version=")


def status(replica: Replica) -> dict[str, Any]:
    said: dict[str, Any] = json.loads(replica.verb("status", "--json").stdout)
    return said


def releases(replica: Replica) -> dict[str, Any]:
    said: dict[str, Any] = json.loads(replica.verb("releases", "--json").stdout)
    return said


def on_node(replica: Replica) -> dict[str, str]:
    """Return the versions that the node knows, with their status."""
    return {known["version"]: known["status"] for known in releases(replica)["releases"]}


def evaluate(replica: Replica, kind: str, erlang: str) -> dict[str, str]:
    """Have the node evaluate what gives [{Key, Value}]; both come back as `~0tp` shows them.

    Keys must show without a space. It goes by files: the tools cut what is long.
    """
    program, answer = replica.root / "asked.erl", replica.root / "answer"
    answer.unlink(missing_ok=True)
    program.write_text(_NODE_WRITES.format(pairs=f"({erlang})", answer=answer))
    call = f':file.script(~c"{program}")' if kind in ELIXIR else f'file:script("{program}").'
    done = replica.verb("distillery_eval", call)
    assert (done.returncode, answer.exists()) == (0, True), (done.stdout, done.stderr)
    lines = answer.read_text("utf-8").splitlines()
    return dict(line.split(" ", 1) for line in lines)  # type: ignore[misc]


def tree(replica: Replica, digest: str) -> Path:
    """Return the folder into which that slug is unpacked."""
    return volume(replica.root) / "deploys" / digest


def files(folder: Path) -> dict[str, bytes]:
    """Read all files below a folder; where a link leads counts as its content."""
    return {
        str(path.relative_to(folder)): _content(path)
        for path in folder.rglob("*")
        if path.is_symlink() or path.is_file()
    }


def packed(slug: Path) -> dict[str, bytes]:
    """Read all files of a packed slug, as `files` does."""
    with tarfile.open(slug) as tar:
        return {
            member.name: _packed_content(tar, member)
            for member in tar
            if member.isreg() or member.issym()
        }


def _content(path: Path) -> bytes:
    return str(path.readlink()).encode() if path.is_symlink() else path.read_bytes()


def _packed_content(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    stream = tar.extractfile(member) if member.isreg() else None
    return stream.read() if stream else member.linkname.encode()
