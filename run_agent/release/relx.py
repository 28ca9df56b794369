"""relx (rebar3) with its extended start script: `eval` takes Erlang and prints the result."""

import re
from collections.abc import Iterable
from pathlib import Path

from run_agent.release.tool import Tool

COMMANDS = {
    "start", "foreground", "console", "console_clean", "console_boot", "daemon", "daemon_boot",
    "daemon_attach", "attach", "remote_console", "remote", "remsh", "rpc", "eval", "ping", "pid",
    "stop", "restart", "reboot", "upgrade", "downgrade", "install", "uninstall", "unpack",
    "versions", "escript", "status", "help",
}  # fmt: skip

_EXTENSIONS = re.compile(r'^EXTENSIONS="([^"]*)"', re.MULTILINE)
"""How the script names what `extended_start_script_extensions` has added, parted by bars."""


def _evaluate(erlang: str) -> tuple[str, ...]:
    return ("eval", erlang)


def _show(erlang: str) -> tuple[str, ...]:
    return ("eval", f"{erlang.rstrip().removesuffix('.')}.")


def _added(tree: Path, name: str, _version: str | None) -> Iterable[str]:
    found = _EXTENSIONS.search((tree / "bin" / name).read_text(errors="replace"))
    return set(found[1].split("|")) - {"undefined"} if found else ()


TOOL = Tool(
    start="foreground",
    evaluate=_evaluate,
    takes_vm_args=True,
    writes_into="releases/{version}",
    writes_elsewhere="RELX_OUT_FILE_PATH",
    console="remote_console",
    show=_show,
    # By erl_call it exits 0 whatever happens, and what the expression prints goes to the release.
    show_env={"USE_NODETOOL": "1"},
    commands=frozenset(COMMANDS),
    added=_added,
)
