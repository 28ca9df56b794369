"""What a real release sees of CONTRACTS 3, byte for byte, and where its secrets show."""

import os
from contextlib import suppress
from pathlib import Path

import pytest

from support import slugs
from support.platform import APP_KEY, SIGNATURE, ask
from support.wait import until

KINDS = ("mix", "relx", "distillery1", "distillery2")

UNUSUAL = {
    "NEWLINES": "a\nb\r\n\n",
    "QUOTES": 'it\'s "quoted" \\ and `back`',
    "DOLLARS": "$HOME ${PATH} $(id) %s",
    "UNICODE": "Grüße, žluťoučký, 日本 😀",
    "LARGE": "x" * 100_000,
}

NODE = ("MY_NODE_NAME", "RELEASE_NODE")
COOKIE = ("MY_COOKIE", "RELEASE_COOKIE", "ERLANG_COOKIE")

THE_TOOLS_OWN = {"PATH"}
"""What every release tool's script changes on the way to the VM: it puts the ERTS in front."""


@pytest.fixture
def boot(platform):
    """Boot a real slug of the kind that is named, and wait until it is ready."""

    def boot(kind, settings=None, **config):
        platform.deploy(slugs.slug(kind).read_bytes(), config=config)
        return platform.boot(settings=settings).until_ready(60)

    return boot


def is_the_tools(argv: str) -> bool:
    """Tell whether a release tool put this argv together, from its environment or from vm.args."""
    words = argv.split("\0")
    return "-setcookie" in words or "--cookie" in words


def shell_environ(replica) -> dict[str, str]:
    raw = replica.verb("shell", "--", "env", "-0", text=False).stdout
    pairs = (item.partition(b"=") for item in raw.rstrip(b"\0").split(b"\0"))
    return {os.fsdecode(name): os.fsdecode(value) for name, _, value in pairs}


@pytest.mark.parametrize("kind", KINDS)
def test_the_vm_sees_what_shell_sees_byte_for_byte(boot, kind):
    replica = boot(kind, **UNUSUAL)
    env = shell_environ(replica)
    assert {name: env[name] for name in UNUSUAL} == UNUSUAL
    for name in env.keys() - THE_TOOLS_OWN:
        assert ask(replica, f"/env/{name}") == (200, os.fsencode(env[name])), name
    for name in "APP_KEY", "LOGPLEX_TOKEN", "CONTROLLER_URL", "HEALTH_PORT", "GRACE_SECONDS":
        assert ask(replica, f"/env/{name}")[0] == 404
    assert f"{replica.root}/run/run-agent/bin".encode() in ask(replica, "/env/PATH")[1]
    by_tool = {"REPLACE_OS_VARS", "RELX_REPLACE_OS_VARS", "GIGALIXIR_DEFAULT_VMARGS", "VMARGS_PATH"}
    assert by_tool & env.keys() == (set() if kind == "mix" else by_tool)
    assert env["GIGALIXIR_COMMAND"] == ("start" if kind == "mix" else "foreground")


@pytest.mark.parametrize("kind", ["mix", "relx"])
def test_no_config_renames_the_node_or_changes_its_cookie(boot, kind):
    replica = boot(kind, **dict.fromkeys(NODE + COOKIE, "evil@example.org"))
    assert b" node=hello@127.0.0.1 " in ask(replica, "/")[1]
    question = "erlang:get_cookie()." if kind == "relx" else "IO.puts(Node.get_cookie())"
    command = "eval" if kind == "relx" else "rpc"
    answer = replica.verb("shell", "--", "bin/hello", command, question)
    env = shell_environ(replica)
    assert answer.stdout.strip().strip("'") == env["ERLANG_COOKIE"] != "evil@example.org"
    assert {env[name] for name in COOKIE} == {env["ERLANG_COOKIE"]}


@pytest.mark.parametrize("kind", ["relx", "distillery1", "distillery2"])
def test_without_our_vm_args_the_release_s_own_are_used(boot, kind):
    replica = boot(kind, GIGALIXIR_DEFAULT_VMARGS="false")
    assert b" node=hello@127.0.0.1 " in ask(replica, "/")[1]
    assert "VMARGS_PATH" not in shell_environ(replica)
    assert not (replica.root / "run" / "run-agent" / "vm.args").exists()


def test_dist_port_fixes_the_port_of_the_distribution(boot, reserved):
    port = reserved.free()
    replica = boot("relx", settings={"DIST_PORT": str(port)})
    names = replica.verb("shell", "--", "epmd", "-names").stdout
    assert f"name hello at port {port}\n" in names
    epmd = replica.verb("shell", "--", "which", "epmd").stdout.strip()
    assert Path(epmd).resolve().parent.name == "bin"
    assert Path(epmd).resolve().is_relative_to(replica.root.resolve())


@pytest.mark.parametrize("kind", ["mix", "relx"])
def test_no_secret_is_in_a_log_line_or_in_an_argv_but_what_the_tool_puts_there(platform, kind):
    platform.deploy(slugs.slug(kind).read_bytes(), config={"TOKEN": "config-secret"})
    replica = platform.boot(settings={"READY_CHECK": "node"})
    seen: set[str] = set()

    def look() -> bool:
        for process in replica.alive():
            with suppress(OSError):  # it has ended
                seen.add(Path(f"/proc/{process.pid}/cmdline").read_text())
        return replica.is_ready()

    until(look, lambda: f"it is not ready: {replica.log}", 60)
    cookie = shell_environ(replica)["ERLANG_COOKIE"]
    for text in [*seen, replica.log, replica.stdout, replica.verb("status").stdout]:
        for secret in APP_KEY, SIGNATURE, "config-secret":
            assert secret not in text
        if not is_the_tools(text):
            assert cookie not in text
    assert any(is_the_tools(argv) for argv in seen)
    run = replica.root / "run" / "run-agent"
    for path in (path for path in run.rglob("*") if path.is_file()):
        assert path.stat().st_mode & 0o77 == 0 or cookie.encode() not in path.read_bytes()
