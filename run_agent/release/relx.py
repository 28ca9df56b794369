"""relx (rebar3) with its extended start script: `eval` takes Erlang and prints the result."""

from run_agent.release.tool import Tool


def _evaluate(erlang: str) -> tuple[str, ...]:
    return ("eval", erlang)


TOOL = Tool(start="foreground", evaluate=_evaluate, takes_vm_args=True)
