"""What the agent asks of a release tool: how it starts a release and how it reaches the node.

Owns the terms only; one module per tool fills them in. Nothing here is run.
"""

import base64
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Tool:
    """One release tool's start script `bin/NAME`."""

    start: str
    """The command that becomes the VM, in the foreground."""

    evaluate: Callable[[str], tuple[str, ...]]
    """Erlang expressions → arguments that evaluate them on the running node and print the result.

    The result must be a list of plain ASCII characters: tools differ in how they print others,
    and in how much of them. The expressions end with a dot.
    """

    takes_vm_args: bool
    """Whether `VMARGS_PATH` and `REPLACE_OS_VARS` mean something to it."""


def in_elixir(erlang: str) -> str:
    """Return an Elixir expression whose value is that of the Erlang expressions.

    For tools that take Elixir only. Base64 keeps quotes and backslashes out of two languages.
    """
    code = base64.b64encode(erlang.encode()).decode()
    return (
        f'{{:ok, tokens, _}} = :erl_scan.string(:base64.decode_to_string("{code}")); '
        "{:ok, forms} = :erl_parse.parse_exprs(tokens); "
        "{:value, value, _} = :erl_eval.exprs(forms, []); "
        "List.to_string(value)"
    )
