"""`make run`: build the example, boot it from a slug through a directory controller, tell how.

Builds `hello` (KIND: mix or relx), puts it into a folder that stands in for a controller, and
becomes `run-agent init hello`. Ctrl-C stops it in order.
"""

import json
import os
import secrets
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
WORK = HERE.parent / ".run"
VERSION = "0.1.0"

HOW = """\
hello is starting below {work}

  its page       curl http://127.0.0.1:{port}/
  ready?         curl http://127.0.0.1:{health}/readyz
  what runs      RUN_AGENT_ROOT={root} {run_agent} status
  its shell      RUN_AGENT_ROOT={root} {run_agent} shell -- bin/hello pid
  a login        ssh -p {ssh} -i {key} root@127.0.0.1
  its console    ssh -p {ssh} -i {key} -t root@127.0.0.1 run-agent remote_console
  its cookie     kept in {work}/app-key (the cookie is derived from it)

Ctrl-C stops it in order.
"""


def main() -> None:
    """Prepare everything, then become the replica."""
    kind = sys.argv[1] if len(sys.argv) > 1 else "mix"
    controller, root = WORK / "controller", WORK / "root"
    controller.mkdir(parents=True, exist_ok=True)
    slug = controller / f"hello-{kind}-{VERSION}.tar.gz"
    if not slug.exists() or slug.stat().st_mtime < _newest_source():
        print(f"building the example release ({kind}) …", flush=True)
        build = [sys.executable, str(HERE / "hello/build.py"), kind, VERSION, str(slug)]
        subprocess.run(build, check=True)
    release = {
        "slug_url": slug.name,
        "customer_app_name": "hello",
        "version": VERSION,
        "config": {"GREETING": "hello from a slug"},
    }
    (controller / "release.json").write_text(json.dumps(release, indent=2) + "\n")
    key = _ssh_key(controller)
    _become(controller, root, key)


def _become(controller: Path, root: Path, key: Path) -> None:
    environ = {
        "PORT": "4000",
        "HEALTH_PORT": "9000",
        "SSH_PORT": "2222",
        "MY_POD_IP": "127.0.0.1",
        "DRAIN_SECONDS": "0",
        "LOG_FORMAT": "text",
    }
    environ |= os.environ | {
        "CONTROLLER_URL": controller.as_uri(),
        "RUN_AGENT_ROOT": str(root),
        "APP_KEY": _app_key(),
    }
    run_agent = Path(sys.executable).with_name("run-agent")
    ports = {"port": environ["PORT"], "health": environ["HEALTH_PORT"], "ssh": environ["SSH_PORT"]}
    print(HOW.format(work=WORK, root=root, run_agent=run_agent, key=key, **ports), flush=True)
    # without a terminal for the release, Ctrl-C reaches run-agent and not the Erlang shell
    os.dup2(os.open(os.devnull, os.O_RDONLY), sys.stdin.fileno())
    os.execve(run_agent, [str(run_agent), "init", "hello"], environ)


def _newest_source() -> float:
    return max(path.stat().st_mtime for path in (HERE / "hello").rglob("*") if path.is_file())


def _ssh_key(controller: Path) -> Path:
    """Return a key that may log in: the controller lists its public half."""
    key = WORK / "ssh-key"
    if not key.exists():
        words = ["-q", "-t", "ed25519", "-N", "", "-C", "the example's key", "-f", str(key)]
        subprocess.run(["ssh-keygen", *words], check=True)
    (controller / "ssh_keys").write_text(key.with_suffix(".pub").read_text())
    return key


def _app_key() -> str:
    """Return a key that stays the same from run to run."""
    path = WORK / "app-key"
    if not path.exists():
        path.touch(mode=0o600)
        path.write_text(secrets.token_urlsafe(32))
    return path.read_text()


if __name__ == "__main__":
    main()
