"""The slugs that upgrade each other, changed by hand on a running node with OTP's own calls."""

import contextlib
import http.client
import re
import shutil
import tarfile

import pytest

from support import by_hand, load, slugs, upgrade_slugs
from support.wait import until

PATH = ("0.2.0", "0.3.0", "0.2.0", "0.1.0", "0.3.0", "0.1.0")
"""The versions to which the running 0.1.0 is changed, one after the other."""

CONNECTIONS = 20
REQUESTS_PER_SECOND = 100

SHORTEST_START_MS = 100.0
"""No release stops and starts again within so little."""

BOTH = pytest.mark.parametrize("kind", ["relx", "mix"])
ALL = pytest.mark.parametrize("kind", ["relx", "mix", "distillery1", "distillery2"])


@pytest.fixture
def environment(environment):
    return environment | {"SALUTE": "Servus"}


@ALL
@pytest.mark.parametrize("version", ["0.2.0", "0.3.0"])
def test_each_version_boots(kind, version, tmp_path, environment):
    tree = slugs.unpack(upgrade_slugs.slug(kind, version), tmp_path / "app")
    greeter = "hello-1" if version == "0.2.0" else "welcome-1"
    words = "words=2" if version == "0.2.0" else "words=2 of 2"
    with (
        by_hand.started(kind, tree, environment) as hello,
        hello.connect_line() as line,
        line.makefile("rw", encoding="utf-8", newline="\n") as stream,
    ):
        assert hello.get("/")[1].decode() == (
            f"version={version} node={environment['RELEASE_NODE']} nodes= count=1 greeting=Grüße "
            f"salute=Servus greeter={greeter} build=good\n"
        )
        print("two words", file=stream, flush=True)
        answer = f"{version} {environment['RELEASE_NODE']} 1 two words {words}\n"
        assert stream.readline() == answer
        assert hello.stop() == 0


@BOTH
def test_one_node_goes_up_and_down(kind, tmp_path, environment):
    with (
        started(kind, tmp_path, environment) as hello,
        load.Http(int(environment["PORT"]), REQUESTS_PER_SECOND) as http,
        load.Connections(int(environment["TCP_PORT"]), CONNECTIONS) as connections,
    ):
        for version in PATH:
            place(hello, upgrade_slugs.slug(kind, version))
            assert install(hello, version).startswith("{ok,")
            assert erlang(hello, f'release_handler:make_permanent("{version}")') == "ok"
            assert connections.check() == {version: CONNECTIONS}
            assert hello.get("/")[1].startswith(f"version={version} ".encode())
        modules = "[code:is_loaded(M) || M <- [hello_words, hello_tally, hello_mishap, greeter]]"
        assert erlang(hello, modules) == "[false,false,false,false]"
    assert http.report.failed == {}
    assert set(http.report.versions) == set(upgrade_slugs.VERSIONS)


@BOTH
def test_raising_boots_the_old_version_again(kind, tmp_path, environment):
    with started(kind, tmp_path, environment) as hello, hello.connect_line() as line:
        place(hello, upgrade_slugs.slug(kind, "0.2.0", "raising"))
        install(hello, "0.2.0")
        assert line.recv(1) == b""
        until(lambda: version_of(hello) == "0.1.0", "0.1.0 does not serve", by_hand.READY_SECONDS)
        assert hello.process.poll() is None


@BOTH
def test_crashing_ends_the_vm_after_the_install(kind, tmp_path, environment):
    slug = upgrade_slugs.slug(kind, "0.2.0", "crashing")
    with (
        started(kind, tmp_path, environment) as hello,
        load.Http(int(environment["PORT"]), REQUESTS_PER_SECOND) as http,
    ):
        place(hello, slug)
        assert install(hello, "0.2.0").startswith("{ok,")
        assert hello.process.wait(by_hand.STOP_SECONDS) != 0
    assert set(http.report.versions) == {"0.1.0", "0.2.0"}


@BOTH
def test_hanging_closes_its_port_until_it_is_downgraded(kind, tmp_path, environment):
    with (
        started(kind, tmp_path, environment) as hello,
        load.Connections(int(environment["TCP_PORT"]), 1) as connections,
    ):
        place(hello, upgrade_slugs.slug(kind, "0.2.0", "hanging"))
        assert install(hello, "0.2.0").startswith("{ok,")
        until(lambda: version_of(hello) is None, "it serves HTTP")
        assert connections.check() == {"0.2.0": 1}
        assert install(hello, "0.1.0").startswith("{ok,")
        until(lambda: version_of(hello) == "0.1.0", "0.1.0 does not serve")
        assert connections.check() == {"0.1.0": 1}


