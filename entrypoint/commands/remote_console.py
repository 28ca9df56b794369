"""`run-agent remote_console`."""

import os
from collections.abc import Mapping
from typing import NoReturn

from entrypoint import running
from entrypoint.parser import Parser
from entrypoint.session import become, open_session
from run_agent.errors import RunAgentError
from run_agent.release import procfile

EXAMPLES = """\
examples:
  ssh -t root@HOST run-agent remote_console
  kubectl exec -it POD -- run-agent remote_console

It is a shell of its own VM, which ends without touching the node: leave it by Ctrl-C twice, or by
closing the connection. In the Erlang shell (relx) do not leave it by `q().` or `init:stop().`: as
everything that is typed, they are carried out on the node, and stop it. `System.halt()` likewise.
With Distillery, which gives its own calls one name, let the prompt appear before the next call.
"""


def main(arguments: list[str], environ: Mapping[str, str]) -> NoReturn:
    """Become the release tool's console."""
    parser = Parser(
        "remote_console",
        description="Open a console on the running node: IEx, or the Erlang shell of a relx "
        "release. It needs a terminal.",
        examples=EXAMPLES,
    )
    parser.parse_args(arguments)
    here = running.find(open_session(environ))
    if not (os.isatty(0) and os.isatty(1)):
        raise RunAgentError(
            "cannot open a console without a terminal; ask for one with `ssh -t` or "
            "`kubectl exec -it`, or evaluate one expression: run-agent distillery_eval EXPR",
            exit_code=os.EX_USAGE,
        )
    here.distribution_port()  # at once, where the tools would wait and then say less
    if here.release.tool is not None:
        become((here.script, here.release.tool.console), here.session)
    session, name = here.without_release()
    become(procfile.console(here.node, name), session)
