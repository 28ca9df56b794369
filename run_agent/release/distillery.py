"""Distillery, no longer maintained and still in production: its two lines and their files.

The same words mean different things: `eval` is Erlang on the running node in 1.x, but Elixir in
a VM of its own in 2.x, where `rpc` is what reaches the node.
"""

from collections.abc import Iterable
from pathlib import Path

from run_agent.release.tool import Tool, in_elixir

FIRST_LINE_MARKS = ("bin/{name}_loader.sh",)
SECOND_LINE_MARKS = ("bin/{name}_rc_exec.sh", "releases/{version}/config.boot")
COMMON_MARKS = ("libexec", "releases/{version}/libexec")

ALONE = {
    "ping", "pid", "stop", "restart", "reboot", "reload_config", "eval", "rpc", "rpcterms",
    "command", "describe", "escript", "install", "unpack", "upgrade", "downgrade", "info",
    "pingpeer",
}  # fmt: skip
"""Each of them writes `vm.args.bak` (1.x) or starts the node `NAME_maint_@…` (2.x)."""

STAYING = {
    "start", "start_boot", "foreground", "console", "console_clean", "console_boot", "attach",
    "remote_console",
}  # fmt: skip


def _evaluate_1(erlang: str) -> tuple[str, ...]:
    return ("eval", erlang)


def _evaluate_2(erlang: str) -> tuple[str, ...]:
    return ("rpc", in_elixir(erlang))


def _show_1(erlang: str) -> tuple[str, ...]:
    return ("eval", erlang)


def _show_2(elixir: str) -> tuple[str, ...]:
    return ("rpc", elixir)


def _added(tree: Path, _name: str, version: str | None) -> Iterable[str]:
    """Name the builder's own commands: each is a script that the start script sources."""
    folder = tree / "releases" / (version or "") / "commands"
    return {path.stem for path in folder.glob("*.sh")}


FIRST_LINE = Tool(
    start="foreground",
    evaluate=_evaluate_1,
    takes_vm_args=True,
    writes_into="var",
    writes_elsewhere="RELEASE_MUTABLE_DIR",
    console="remote_console",
    show=_show_1,
    commands=frozenset(ALONE | STAYING),
    added=_added,
    alone=frozenset(ALONE),
)
SECOND_LINE = Tool(
    start="foreground",
    evaluate=_evaluate_2,
    takes_vm_args=True,
    writes_into="var",
    writes_elsewhere="RELEASE_MUTABLE_DIR",
    console="remote_console",
    show=_show_2,
    commands=frozenset(ALONE | STAYING),
    added=_added,
    alone=frozenset(ALONE),
)
