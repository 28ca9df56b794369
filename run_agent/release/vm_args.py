"""Our vm.args, for the release tools that take one from `VMARGS_PATH`. Owns that file's text.

Rendered whole: Distillery 1.5 replaces no variables in it. Where a tool takes none of ours, the
release's own is copied, with the port in addition.
"""

import hashlib
import os
import re
from pathlib import Path

from run_agent import files
from run_agent.errors import RunAgentError
from run_agent.model import Layout
from run_agent.release.identity import Identity

PLAIN = re.compile(r"(?!-)(?!.*\$\{)[^\s\"'\\#]+")
"""A word that the emulator and the tools' own scripts, which know no quoting, read alike."""

_OTHER_PORT = re.compile(rb"inet_dist_listen_(min|max)[ \t]+\S+")

DIGITS = 12
"""Of a digest, in a file's name: enough to tell the versions of one release apart."""


def text(identity: Identity, *, dist_port: int | None = None) -> str:
    """Return the file's text. Raises `RunAgentError` (78) for a cookie that it cannot hold."""
    cookie = identity.cookie.reveal()
    if not PLAIN.fullmatch(cookie):
        raise RunAgentError(
            "cannot write the cookie into vm.args, which knows no quoting: set an ERLANG_COOKIE "
            "without quotes, backslashes, # and ${, that does not begin with a dash, or turn "
            "our file off with GIGALIXIR_DEFAULT_VMARGS=false",
            exit_code=os.EX_CONFIG,
        )
    lines = [f"-name {identity.node}", f"-setcookie {cookie}", "-smp auto"]
    if dist_port is not None:
        lines += _fixed(dist_port)
    return "".join(f"{line}\n" for line in lines)


def write(layout: Layout, identity: Identity, *, dist_port: int | None = None) -> None:
    """Write the file into the run folder, mode 0600: it names the cookie."""
    files.atomic_write(layout.vm_args, text(identity, dist_port=dist_port).encode(), mode=0o600)
    # relx keeps what it replaces variables in as .orig, and prefers that to a newer file.
    layout.vm_args.with_name(layout.vm_args.name + ".orig").unlink(missing_ok=True)


def write_extended(layout: Layout, own: Path, *, dist_port: int) -> Path:
    """Write a copy of the release's `own` file that fixes the port as well, and return its path.

    It is called by what it holds: the version that runs goes on with its own while another one is
    being installed. A port in the copy would make it chance which one counts. Raises `OSError`.
    """
    fixed = "".join(f"{line}\n" for line in _fixed(dist_port))
    content = fixed.encode() + _OTHER_PORT.sub(b"", own.read_bytes())
    name = f"{layout.vm_args.name}-{hashlib.sha256(content).hexdigest()[:DIGITS]}"
    path = layout.vm_args.with_name(name)
    files.atomic_write(path, content, mode=0o600)  # people write cookies into theirs
    return path


def _fixed(dist_port: int) -> list[str]:
    return [f"-kernel inet_dist_listen_{end} {dist_port}" for end in ("min", "max")]
