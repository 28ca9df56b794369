"""The stand-in for Distillery keeps the contract for which it stands in."""

import contextlib
import http.client
import shutil
import subprocess

import pytest

from support import by_hand, upgrade_slugs
from support.by_hand import Started
from support.wait import until

UNPACK_FAILS = {"distillery1": 2, "distillery2": 1}
INSTALL_FAILS = {"distillery1": 3, "distillery2": 1}

DONE = {
    "distillery1": 'Made release permanent: "{version}"\n',
    "distillery2": "\x1b[32m▸  Made release hello:{version} permanent\x1b[0m\n",
}
REMOVE = {
    "distillery1": ("eval", 'release_handler:remove_release("0.2.0")'),
    "distillery2": ("rpc", ":release_handler.remove_release('0.2.0')"),
}


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


@pytest.fixture(params=INSTALL_FAILS)
def hello(request, tmp_path, environment):
    tree = by_hand.app(request.param, tmp_path)
    with by_hand.started(request.param, tree, environment) as hello:
        yield hello


def put_tarball(hello: Started, variant: str = "good", *, cut: bool = False) -> None:
    tarball = hello.tree / "releases" / "0.2.0" / "hello.tar.gz"
    tarball.parent.mkdir(exist_ok=True)
    slug = upgrade_slugs.slug(hello.kind, "0.2.0", variant)
    shutil.copy(upgrade_slugs.truncated(slug) if cut else slug, tarball)


def serves(hello: Started, version: str) -> bool:
    with contextlib.suppress(OSError, http.client.HTTPException):
        return f"version={version} ".encode() in hello.get("/")[1]
    return False


def test_upgrade_and_downgrade_change_the_running_release(hello):
    put_tarball(hello)
    done = hello.command("upgrade", "0.2.0", GREETING="Servus")
    assert done.returncode == 0, done.stdout
    assert done.stdout.endswith(DONE[hello.kind].format(version="0.2.0"))
    assert serves(hello, "0.2.0")
    assert "Servus" in hello.get("/")[1].decode()
    release = hello.tree / "releases" / "0.2.0"
    assert not {"hello.tar.gz", "hello.rel", "sys.config.bak"} & {p.name for p in release.iterdir()}
    assert "${GREETING}" in (release / "sys.config").read_text()
    assert hello.command("upgrade", "0.2.0").returncode == 0  # again
    done = hello.command("downgrade", "0.1.0")
    assert (done.returncode, serves(hello, "0.1.0")) == (0, True), done.stdout


def test_a_version_that_found_no_relup_is_not_unpacked_again(hello):
    put_tarball(hello, "no_relup")
    done = hello.command("upgrade", "0.2.0")
    assert done.returncode == INSTALL_FAILS[hello.kind]
    release = hello.tree / "releases" / "0.2.0"
    assert {"sys.config.bak", "vm.args.bak"} < {path.name for path in release.iterdir()}
    put_tarball(hello)
    assert hello.command("upgrade", "0.2.0").returncode == INSTALL_FAILS[hello.kind]
    assert serves(hello, "0.1.0")
    assert hello.command(*REMOVE[hello.kind]).returncode == 0
    put_tarball(hello)
    assert hello.command("upgrade", "0.2.0").returncode == 0
    assert serves(hello, "0.2.0")


def test_a_tarball_that_is_missing_or_cut_fails(hello):
    assert hello.command("upgrade", "0.2.0").returncode == UNPACK_FAILS[hello.kind]
    put_tarball(hello, cut=True)
    assert hello.command("upgrade", "0.2.0").returncode == UNPACK_FAILS[hello.kind]
    assert serves(hello, "0.1.0")


def test_a_code_change_that_raises_restarts_the_old_version_in_the_same_process(hello):
    put_tarball(hello, "raising")
    with hello.connect_line():  # the process of which raises
        assert hello.command("upgrade", "0.2.0").returncode == INSTALL_FAILS[hello.kind]
    until(lambda: serves(hello, "0.1.0"), "the old version does not serve again")
    assert hello.process.poll() is None


def test_the_second_line_boots_the_old_version_after_an_upgrade(hello):
    put_tarball(hello)
    assert hello.command("upgrade", "0.2.0").returncode == 0
    assert hello.stop() == 0
    stale = hello.tree / "var" / "start_erl.data"
    with by_hand.started(hello.kind, hello.tree, hello.env) as again:
        assert serves(again, "0.1.0" if hello.kind == "distillery2" else "0.2.0")
        assert again.stop() == 0
    stale.unlink(missing_ok=True)
    with by_hand.started(hello.kind, hello.tree, hello.env) as again:
        assert serves(again, "0.2.0")


def test_the_second_line_reloads_its_configuration(tmp_path, environment):
    tree = by_hand.app("distillery2", tmp_path)
    with by_hand.started("distillery2", tree, environment) as hello:
        assert hello.command("reload_config", GREETING="Servus").returncode == 0
        assert "Servus" in hello.get("/")[1].decode()


@pytest.mark.parametrize("kind", INSTALL_FAILS)
def test_upgrade_needs_a_live_node(kind, tmp_path, environment):
    tree = by_hand.app(kind, tmp_path)
    assert by_hand.run_command(tree, environment, "upgrade", "0.2.0").returncode == 1


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
    assert hello.command("upgrade").returncode == 1
    argv = (hello.tree / "bin" / "hello", "stop")
    with subprocess.Popen(argv, env=hello.env, stdout=subprocess.PIPE) as stop:
        # Unreaped, it would be waited for for ever.
        assert hello.process.wait(by_hand.STOP_SECONDS) == 0
        assert stop.communicate(timeout=by_hand.STOP_SECONDS)[0] == b"ok\n"
    assert stop.returncode == 0
    assert hello.command("describe").returncode == 0


def outcome(done: subprocess.CompletedProcess[str]) -> tuple[int, str]:
    return done.returncode, done.stdout