@BOTH
def test_hanging_hangs_from_its_start(kind, tmp_path, environment):
    tree = slugs.unpack(upgrade_slugs.slug(kind, "0.2.0", "hanging"), tmp_path / "app")
    with by_hand.started(kind, tree, environment, port="TCP_PORT") as hello:
        until(lambda: version_of(hello) is None, "it serves HTTP")
        assert hello.stop() == 0


@BOTH
def test_no_relup_is_an_error_that_changes_nothing(kind, tmp_path, environment):
    with started(kind, tmp_path, environment) as hello:
        place(hello, upgrade_slugs.slug(kind, "0.2.0", "no_relup"))
        assert re.match(r"\{error,\{enoent,.*relup", install(hello, "0.2.0"))
        assert version_of(hello) == "0.1.0"


@BOTH
def test_one_way_knows_no_way_down(kind, tmp_path, environment):
    with started(kind, tmp_path, environment) as hello:
        place(hello, upgrade_slugs.slug(kind, "0.2.0", "one_way"))
        assert install(hello, "0.2.0").startswith("{ok,")
        assert install(hello, "0.1.0").startswith("{error,{no_matching_relup")
        assert version_of(hello) == "0.2.0"


@BOTH
@pytest.mark.parametrize(
    ("variant", "ways"),
    [
        ("good", [[], []]),
        ("restarting", [["restart_new_emulator"], ["restart_new_emulator"]]),
        ("rebooting", [["restart_emulator"], ["restart_emulator"]]),
        ("other_erts", [["restart_new_emulator"], ["restart_emulator"]]),
    ],
)
def test_relups_that_restart_the_emulator(kind, variant, ways, tmp_path):
    tree = slugs.unpack(upgrade_slugs.slug(kind, "0.2.0", variant), tmp_path / "app")
    up, down = (tree / "releases/0.2.0/relup").read_text().rsplit('[{"0.1.0",', 1)
    assert [re.findall(r"restart_\w+", part) for part in (up, down)] == ways


@ALL
def test_another_erts_and_another_name(kind, tmp_path):
    tree = slugs.unpack(upgrade_slugs.slug(kind, "0.2.0", "other_erts"), tmp_path / "erts")
    assert (tree / "releases" / "start_erl.data").read_text().split() == ["99.9", "0.2.0"]
    assert '{erts,"99.9"}' in (tree / "releases/0.2.0/hello.rel").read_text()
    assert [erts.name for erts in tree.glob("erts-*")] == ["erts-99.9"]
    tree = slugs.unpack(upgrade_slugs.slug(kind, "0.2.0", "other_name"), tmp_path / "name")
    assert '"other","0.2.0"' in (tree / "releases/0.2.0/other.rel").read_text()
    assert (tree / "bin" / "other").exists()
    assert not list(tree.glob("**/hello.rel"))


@BOTH
def test_a_corrected_build_tells_itself_apart(kind, tmp_path, environment):
    path = upgrade_slugs.slug(kind, "0.2.0", "fixed")
    assert path.read_bytes() != upgrade_slugs.slug(kind, "0.2.0").read_bytes()
    with started(kind, tmp_path, environment) as hello:
        place(hello, path)
        assert install(hello, "0.2.0").startswith("{ok,")
        assert hello.get("/")[1].endswith(b" build=fixed\n")


@ALL
def test_migrating_tells_what_it_would_do(kind, tmp_path, environment):
    tree = slugs.unpack(upgrade_slugs.slug(kind, "0.1.0", "migrating"), tmp_path / "app")
    assert list(tree.glob("lib/hello-0.1.0/priv/repo/migrations/2_*.exs"))
    assert list(tree.glob("lib/hello-0.1.0/ebin/Elixir.Ecto.Migrator.beam"))
    if kind in {"relx", "mix"}:
        with by_hand.started(kind, tree, environment) as hello:
            assert re.findall(r"migrated .*|^{.*", migrate(hello), re.MULTILINE) == [
                "migrated 1_create_lines.exs",
                "migrated 2_add_words.exs",
                "{1,2}",
            ]
            erlang(hello, 'os:putenv("HELLO_MIGRATE_SECONDS", "1")')
            assert migrate(hello).count("migrating: ") == 10
            erlang(hello, 'os:putenv("HELLO_MIGRATE", "raise")')
            assert "asked_to_raise" in migrate(hello)


