"""The public `gigalixir` client, unmodified, in front of real releases."""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from support import network, slugs
from support.gigalixir_api import APP, Client, GigalixirApi, is_there
from support.need import need
from support.platform import ask
from support.replica import Replica
from support.ssh_replica import key_and_settings, until_open
from support.terminal import CTRL_C
from support.wait import PATIENCE_SECONDS, until

need(is_there(), "the gigalixir client, ssh and lsof")

LANGUAGE = {"mix": "elixir", "relx": "erlang", "distillery1": "erlang", "distillery2": "elixir"}

PROMPT = r"\(hello@127\.0\.0\.1\)\d+> "
IN_ELIXIR = 'IO.puts("pid " <> System.pid())\n'
IN_ERLANG = 'io:format("pid ~s~n", [os:getpid()]).\n'


@pytest.fixture
def boot(platform, reserved, tmp_path):
    """Boot a release; returns the replica and a client that reaches it."""

    def boot(kind):
        key, settings = key_and_settings(tmp_path, reserved)
        platform.deploy(slugs.slug(kind).read_bytes())
        replica = until_open(platform.boot(settings=settings).until_ready(60), key)
        api.append(GigalixirApi(ssh_host="127.0.0.1", language=LANGUAGE[kind]).__enter__())
        return replica, Client(tmp_path, api[0], *options(replica, key))

    api: list[GigalixirApi] = []
    yield boot
    for opened in api:
        opened.__exit__()


def options(replica, key) -> tuple[str, ...]:
    known = replica.root / "known_hosts"
    return (
        "-F none", f"-p {replica.environ['SSH_PORT']}", f"-i {key.path}",
        "-o StrictHostKeyChecking=accept-new", f"-o UserKnownHostsFile={known}",
        "-o IdentitiesOnly=yes", "-o LogLevel=ERROR",
    )  # fmt: skip


def test_ps_run_and_ps_ssh_run_commands_in_the_app_folder(boot):
    replica, client = boot("mix")
    done = client.run("ps:run", "--", "ls", "-d", "bin", "releases")
    assert (done.returncode, done.stdout) == (0, "bin\nreleases\n")
    done = client.run("ps:run", "echo $GIGALIXIR_APP_NAME in 'two words'; exit 0")
    assert (done.returncode, done.stdout) == (0, "hello in two words\n")
    done = client.run("ps:run", "exit 3")
    assert done.returncode == 1
    assert "exit status 3" in done.stderr
    done = client.run("ps:ssh", "--", "printenv", "MY_NODE_NAME")
    assert (done.returncode, done.stdout) == (0, "hello@127.0.0.1\n")
    with client.on_terminal("ps:run", "--", "tty") as shown:
        shown.until_shown(r"/dev/pts/\d+")
        assert shown.wait() == 0
    with client.on_terminal("ps:ssh") as shell:
        shell.until_shown(r"[#$] $")
        shell.type("echo $((40 + 2)) in $PWD; exit\n")
        shell.until_shown(r"42 in ")
        assert shell.wait() == 0
    assert ask(replica, "/")[0] == 200


@pytest.mark.parametrize("kind", LANGUAGE)
def test_ps_remote_console_reaches_the_node_and_leaves_it_alone(boot, kind):
    replica, client = boot(kind)
    with client.on_terminal("ps:remote_console") as console:
        console.until_shown(PROMPT)
        console.type(IN_ERLANG if kind == "relx" else IN_ELIXIR)
        pid = int(console.until_shown(r"pid (\d+)")[1])
        assert f"RUN_AGENT_ROOT={replica.root}" in environ_of(pid)
        console.type(CTRL_C)
        console.until_shown("a\\)bort")
        console.type(CTRL_C)
        console.wait()
    with client.on_terminal("ps:remote_console") as console:
        console.until_shown(PROMPT)
        assert consoles(replica)
        console.hang_up()
        until(lambda: not consoles(replica), lambda: f"consoles left: {consoles(replica)}")
    assert f"RUN_AGENT_ROOT={replica.root}" in environ_of(pid)
    assert ask(replica, "/")[0] == 200


def consoles(replica) -> list[str]:
    return [command for command in replica.commands().values() if "-remsh" in command]


@pytest.mark.parametrize("kind", LANGUAGE)
def test_ps_distillery_calls_the_release_s_script(boot, kind):
    replica, client = boot(kind)
    done = client.run("ps:distillery", "pid")
    assert done.returncode == 0, done.stderr
    assert f"RUN_AGENT_ROOT={replica.root}" in environ_of(int(done.stdout))
    done = client.run("ps:distillery", "no-such-command")
    assert done.returncode != 0


