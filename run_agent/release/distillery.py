"""Distillery, no longer maintained and still in production: its two lines and their files.

The same words mean different things: `eval` is Erlang on the running node in 1.x, but Elixir in
a VM of its own in 2.x, where `rpc` is what reaches the node.
"""

from run_agent.release.tool import Tool, in_elixir

FIRST_LINE_MARKS = ("bin/{name}_loader.sh",)
SECOND_LINE_MARKS = ("bin/{name}_rc_exec.sh", "releases/{version}/config.boot")
COMMON_MARKS = ("libexec", "releases/{version}/libexec")


def _evaluate_1(erlang: str) -> tuple[str, ...]:
    return ("eval", erlang)


def _evaluate_2(erlang: str) -> tuple[str, ...]:
    return ("rpc", in_elixir(erlang))


FIRST_LINE = Tool(start="foreground", evaluate=_evaluate_1, takes_vm_args=True)
SECOND_LINE = Tool(start="foreground", evaluate=_evaluate_2, takes_vm_args=True)
