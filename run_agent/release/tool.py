"""What we ask of a release tool: how it starts a release and how it reaches the node.

Owns the terms only; one module per tool fills them in. Nothing here is run.
"""

import base64
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path


def _nothing_added(_tree: Path, _name: str, _version: str | None) -> Iterable[str]:
    return ()


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

    writes_into: str
    """The folder in the release's tree that the script writes into, `{version}` being its own."""

    writes_elsewhere: str
    """The variable that names another folder for that; the script wants it to be there."""

    console: str
    """The command that opens a console on the running node."""

    show: Callable[[str], tuple[str, ...]]
    """A person's expression, in the language that the tool takes → arguments that evaluate it on
    the running node and print the result. The exit code tells whether it could be evaluated."""

    show_env: Mapping[str, str] = field(default_factory=dict)
    """Variables that `show` needs besides the release's environment."""

    commands: frozenset[str] = frozenset()
    """The commands of every such script."""

    extends_vm_args: str | None = None
    """The variable that names a vm.args to be used instead of the release's own, for tools that
    take none of ours: with it, and DIST_PORT in addition."""

    added: Callable[[Path, str, str | None], Iterable[str]] = _nothing_added
    """The release's tree, name and version → commands that its builder has added."""

    alone: frozenset[str] = frozenset()
    """Commands that end by themselves and of which two at once disturb each other."""


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


def inspected(elixir: str) -> str:
    """Return Elixir that prints the value of an expression as Distillery 2's `rpc` does.

    So with `IO.inspect`: a list longer than 50 items is cut. A comment may end the expression.
    """
    return f"IO.inspect(({elixir}\n))"