def test_the_same_release_packed_in_other_ways(tmp_path):
    path = upgrade_slugs.slug("mix", "0.2.0")
    with tarfile.open(path) as usual, tarfile.open(upgrade_slugs.dotted(path)) as dotted:
        assert [f"./{name}" for name in usual.getnames()] == dotted.getnames()
    with tarfile.open(upgrade_slugs.systools_tar("0.2.0")) as tar:
        names = set(tar.getnames())
    assert {"releases/0.2.0/start.boot", "releases/0.2.0/relup", "releases/hello.rel"} <= names
    assert not {"releases/0.2.0/env.sh", "bin/hello"} & names
    with pytest.raises((tarfile.TarError, EOFError)):
        slugs.unpack(upgrade_slugs.truncated(path), tmp_path / "app")


@BOTH
def test_the_load_sees_a_restart(kind, tmp_path, environment):
    port, tcp_port = int(environment["PORT"]), int(environment["TCP_PORT"])
    with (
        started(kind, tmp_path, environment) as hello,
        load.Http(port) as http,
        load.Connections(tcp_port, 3) as connections,
    ):
        hello.stop()
        with pytest.raises(AssertionError, match="3 of 3 connections lost"):
            connections.check()
        with by_hand.started(kind, hello.tree, environment), load.Http(port) as second:
            pass
    assert second.report.failed == {}
    assert http.report.sent == http.report.answered + sum(http.report.failed.values())
    assert http.report.failed
    assert http.report.longest_gap_ms > SHORTEST_START_MS
    with pytest.raises(AssertionError, match="the first request failed"), load.Http(port):
        pass


@contextlib.contextmanager
def started(kind, tmp_path, environment):
    """Start 0.1.0; a mix release first gets the RELEASES without which nothing can be changed."""
    tree = slugs.unpack(upgrade_slugs.slug(kind, "0.1.0"), tmp_path / "app")
    if kind == "mix":
        releases = tree / "releases"
        arguments = f"[], '{releases}', '{releases}/0.1.0/hello.rel', []"
        create = f":ok = :release_handler.create_RELEASES({arguments})"
        assert by_hand.run_command(tree, environment, "eval", create).returncode == 0
    with by_hand.started(kind, tree, environment) as hello:
        yield hello


def place(hello, path):
    """Add the files of a release that the running one lacks, and announce it to the node."""
    other = slugs.unpack(path, hello.tree.with_name(path.name))
    version = (other / "releases" / "start_erl.data").read_text().split()[1]
    for source in (*other.glob("lib/*"), other / "releases" / version):
        target = hello.tree / source.relative_to(other)
        if not target.exists():
            shutil.copytree(source, target)
    shutil.rmtree(other)
    known = erlang(hello, "[V || {_, V, _, _} <- release_handler:which_releases()]")
    if f'"{version}"' not in known:
        rel = hello.tree / "releases" / version / "hello.rel"
        assert erlang(hello, f'release_handler:set_unpacked("{rel}", [])').startswith("{ok,")


def install(hello, version):
    return erlang(hello, f'release_handler:install_release("{version}", [{{update_paths, true}}])')


def migrate(hello):
    """Migrate, and return what it says: to the caller with mix, to the node's output with relx."""
    log = hello.tree.parent / f"{hello.tree.name}.log"
    before = log.stat().st_size
    folder = 'filename:join(code:priv_dir(hello), "repo/migrations")'
    repo = "hd(element(2, application:get_env(hello, ecto_repos)))"
    run = f"'Elixir.Ecto.Migrator':run({repo}, {folder}, up, [{{all, true}}])"
    said = erlang(hello, f"list_to_tuple({run})")
    if hello.kind == "relx":  # the node writes in order, and not before it answers
        erlang(hello, 'io:format("that was all~n")')
        until(lambda: b"that was all" in log.read_bytes()[before:], "the node says no more")
    return log.read_bytes()[before:].decode() + said


def erlang(hello, expression):
    """Evaluate Erlang on the node by the release's own script; return what that says."""
    if hello.kind == "relx":
        done = hello.command("eval", f"{expression}.")
    else:
        rpc = (
            f'{{:ok, tokens, _}} = :erl_scan.string(~C"""\n{expression}.\n""")\n'
            "{:ok, parsed} = :erl_parse.parse_exprs(tokens)\n"
            "{:value, value, _} = :erl_eval.exprs(parsed, [])\n"
            ':io.format("~0p~n", [value])'
        )
        done = hello.command("rpc", rpc)
    return (done.stdout + done.stderr).removesuffix("\n").replace(", ", ",")


def version_of(hello):
    """Return the version that answers HTTP, none where nothing does."""
    with contextlib.suppress(OSError, http.client.HTTPException):
        return hello.get("/")[1].split()[0].decode().removeprefix("version=")
    return None
