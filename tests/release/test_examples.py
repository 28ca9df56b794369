"""The example application, started by hand as run-agent is to start it."""

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from support import by_hand, slugs
from support.wait import until

KINDS = ("relx", "mix", "distillery1", "distillery2")

HELD_SECONDS = 2.0
"""For so long a stop that is held up is watched: twice what an orderly one takes."""

UNUSUAL = 'a "quoted" \\ ${HOME} & $(x)\n\tzweite Zeile: žluťoučký 😀\r\n'


@pytest.mark.parametrize("kind", KINDS)
def test_serves_and_stops_in_order(kind, tmp_path, environment):
    node = environment["RELEASE_NODE"]
    with by_hand.started(kind, by_hand.app(kind, tmp_path), environment) as hello:
        line = f"version=0.1.0 node={node} nodes= count=%d greeting=Grüße\n"
        assert hello.get("/") == (200, (line % 1).encode())
        assert hello.get("/") == (200, (line % 2).encode())
        assert hello.get("/nowhere")[0] == 404
        assert hello.stop() == 0
    assert not (hello.tree / "erl_crash.dump").exists()


@pytest.mark.parametrize("kind", ["relx", "mix"])
def test_a_connection_is_kept_for_many_requests(kind, tmp_path, environment):
    with (
        by_hand.started(kind, by_hand.app(kind, tmp_path), environment) as hello,
        contextlib.closing(hello.connect_http()) as connection,
    ):
        for method in ("GET", "HEAD", "GET"):
            connection.request(method, "/env/PORT", headers={"Cookie": "x" * 12_000})
            response = connection.getresponse()
            body = response.read()
            assert response.headers["Content-Length"] == str(len(environment["PORT"]))
            assert body == (b"" if method == "HEAD" else environment["PORT"].encode())
            assert response.headers["Connection"] == "keep-alive"
        connection.request("POST", "/", body=b"x")
        assert connection.getresponse().status == 405


@pytest.mark.parametrize("kind", ["relx", "mix"])
def test_each_line_connection_has_its_own_state(kind, tmp_path, environment):
    node = environment["RELEASE_NODE"]
    with (
        by_hand.started(kind, by_hand.app(kind, tmp_path), environment) as hello,
        hello.connect_line() as first,
        hello.connect_line() as second,
        first.makefile("rw", encoding="utf-8", newline="\n") as one,
        second.makefile("rw", encoding="utf-8", newline="\n") as two,
    ):
        for stream, number, text in ((one, 1, "hé"), (one, 2, ""), (two, 1, "x y"), (one, 3, "z")):
            stream.write(f"{text}\n")
            stream.flush()
            assert stream.readline() == f"0.1.0 {node} {number} {text}\n"
        one.write("quit\r\n")
        one.flush()
        assert one.readline() == ""


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("locale", ["C.UTF-8", "C"])
def test_the_environment_arrives_byte_for_byte(kind, locale, tmp_path, environment):
    environment |= {"UNUSUAL": UNUSUAL, "EMPTY": "", "LC_ALL": locale, "GREETING": "plain"}
    with by_hand.started(kind, by_hand.app(kind, tmp_path), environment) as hello:
        assert hello.get("/env/UNUSUAL") == (200, UNUSUAL.encode())
        assert hello.get("/env/EMPTY") == (200, b"")
        assert hello.get("/env/NOT_SET")[0] == 404


@pytest.mark.parametrize("kind", ["relx", "mix"])
def test_many_connections_at_once(kind, tmp_path, environment):
    with (
        by_hand.started(kind, by_hand.app(kind, tmp_path), environment) as hello,
        contextlib.ExitStack() as stack,
    ):
        connections = [stack.enter_context(hello.connect_line()) for _ in range(300)]
        for connection in connections:
            connection.sendall(b"x\n")
        for connection in connections:
            assert connection.recv(1024).endswith(b" 1 x\n")


@pytest.mark.parametrize("kind", ["relx", "mix"])
def test_fault_a_start_that_crashes(kind, tmp_path, environment):
    environment["HELLO_START"] = "crash"
    with by_hand.started(kind, by_hand.app(kind, tmp_path), environment, port=None) as hello:
        assert hello.process.wait(by_hand.READY_SECONDS) == 1


@pytest.mark.parametrize("kind", ["relx", "mix"])
def test_fault_a_worker_without_a_port(kind, tmp_path, environment):
    environment["HELLO_PORT"] = "none"
    with by_hand.started(kind, by_hand.app(kind, tmp_path), environment, port="TCP_PORT") as hello:
        with pytest.raises(ConnectionRefusedError):
            hello.get("/")
        assert hello.stop() == 0


