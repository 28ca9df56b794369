"""The running node: whether it answers, and Erlang evaluated on it.

Asks through the slug's own `erl_call`, which takes milliseconds and registers nowhere, and where
that is missing through the release tool's script. Owns the private folder that holds the cookie
for it. Starts and stops no node: that is PID 1's. Hot upgrades are built upon this elsewhere.
"""

import base64
import itertools
import math
import os
import re
import time
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from run_agent import erl_home, process, turns
from run_agent.errors import RunAgentError
from run_agent.model import Secret
from run_agent.process import Completed
from run_agent.redaction import redacted_end

ANSWER_SECONDS = 5.0
"""How long a live node may take to answer: erl_call needs 5 ms, a busy node a second or two."""

TOOL_ANSWER_SECONDS = 20.0
"""The same through a release tool, which starts a VM: 1.5 s on an idle machine."""

HIDDEN_NAMES = 64
"""Names that one process uses in turn: calls at the same time must differ, and every new name
stays in the node's atom table for good."""

SHOWN_BYTES = 1000
"""How much of what a tool printed an error shows."""

NO_ANSWER = frozenset({os.EX_UNAVAILABLE, os.EX_TEMPFAIL})

SEEN = ("ERL_EPMD_PORT", "LD_LIBRARY_PATH")
"""What erl_call needs of the release's environment; the rest is none of its business."""

NAMES_BYTES = 1 << 20
"""Most of the names of connected nodes that is unpacked: thousands."""

_CONNECTED = "base64:encode(zlib:compress([[atom_to_binary(Name, utf8), 10] || Name <- nodes()]))"
"""The visible nodes (erlang(3), nodes/0), one a line; packed, as tools pass on 3,000 bytes only."""

_ANSWER = re.compile(rb"<<<(?P<outcome>ok|error),(?P<value>.*?)>>>", re.DOTALL)
_NOT_BASE64 = re.compile(rb"[^A-Za-z0-9+/=]")
"""Tools break a long string into several, each in quotes."""

_calls = itertools.count()


def _no_tool(_erlang: str) -> None:
    return None


