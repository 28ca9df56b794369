"""`run-agent bootstrap NAME [SLUG_URL [CMD…]]`."""

from collections.abc import Mapping
from typing import NoReturn

from entrypoint.orders import BOOTSTRAP, Orders
from entrypoint.parser import Parser
from entrypoint.supervise import become_pid1

EXAMPLES = """\
examples:
  run-agent bootstrap hello https://example.com/hello-0.1.0.tar.gz
  run-agent bootstrap hello gs://slugs/hello.tar.zst
  run-agent bootstrap hello file:///srv/hello.tar.gz bin/hello foreground
"""


def main(arguments: list[str], environ: Mapping[str, str]) -> NoReturn:
    """Become PID 1 of a replica that runs one given slug."""
    parser = Parser(
        "bootstrap",
        description="Boot one slug without a controller. Everything else is as with init.",
        examples=EXAMPLES,
    )
    parser.add_argument("name", metavar="NAME", help="the release's name, as in bin/NAME")
    parser.add_argument("slug_url", metavar="SLUG_URL", help="https://, gs:// or file://")
    parser.add_start_command()
    given = parser.parse_args(arguments)
    # through the environment: a signed URL is a credential, and argv is for everybody to read
    environ = {**environ, "SLUG_URL": given.slug_url}
    become_pid1(
        Orders(BOOTSTRAP, given.name, tuple(given.command)), environ, needs_controller=False
    )
