"""`run-agent observer [--json]`."""

import json
import os
import shlex
import textwrap
from collections.abc import Mapping
from typing import Any

from entrypoint import running
from entrypoint.parser import Parser
from entrypoint.session import open_session
from run_agent import settings
from run_agent.epmd import DEFAULT_PORT

EXAMPLES = """\
examples:
  run-agent observer                      what to paste on your own machine
  run-agent observer --json | jq -r .node

Whoever has the cookie may do everything on the node. It is shown here since it is asked for.
"""

LOOPBACK = "127.0.0.1"

COLUMNS = 98
"""To which what explains a command is wrapped; the commands themselves are to be pasted."""

EXPLANATIONS = {
    "route": "make the node's address your own (Linux)",
    "route_macos": "the same (macOS)",
    "forward": "forward the ports, in a terminal of its own; host, port and further options: as "
    "you reach this replica by SSH, which differs from this behind NAT or a load balancer",
    "observer": "run the observer; with an Erlang without graphics leave out: -run observer",
    "unroute": "afterwards (Linux)",
    "unroute_macos": "afterwards (macOS)",
}


def main(arguments: list[str], environ: Mapping[str, str]) -> int:
    """Print what a hidden node elsewhere needs to connect to this one."""
    parser = Parser(
        "observer",
        description="Show how to connect Erlang's observer, or any hidden node, to the running "
        "node through SSH: its name and cookie, its ports, and the commands for the other side.",
        examples=EXAMPLES,
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    given = parser.parse_args(arguments)
    here = running.find(open_session(environ))
    facts = _facts(here) | _came_in_by(environ)
    if given.json:
        print(json.dumps(facts | {"commands": _commands(facts)}, indent=2))
    else:
        print(_text(facts))
    return os.EX_OK


def _facts(here: running.Running) -> dict[str, Any]:
    """Collect what the other side needs; raises `UnavailableError` if the node is down."""
    return {
        "node": here.node,
        "cookie": here.cookie.reveal(),
        "epmd_port": here.epmd_port,
        "distribution_port": here.distribution_port(),
    }


def _came_in_by(environ: Mapping[str, str]) -> dict[str, Any]:
    """Return which address and port of ours this very session came in by.

    Without SSH that is no address, and the port at which the container's settings serve SSH.
    """
    *_, address, port = ["", "", *environ.get("SSH_CONNECTION", "").split(" ")]
    if address and port.isdecimal():
        return {"ssh_address": address, "ssh_port": int(port)}
    serves = settings.load(environ, needs_controller=False).ssh_port
    return {"ssh_address": None, "ssh_port": serves}


def _commands(facts: Mapping[str, Any]) -> dict[str, str]:
    """Return what is to be pasted on the other side, in its order.

    The node is known by its address, and by ports that must be the same there. The port mapper is
    forwarded twice: `erl` registers itself on its loopback, and looks for us at our address.
    """
    epmd, address = facts["epmd_port"], facts["node"].partition("@")[2]
    ends = [(LOOPBACK, epmd), (address, epmd), (address, facts["distribution_port"])]
    forwards = " ".join(f"-L {at}:{port}:localhost:{port}" for at, port in dict.fromkeys(ends))
    port = f"-p {facts['ssh_port']} " if facts["ssh_port"] not in {None, 22} else ""
    variable = "" if epmd == DEFAULT_PORT else f"ERL_EPMD_PORT={epmd} "
    host = facts["ssh_address"] or "HOST"
    commands = {
        "route": f"sudo ip address add {address}/32 dev lo",
        "route_macos": f"sudo ifconfig lo0 alias {address}",
        "forward": f"ssh -N {port}{forwards} root@{host}",
        "observer": f"{variable}erl -hidden -name observer-$$@{address} "
        f"-setcookie {shlex.quote(facts['cookie'])} -run observer",
        "unroute": f"sudo ip address del {address}/32 dev lo",
        "unroute_macos": f"sudo ifconfig lo0 -alias {address}",
    }
    is_routed = address == LOOPBACK
    return {name: line for name, line in commands.items() if not (is_routed and "route" in name)}


def _text(facts: Mapping[str, Any]) -> str:
    commands = _commands(facts)
    lines = [
        f"node               {facts['node']}",
        f"cookie             {facts['cookie']}",
        f"epmd port          {facts['epmd_port']}",
        f"distribution port  {facts['distribution_port']}",
        "",
        "On your own machine, with Erlang and both ports free (`epmd -kill` ends its own epmd):",
    ]
    for name, line in commands.items():
        explained = (f"# {words}" for words in textwrap.wrap(EXPLANATIONS[name], COLUMNS))
        lines += ["", *explained, line]
    return "\n".join([*lines, "", f"In its menu Nodes, choose Connect Node: {facts['node']}"])