@pytest.mark.parametrize("kind", ["relx", "mix"])
def test_fault_a_stop_that_is_held_up(kind, tmp_path, environment):
    environment["HELLO_STOP"] = "slow"
    with by_hand.started(kind, by_hand.app(kind, tmp_path), environment) as hello:
        hello.process.send_signal(signal.SIGTERM)
        with pytest.raises(subprocess.TimeoutExpired):
            hello.process.wait(HELD_SECONDS)
        assert hello.get("/env/PORT")[0] == 200


@pytest.mark.parametrize("kind", ["relx", "mix"])
def test_fault_orphans(kind, tmp_path, environment):
    environment |= {"HELLO_ORPHANS": "3", "MARK": str(tmp_path)}
    orphans = []
    try:
        with by_hand.started(kind, by_hand.app(kind, tmp_path), environment) as hello:
            orphans = until(  # one that execs right now shows no environment
                lambda: len(found := orphans_of(tmp_path)) == 3 and found, "three orphans"
            )
            assert all(os.getsid(orphan.pid) == orphan.pid for orphan in orphans)
            assert hello.stop() == 0
        assert all(orphan.is_running() for orphan in orphans)
    finally:
        for orphan in orphans:
            orphan.kill()


def orphans_of(mark: Path) -> list[psutil.Process]:
    return [p for p in psutil.process_iter(["name", "environ"]) if is_orphan(p, mark)]


def is_orphan(process: psutil.Process, mark: Path) -> bool:
    # A process of another user, or one that is gone, has no environment to show.
    environ = process.info["environ"] or {}
    return process.info["name"] == "sleep" and environ.get("MARK") == str(mark)


def test_mix_wants_its_secret_only_where_it_is_told_to(tmp_path, environment):
    del environment["SECRET_KEY_BASE"]
    environment["HELLO_REQUIRE_SECRET"] = "1"
    with by_hand.started("mix", by_hand.app("mix", tmp_path), environment, port=None) as hello:
        assert hello.process.wait(by_hand.READY_SECONDS) == 1
    log = (tmp_path / "app.log").read_text()
    assert "the environment lacks SECRET_KEY_BASE" in log
    environment["SECRET_KEY_BASE"] = "there"
    with by_hand.started("mix", hello.tree, environment) as hello:
        assert hello.get("/")[0] == 200


def test_relx_takes_our_rendered_vm_args(tmp_path, environment):
    rendered = tmp_path / "run" / "vm.args"
    rendered.parent.mkdir()
    rendered.write_text(f"-name other@127.0.0.1\n-setcookie {environment['MY_COOKIE']}\n")
    environment["VMARGS_PATH"] = str(rendered)
    with by_hand.started("relx", by_hand.app("relx", tmp_path), environment) as hello:
        assert b" node=other@127.0.0.1 " in hello.get("/")[1]
        assert hello.command("ping").stdout == "pong\n"
        assert hello.command("eval", "node().").stdout == "'other@127.0.0.1'\n"
        assert hello.command("pid").stdout == f"{hello.process.pid}\n"


@pytest.mark.parametrize("kind", KINDS)
def test_files_by_which_a_kind_is_known(kind, tmp_path):
    tree = by_hand.app(kind, tmp_path)
    marks = {
        "relx": ("bin/hello-0.1.0", "bin/nodetool", "bin/install_upgrade.escript"),
        "mix": ("releases/0.1.0/env.sh", "releases/0.1.0/elixir"),
        "distillery1": ("bin/hello_loader.sh", "bin/nodetool", "releases/0.1.0/libexec"),
        "distillery2": (
            "bin/hello_rc_exec.sh",
            "releases/0.1.0/config.boot",
            "releases/0.1.0/libexec",
        ),
    }
    known_as = [name for name, paths in marks.items() if all((tree / p).exists() for p in paths)]
    assert known_as == [kind]
    assert (tree / "releases" / "RELEASES").exists() == (kind != "mix")
    [erl_call] = tree.glob("erts-*/bin/erl_call")
    assert os.access(erl_call, os.X_OK)


@pytest.mark.parametrize("kind", ["relx", "mix"])
def test_the_same_sources_give_the_same_slug(kind, tmp_path):
    again = tmp_path / "again.tar.gz"
    build = (sys.executable, slugs.EXAMPLE / "build.py", kind, "0.1.0", again)
    subprocess.run(build, timeout=slugs.BUILD_SECONDS, check=True)
    assert again.read_bytes() == slugs.slug(kind).read_bytes()
    assert list(tmp_path.iterdir()) == [again]


def test_another_version_and_another_compression(tmp_path, environment):
    path = slugs.slug("relx", "0.2.0", ".tar.zst")
    with by_hand.started("relx", slugs.unpack(path, tmp_path / "app"), environment) as hello:
        assert hello.get("/")[1].startswith(b"version=0.2.0 ")
        assert (hello.tree / "releases" / "start_erl.data").read_text().split()[1] == "0.2.0"