@dataclass(frozen=True, slots=True)
class Node:
    """A node by its name and cookie, and the two ways to it.

    `env` is the release's environment, which the tools need. `by_tool` returns the argv by which
    the release tool evaluates Erlang; it is used only where there is no `erl_call`.
    """

    name: str
    cookie: Secret
    env: Mapping[str, str] = field(repr=False)
    run: Path
    erl_call: Path | None = None
    by_tool: Callable[[str], tuple[str, ...] | None] = field(default=_no_tool, repr=False)

    @property
    def answers_directly(self) -> bool:
        """Whether it is asked through `erl_call`: each other way starts a VM."""
        return self.erl_call is not None and ":" not in self.name  # it knows no IPv6

    @property
    def can_be_asked(self) -> bool:
        """Whether there is any way to ask it."""
        return self.answers_directly or self.by_tool("") is not None

    async def ping(self) -> bool:
        """Tell whether the node answers to our cookie; a wrong cookie looks as if it were down."""
        return await self._is_true("true")

    async def runs(self, application: str) -> bool:
        """Tell whether the node has booted and, if it knows `application`, that it is started.

        A release need not have an application of its own name; then its boot script's end counts.
        """
        name = _atom(application)
        return await self._is_true(
            "element(1, init:get_status()) =:= started andalso "
            f"(lists:keymember({name}, 1, application:which_applications()) orelse "
            f"not lists:keymember({name}, 1, application:loaded_applications()))"
        )

    async def evaluate(self, erlang: str, *, deadline: float | None = None) -> str:
        """Evaluate Erlang expressions on the node; return the last one's value as `~tw` prints it.

        The expressions are separated by commas; the final dot is ours. The printed value may
        have 48 KiB, through some tools 3,000 bytes only. `deadline` is in seconds; the default
        depends on the way. Raises `RunAgentError`: 69 if the node cannot be reached, 75 past the
        deadline, 70 with the reason if the evaluation fails.
        """
        return await self._print(erlang, "~tw", deadline)

    async def connected(self, *, deadline: float | None = None) -> tuple[str, ...]:
        """Return the names of the nodes that are connected to it and visible, in their order.

        We ourselves, and every console, are hidden. `deadline` and what is raised: as `evaluate`.
        """
        packed = await self._print(_CONNECTED, "~ts", deadline)
        try:
            names = zlib.decompressobj().decompress(base64.b64decode(packed), NAMES_BYTES)
            return tuple(sorted(names.decode().splitlines()))
        except (ValueError, zlib.error):
            raise RunAgentError(
                f"cannot read which nodes are connected to {self.name}: its answer is garbled"
            ) from None

    async def _print(self, erlang: str, form: str, deadline: float | None) -> str:
        ended = await self._call(_wrapped(erlang, form), deadline)
        match = _ANSWER.search(ended.stdout)
        if match is None:
            raise self._no_answer(ended)
        try:
            answer = base64.b64decode(_NOT_BASE64.sub(b"", match["value"])).decode()
        except ValueError:
            raise RunAgentError(
                f"cannot read the answer of the node {self.name}: garbled"
            ) from None
        if match["outcome"] != b"ok":
            raise RunAgentError(f"cannot evaluate on the node {self.name}: {answer[:SHOWN_BYTES]}")
        return answer

    def _no_answer(self, ended: Completed) -> RunAgentError:
        env = {} if self.answers_directly else self.env  # which a tool's script may quote
        printed = redacted_end(ended.stdout + ended.stderr, env)
        if ended.code == 0:
            return RunAgentError(
                f"cannot read the answer of the node {self.name}; ask for less ({printed})"
            )
        return RunAgentError(
            f"cannot reach the node {self.name}: check that it is up and that its cookie is the "
            f"one we gave it ({printed})",
            exit_code=os.EX_UNAVAILABLE,
        )

    async def _is_true(self, condition: str) -> bool:
        try:
            return await self.evaluate(f"true =:= (catch {condition})") == "true"
        except RunAgentError as error:
            if error.exit_code in NO_ANSWER:
                return False
            raise

    async def _call(self, erlang: str, deadline: float | None) -> Completed:
        if self.erl_call is not None and self.answers_directly:
            deadline = deadline or ANSWER_SECONDS
            try:
                return await self._call_directly(self.erl_call, erlang, deadline)
            except RunAgentError as error:
                if error.exit_code != os.EX_TEMPFAIL:
                    raise
                raise RunAgentError(
                    f"cannot wait longer than {deadline:g} s for the node {self.name}: it hangs, "
                    "or is very busy; see its log, and try again",
                    exit_code=os.EX_TEMPFAIL,
                ) from error
        argv = self.by_tool(erlang)
        if argv is None:
            raise RunAgentError(
                f"cannot ask the node {self.name}: the slug has neither erl_call nor a release's "
                "script; use READY_CHECK=port, http:/PATH or none",
                exit_code=os.EX_CONFIG,
            )
        deadline = deadline or TOOL_ANSWER_SECONDS
        end = time.monotonic() + deadline
        what = f"{Path(argv[0]).name} for the node {self.name}"
        # Distillery's scripts use one fixed node name, or file, whoever calls.
        async with turns.take(self.run, what, deadline):
            return await process.run(
                argv, deadline=end - time.monotonic(), env=self.env, cwd=self.run
            )

    async def _call_directly(self, erl_call: Path, erlang: str, deadline: float) -> Completed:
        hidden = f"run-agent-{os.getpid()}-{next(_calls) % HIDDEN_NAMES}"
        # Its own time-out ends it where we were killed and nobody else would.
        timeout = str(math.ceil(deadline) + 1)
        home = erl_home.prepare(self.run, self.cookie)
        return await process.run(
            (str(erl_call), "-name", self.name, "-h", hidden, "-timeout", timeout, "-e"),
            deadline=deadline,
            env={"HOME": str(home), **{name: self.env[name] for name in SEEN if name in self.env}},
            cwd=home,
            stdin=f"{erlang}\n".encode(),
        )


def _atom(name: str) -> str:
    return "'" + name.replace("\\", "\\\\").replace("'", "\\'") + "'"


def _wrapped(erlang: str, form: str) -> str:
    """Return Erlang that evaluates `erlang` and answers in one form, however that ends.

    `form` prints the value (io(3), fwrite/2). The answer survives what the tools do to what they
    print; base64 does the same for the code on its way there.
    """
    code = base64.b64encode(f"{erlang}.".encode()).decode()
    return (
        "Answer = fun(Outcome, Form, Value) -> "
        "Text = unicode:characters_to_binary(io_lib:format(Form, [Value])), "
        '"<<<" ++ Outcome ++ "," ++ base64:encode_to_string(Text) ++ ">>>" end, '
        f'Code = unicode:characters_to_list(base64:decode("{code}")), '
        "try "
        "{ok, Tokens, _} = erl_scan:string(Code), "
        "{ok, Forms} = erl_parse:parse_exprs(Tokens), "
        "{value, Value, _} = erl_eval:exprs(Forms, []), "
        f'Answer("ok", "{form}", Value) '
        'catch Class:Reason -> Answer("error", "~tw", {Class, Reason}) end.'
    )
