"""OpenSSH's client in front of a whole replica: PID 1, agent, door and daemon."""

import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil

from support.ports import Ports
from support.replica import Replica
from support.ssh import OPTIONS, Key, client_environ, make_key
from support.wait import PATIENCE_SECONDS, until


def settings(folder: Path, ports: Ports, *keys: Key) -> dict[str, str]:
    """Return the settings of a replica into which `keys` may log in, without a controller."""
    listed = folder / "authorized_keys"
    listed.write_text("".join(f"{key.line}\n" for key in keys))
    return {"SSH_PORT": str(ports.free()), "SSH_KEYS_FILE": str(listed), "SSH_KEYS_SECONDS": "1"}


def key_and_settings(folder: Path, ports: Ports) -> tuple[Key, dict[str, str]]:
    """Make a key, and the settings of a replica that it opens."""
    key = make_key(folder)
    return key, settings(folder, ports, key)


def argv(
    replica: Replica, key: Key, *words: str, program: str = "ssh",
    address: str = "127.0.0.1", options: Mapping[str, str] | None = None,
) -> list[str]:  # fmt: skip
    """Return the client's argv: flags before `--`, the command after it."""
    at = words.index("--") if "--" in words else len(words)
    flags, command = words[:at], words[at + 1 :]
    known = OPTIONS | {"UserKnownHostsFile": str(replica.root / "known_hosts")} | (options or {})
    told = [word for name, value in known.items() for word in ("-o", f"{name}={value}")]
    told += ["-p", replica.environ["SSH_PORT"], "-i", str(key.path)]
    return [program, "-F", "none", *told, *flags, f"root@{address}", *command]


def ssh(
    replica: Replica, key: Key, *words: str, **options: Any
) -> subprocess.CompletedProcess[bytes]:
    """Run the client to its end."""
    ours = {"program", "address", "options"} & set(options)
    command = argv(replica, key, *words, **{name: options.pop(name) for name in ours})
    usual = {"capture_output": True, "timeout": PATIENCE_SECONDS, "env": client_environ()}
    if "input" not in options:
        usual["stdin"] = subprocess.DEVNULL
    return subprocess.run(command, check=False, **usual | options)


def until_open(replica: Replica, key: Key) -> Replica:
    """Wait until somebody can log in: the keys have been fetched."""
    until(
        lambda: ssh(replica, key, "--", "true").returncode == 0,
        lambda: f"nobody can log in: {ssh(replica, key, '--', 'true').stderr!r} {replica.log}",
    )
    return replica


def daemon(replica: Replica) -> int | None:
    """Return the pid of the SSH daemon that runs now, if one does."""
    for child in psutil.Process(replica.pid).children():
        try:
            if "entrypoint.sshd" in child.cmdline():
                return child.pid
        except psutil.Error:
            continue
    return None
