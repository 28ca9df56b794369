"""The stand-in for Distillery keeps the contract for which it stands in."""

import subprocess

from support import by_hand
from support.by_hand import Started


def test_distillery1_keeps_its_contract(tmp_path, environment):
    tree = by_hand.app("distillery1", tmp_path)
    for command in ("ping", "pid", "stop"):
        assert by_hand.run_command(tree, environment, command).returncode == 1
    with by_hand.started("distillery1", tree, environment) as hello:
        node = environment["MY_NODE_NAME"]
        assert outcome(hello.command("ping")) == (0, "pong\n")
        assert outcome(hello.command("pid")) == (0, f"{hello.process.pid}\n")
        assert outcome(hello.command("eval", "node()")) == (0, f"'{node}'\n")
        assert outcome(hello.command("eval", "{a, 1}.")) == (0, "{a,1}\n")
        assert outcome(hello.command("rpc", "lists", "reverse", "[1, 2]")) == (0, "[2,1]\n")
        assert hello.command("eval", "1/0").returncode == 1
        assert hello.command("eval", "foo(").returncode == 127
        assert hello.command("rpc", "nope", "nope").returncode == 1
        assert hello.command("rpc").returncode == 0
        common_contract(hello)


def test_distillery1_uses_a_given_vm_args_literally(tmp_path, environment):
    given = tmp_path / "vm.args"
    given.write_text("-name ${MY_NODE_NAME}\n-setcookie ${MY_COOKIE}\n")
    tree = by_hand.app("distillery1", tmp_path)
    described = by_hand.run_command(tree, {**environment, "VMARGS_PATH": str(given)}, "describe")
    assert "Node name: ${MY_NODE_NAME}\n" in described.stdout


def test_distillery2_keeps_its_contract(tmp_path, environment):
    tree = by_hand.app("distillery2", tmp_path)
    assert by_hand.run_command(tree, environment, "pid").returncode == 1
    down = by_hand.run_command(tree, environment, "ping")
    assert down.returncode == 1
    assert f"\x1b[31m▸  Received 'pang' from {environment['MY_NODE_NAME']}" in down.stdout
    given = tmp_path / "vm.args"
    given.write_text("-name ${MY_NODE_NAME}\n-setcookie ${MY_COOKIE}\n")
    environment["VMARGS_PATH"] = str(given)
    with by_hand.started("distillery2", tree, environment) as hello:
        for name in ("VMARGS_PATH", "REPLACE_OS_VARS", "MY_NODE_NAME", "MY_COOKIE"):
            del environment[name]  # var/ remembers
        node = environment["RELEASE_NODE"]
        assert outcome(hello.command("ping")) == (0, "pong\n")
        assert outcome(hello.command("pid")) == (0, f"{hello.process.pid}\n")
        assert outcome(hello.command("rpc", "Node.self()")) == (0, f':"{node}"\n')
        assert outcome(hello.command("eval", "IO.puts(node()); 1")) == (0, "nonode@nohost\n")
        assert hello.command("rpc", 'raise "no"').returncode == 1
        assert hello.command("rpc", "foo(").returncode == 1
        assert hello.command("eval", 'raise "no"').returncode == 1
        assert hello.command("eval", "foo(").returncode == 1
        common_contract(hello)


def common_contract(hello: Started) -> None:
    """Check what both lines promise; ends with the release stopped."""
    del hello.env["HOME"]
    assert hello.command("ping").returncode == 1
    hello.env["HOME"] = str(hello.tree.parent)
    assert hello.command("describe").returncode == 0
    assert hello.command("command", "io", "format", "hi").stdout == "hi"
    assert hello.command("command", "nope", "nope").returncode == 1
    console = hello.command("remote_console")  # no terminal: a shell of its own
    assert (console.returncode, "iex(remsh-" in console.stdout) == (0, True)
    upgrade = hello.command("upgrade", "0.2.0")
    assert (upgrade.returncode, "not supported" in upgrade.stdout) == (1, True)
    argv = (hello.tree / "bin" / "hello", "stop")
    with subprocess.Popen(argv, env=hello.env, stdout=subprocess.PIPE) as stop:
        # Unreaped, it would be waited for for ever.
        assert hello.process.wait(by_hand.STOP_SECONDS) == 0
        assert stop.communicate(timeout=by_hand.STOP_SECONDS)[0] == b"ok\n"
    assert stop.returncode == 0
    assert hello.command("describe").returncode == 0


def outcome(done: subprocess.CompletedProcess[str]) -> tuple[int, str]:
    return done.returncode, done.stdout
