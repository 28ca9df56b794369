"""`run-agent exec -- CMD…`."""

from collections.abc import Mapping
from typing import NoReturn

from entrypoint.orders import EXEC, Orders
from entrypoint.parser import Parser, split_at_dashes
from entrypoint.supervise import become_pid1

EXAMPLES = """\
examples:
  run-agent exec -- /opt/app/bin/server
  READY_CHECK=http:/health PORT=8080 run-agent exec -- bash -c 'cd /srv && ./start'

CMD gets the container's environment as it is, and the present folder. It is ready as soon as it
runs, unless READY_CHECK says otherwise. TERM goes to its whole process group.
"""


def main(arguments: list[str], environ: Mapping[str, str]) -> NoReturn:
    """Become PID 1 of any command."""
    parser = Parser(
        "exec",
        description="Keep any command running as PID 1: signals, orphans, probes, drain and an "
        "orderly stop, without a slug or a controller.",
        examples=EXAMPLES,
    )
    parser.usage = "run-agent exec [-h] -- CMD…"
    ours, command = split_at_dashes(arguments)
    parser.parse_args(ours)
    if not command:
        parser.error("CMD is missing")
    environ = {"READY_CHECK": "none", **environ}
    become_pid1(Orders(EXEC, "exec", command), environ, needs_controller=False)
