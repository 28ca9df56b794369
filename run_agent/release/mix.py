"""`mix release` (Elixir 1.9 and later): its files and its start script.

The script reads RELEASE_NODE, RELEASE_COOKIE and RELEASE_DISTRIBUTION, and knows no VMARGS_PATH.
RELEASE_VM_ARGS is for the node itself, and for `eval`, whose VM is no node; what `rpc` and `remote`
start reads another file, or before Elixir 1.13 none.
"""

from run_agent.release.tool import Tool, in_elixir, inspected

MARKS = ("releases/{version}/env.sh", "releases/{version}/elixir")
"""Files that every such release has, and no other."""

COMMANDS = {
    "start", "start_iex", "daemon", "daemon_iex", "eval", "rpc", "remote", "restart", "stop",
    "pid", "version",
}  # fmt: skip


def _evaluate(erlang: str) -> tuple[str, ...]:
    return ("rpc", f"({in_elixir(erlang)}) |> IO.puts()")  # it prints nothing of its own accord


def _show(elixir: str) -> tuple[str, ...]:
    return ("rpc", inspected(elixir))


TOOL = Tool(
    start="start",
    evaluate=_evaluate,
    takes_vm_args=False,
    writes_into="tmp",
    writes_elsewhere="RELEASE_TMP",
    console="remote",
    show=_show,
    extends_vm_args="RELEASE_VM_ARGS",
    commands=frozenset(COMMANDS),
)
