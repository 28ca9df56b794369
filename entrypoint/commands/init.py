"""`run-agent init APP [CMD…]`."""

from collections.abc import Mapping
from typing import NoReturn

from entrypoint.orders import INIT, Orders
from entrypoint.parser import Parser
from entrypoint.supervise import become_pid1

EXAMPLES = """\
examples:
  run-agent init hello                      boot what the controller says, and run it
  CONTROLLER_URL=file:///srv/hello run-agent init hello
  CONTROLLER_URL=none run-agent init hello  run the release that the image holds at /app
  run-agent init hello bin/worker start     run another command of the slug instead

It ends with the release's own exit code (128+n for signal n), with 78 for wrong settings, and
with 75 when the boot takes longer than BOOT_DEADLINE_SECONDS. TERM and INT stop it in order.
"""


def main(arguments: list[str], environ: Mapping[str, str]) -> NoReturn:
    """Become PID 1 of a replica."""
    parser = Parser(
        "init",
        description="Boot the app's current deploy and keep it running: name the node, fetch the "
        "slug, start the release, answer the probes. This is the container's entry point.",
        examples=EXAMPLES,
    )
    parser.add_argument("app", metavar="APP", help="the app's name; it becomes the node's")
    parser.add_start_command()
    given = parser.parse_args(arguments)
    become_pid1(Orders(INIT, given.app, tuple(given.command)), environ, needs_controller=True)