def environ_of(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/environ").read_text(errors="replace").split("\0")


SUDO = """#!/bin/sh
# iptables is not needed for what the client asks: its address becomes one of this network's own.
case "$*" in
"iptables -t nat -A OUTPUT -p all -d "*" -j DNAT --to-destination 127.0.0.1") change=add ;;
"iptables -t nat -D OUTPUT -p all -d "*" -j DNAT --to-destination 127.0.0.1") change=delete ;;
*) echo "sudo: not expected: $*" >&2; exit 1 ;;
esac
exec ip address "$change" "$9/32" dev lo
"""

ADDRESS = "192.0.2.7"
"""The node's; it exists in the server's network only (RFC 5737)."""

ERL = f"""#!/bin/bash
# In the place of the observer's windows: a hidden node that connects and shows what it sees.
[ "${{*: -2}}" = "-run observer" ] || exit 1
exec {shutil.which("erl")} "${{@:1:$#-2}}" -noshell -eval '
    Node = list_to_atom("{APP}@{ADDRESS}"),
    pong = net_adm:ping(Node),
    io:format("I am ~s, connected to ~p~nits pid is ~s~nit sees ~p hidden~n", [
        node(), nodes(connected),
        rpc:call(Node, os, getpid, []), length(rpc:call(Node, erlang, nodes, [hidden]))]),
    halt().'
"""


@pytest.fixture
def far_away(reserved, tmp_path):
    """Boot a release in another network; its node's address is not reached but through tunnels.

    Yields what boots it: kind -> the replica, a key that opens it, and both networks.
    """
    started: list[Replica] = []
    with network.pair() as (server, side):
        server.run("ip", "address", "add", f"{ADDRESS}/32", "dev", "lo")

        def boot(kind):
            key, settings = key_and_settings(tmp_path, reserved)
            slugs.unpack(slugs.slug(kind), tmp_path / "root" / "app")
            settings |= {
                "CONTROLLER_URL": "none", "MY_POD_IP": ADDRESS, "APP_KEY": "key",
                "PORT": str(reserved.free()), "TCP_PORT": str(reserved.free()),
            }  # fmt: skip
            replica = Replica(
                tmp_path / "root", ["init", APP],
                ports=reserved, settings=settings, wrapper=server.enter,
            )  # fmt: skip
            started.append(replica)
            until(lambda: is_ready(replica), lambda: f"it is not ready: {replica.log}", 60)
            return replica, key, server, side

        yield boot
        for replica in started:
            replica.end()


def is_ready(replica) -> bool:
    done = replica.verb("status", "--json")
    return done.returncode == os.EX_OK and json.loads(done.stdout)["ready"]


def observed(replica, said: str) -> None:
    """Check that the hidden node was connected to the replica's node, and to no other."""
    assert f"connected to ['{APP}@{ADDRESS}']" in said
    assert re.search(rf"I am [0-9a-z-]+@{ADDRESS}, ", said)
    pid = int(re.search(r"its pid is (\d+)", said)[1])
    assert f"RUN_AGENT_ROOT={replica.root}" in environ_of(pid)
    assert "it sees 1 hidden" in said


@pytest.mark.parametrize("kind", LANGUAGE)
def test_ps_observer_connects_a_hidden_node_through_its_tunnels(far_away, tmp_path, kind):
    replica, key, server, side = far_away(kind)
    with GigalixirApi(
        ssh_host=server.address, language=LANGUAGE[kind], listener=side.listen()
    ) as api:
        client = Client(
            tmp_path, api, *options(replica, key), "-o GatewayPorts=yes",
            wrapper=side.enter, programs={"sudo": SUDO, "erl": ERL},
        )  # fmt: skip
        done = client.run("ps:observer")
    assert done.returncode == 0, done.stderr + replica.log
    observed(replica, done.stdout)


def test_what_the_observer_verb_says_to_paste_works(far_away, tmp_path):
    replica, key, server, side = far_away("relx")
    told = replica.verb("observer", "--json", wrapper=server.enter)
    commands = json.loads(told.stdout)["commands"]
    (tmp_path / "erl").write_text(ERL)
    (tmp_path / "erl").chmod(0o755)
    side.run(*commands["route"].removeprefix("sudo ").split())
    forward = commands["forward"].replace(
        "HOST", f"{server.address} {' '.join(options(replica, key))}"
    )
    with subprocess.Popen([*side.enter, *forward.split()]) as tunnel:
        try:
            # before that erl would start a port mapper of its own
            until(lambda: answers(*side.enter, "epmd", "-names"), "there is no tunnel")
            line = commands["observer"].replace("erl ", f"{tmp_path}/erl ", 1)
            observed(replica, answers(*side.enter, "bash", "-c", line))
        finally:
            tunnel.terminate()
    side.run(*commands["unroute"].removeprefix("sudo ").split())


def answers(*argv: str) -> str:
    """Return what a command prints; nothing where it fails."""
    done = subprocess.run(
        argv, capture_output=True, text=True, timeout=PATIENCE_SECONDS, check=False
    )
    return done.stdout if done.returncode == 0 else ""
