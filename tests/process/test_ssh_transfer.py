"""Files over SSH, with every client that people use: SFTP and scp, their errors, their audit."""

import asyncio
import contextlib
import hashlib
import os
import shlex
import shutil
import stat
import subprocess
from pathlib import Path

import asyncssh
import paramiko
import psutil
import pytest

from run_agent.ssh.daemon.transfers import transfer
from run_agent.ssh.files import TELL, USUAL_ORDER
from support.need import need
from support.ports import Ports
from support.replica import AS_NOBODY, NOBODY
from support.ssh import client_environ, daemons, make_key
from support.wait import PATIENCE_SECONDS, holds, until

GIB = 1 << 30

NAMES = (
    b"plain",
    b"two words",
    b"a'b\"c",
    b"$(touch pwned);`id`|&*?[x]",
    b"line\nbreak",
    b"\xff\xfe",
)

SMALL_DISK = "size=1m"


@pytest.fixture(scope="module")
def key(tmp_path_factory):
    return make_key(tmp_path_factory.mktemp("key"))


@pytest.fixture(scope="module")
def host(tmp_path_factory, key):
    folder, ports = tmp_path_factory.mktemp("host"), Ports()
    home = folder / "home"
    home.mkdir()
    for daemon in daemons(folder, ports):
        started = daemon(key, env={"HOME": str(home), "PATH": os.environ["PATH"]})
        started.home = home
        yield started
    ports.close()


@pytest.fixture
def app(host):
    """Return the app folder, where sessions start; empty."""
    yield host.layout.app
    for entry in host.layout.app.iterdir():
        shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()


def run(argv, **options):
    usual = {"capture_output": True, "env": client_environ(), "timeout": 3 * PATIENCE_SECONDS}
    return subprocess.run(argv, check=False, **usual | options)


@pytest.fixture
def start(tmp_path, ports):
    yield from daemons(tmp_path, ports)


def scp(host, key, *arguments, ssh_options=None, **options):
    return run(host.client(*arguments, key=key, program="scp", options=ssh_options), **options)


def sftp(host, key, *lines, **options):
    argv = host.client("-b", "-", "root@127.0.0.1", key=key, program="sftp")
    return run(argv, input="\n".join(lines).encode(), **options)


def there(path):
    return f"root@127.0.0.1:{path}"


@pytest.fixture
def paramiko_sftp(host, key):
    client = paramiko.SSHClient()
    client.set_missing_host_key_policy(paramiko.AutoAddPolicy())
    client.connect(
        "127.0.0.1", host.port, "root", key_filename=str(key.path), allow_agent=False,
        look_for_keys=False, timeout=PATIENCE_SECONDS,
    )  # fmt: skip
    with contextlib.closing(client):
        yield client.open_sftp()


def make_tree(folder):
    (folder / "deep" / "er").mkdir(parents=True)
    for number, name in enumerate(NAMES):
        (folder / "deep" / os.fsdecode(name)).write_bytes(os.urandom(number * 10_000))
    tool = folder / "deep" / "er" / "tool"
    tool.write_text("#!/bin/sh\n")
    tool.chmod(0o751)
    os.utime(tool, (1_000_000_000, 1_100_000_000))
    return folder


def contents(folder):
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


# -- both protocols of OpenSSH's scp ------------------------------------------------------------


@pytest.mark.parametrize("protocol", [(), ("-O",)], ids=["sftp", "scp"])
def test_scp_copies_a_tree_there_and_back_with_modes_and_times(host, key, app, tmp_path, protocol):
    here = make_tree(tmp_path / "here")
    if protocol:  # there a newline in a name arrives as \^J, as with OpenSSH's own server
        (here / "deep" / "line\nbreak").unlink()
    up = scp(host, key, *protocol, "-r", "-p", str(here), there("up"))
    assert (up.returncode, up.stderr) == (0, b"")
    assert contents(app / "up") == contents(here)
    tool = (app / "up" / "deep" / "er" / "tool").stat()
    assert (stat.S_IMODE(tool.st_mode), int(tool.st_mtime)) == (0o751, 1_100_000_000)
    down = scp(host, key, *protocol, "-r", "-p", there("up"), str(tmp_path / "back"))
    assert (down.returncode, down.stderr) == (0, b"")
    assert contents(tmp_path / "back") == contents(here)
    back = (tmp_path / "back" / "deep" / "er" / "tool").stat()
    assert (stat.S_IMODE(back.st_mode), int(back.st_mtime)) == (0o751, 1_100_000_000)


def test_scp_expands_wildcards_and_home_as_a_shell_does(host, key, app, tmp_path):
    for name in ("a.log", "b.log", "c.txt"):
        (app / name).write_text(name)
    (host.home / "mine").write_text("mine")
    assert scp(host, key, "-O", there("*.log"), str(tmp_path)).returncode == 0
    assert scp(host, key, "-O", there("~/mine"), str(tmp_path)).returncode == 0
    assert {path.name for path in tmp_path.iterdir()} == {"a.log", "b.log", "mine"}


@pytest.mark.parametrize("protocol", [(), ("-O",)], ids=["sftp", "scp"])
def test_scp_copies_names_that_are_no_text(host, key, app, tmp_path, protocol):
    here = os.fsencode(tmp_path) + b"/caf\xe9"
    Path(os.fsdecode(here)).write_bytes(b"content")
    up = scp(host, key, *protocol, here, b"root@127.0.0.1:up\xe8")
    assert (up.returncode, up.stderr) == (0, b"")
    assert os.listdir(os.fsencode(app)) == [b"up\xe8"]  # noqa: PTH208 - as bytes
    down = scp(host, key, *protocol, b"root@127.0.0.1:up\xe8", here + b"2")
    assert (down.returncode, down.stderr) == (0, b"")
    assert Path(os.fsdecode(here + b"2")).read_bytes() == b"content"
    assert b"\\udc" not in host.err.read_bytes(), "that is no text for whoever reads the log"


@pytest.mark.parametrize("protocol", [(), ("-O",)], ids=["sftp", "scp"])
def test_scp_says_what_is_not_there(host, key, tmp_path, protocol):
    failed = scp(host, key, *protocol, there("missing"), str(tmp_path))
    assert failed.returncode == 1
    assert b"No such file or directory" in failed.stderr


@pytest.mark.parametrize("protocol", [(), ("-O",)], ids=["sftp", "scp"])
def test_a_transfer_that_cannot_start_says_why_and_the_connection_goes_on(
    start, key, tmp_path, protocol
):
    host = start(key, env={"PATH": os.environ["PATH"]})
    options = {"ControlPath": str(tmp_path / "c")}
    with subprocess.Popen(
        host.client("-N", "-M", key=key, options=options), env=client_environ()
    ) as master:
        try:
            until((tmp_path / "c").exists, "there is no master")
            host.layout.environment.write_text("{")
            failed = scp(host, key, *protocol, there("x"), str(tmp_path), ssh_options=options)
            assert failed.returncode != 0
            assert b"run-agent: cannot start the file transfer: cannot read" in failed.stderr
            host.write_launch({"PATH": os.environ["PATH"]})
            assert host.ssh("--", "echo on", key=key, options=options).stdout == b"on\n"
            assert len(host.events("login opened")) == 1
        finally:
            master.kill()


def test_a_shell_command_that_begins_like_scp_is_the_shell_s(host, key, app):
    (app / "victim").write_text("here")
    done = host.ssh("--", "scp -t x; cat victim", key=key)
    assert done.stdout.endswith(b"here")


# -- sftp ---------------------------------------------------------------------------------------


def test_sftp_does_what_its_commands_say(host, key, app, tmp_path):
    (tmp_path / "f").write_bytes(b"content")
    done = sftp(
        host, key, "pwd", f"put {tmp_path}/f", "rename f g", "ln g hard", "ln -s g soft",
        "chmod 600 g", "mkdir d", "rmdir d", "df", "cp g copied", "ls -l",
        f"get soft {tmp_path}/got", "rm hard",
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, b"")
    assert str(app.resolve()).encode() in done.stdout
    assert (tmp_path / "got").read_bytes() == (app / "copied").read_bytes() == b"content"
    assert (app / "soft").readlink().name == "g"
    assert stat.S_IMODE((app / "g").stat().st_mode) == 0o600
    assert {path.name for path in app.iterdir()} == {"g", "soft", "copied"}


def test_an_interrupted_copy_is_resumed_beyond_4_gib(host, key, app, tmp_path):
    size = 4 * GIB + 12_345
    tail = os.urandom(12_345)
    for whole, part in ((app / "big", tmp_path / "big"), (tmp_path / "up", app / "up")):
        for path, length in ((whole, 4 * GIB), (part, 4 * GIB - 54_321)):
            path.touch()
            os.truncate(path, length)
        with whole.open("ab") as file:
            file.write(tail)
    done = sftp(host, key, f"reget big {tmp_path}/big", f"reput {tmp_path}/up up")
    assert (done.returncode, done.stderr) == (0, b"")
    for path in (tmp_path / "big", app / "up"):
        assert path.stat().st_size == size
        with path.open("rb") as file:
            file.seek(4 * GIB)
            assert file.read() == tail


def test_a_large_file_takes_little_memory(host, key, app, tmp_path):
    (app / "big").touch()
    os.truncate(app / "big", 4 * GIB)
    argv = host.client(there("big"), str(tmp_path / "fifo"), key=key, program="scp")
    os.mkfifo(tmp_path / "fifo")
    with subprocess.Popen([*argv[:1], "-O", *argv[1:]], stderr=subprocess.DEVNULL) as client:
        taker = os.open(tmp_path / "fifo", os.O_RDONLY)
        try:
            for _ in range(64):
                assert os.read(taker, 1 << 20)
            # from here on nobody takes anything; who served before has long gone
            server = until(lambda: server_of(host), "no transfer process")
            both = [psutil.Process(pid) for pid in (host.pid, server)]
            holds(lambda: max(one.memory_info().rss for one in both) < 128 << 20, "memory", 1.5)
        finally:
            os.close(taker)
            client.terminate()
    until(lambda: server_of(host) is None, "the transfer goes on without a client")


def server_of(host):
    for pid in host.sessions():
        with contextlib.suppress(psutil.Error):
            if "run_agent.ssh.files" in psutil.Process(pid).cmdline():
                return pid
    return None


# -- other clients ------------------------------------------------------------------------------


def test_paramiko_has_names_that_are_no_text(paramiko_sftp, app):
    for name in NAMES:
        with paramiko_sftp.open(name, "wb") as file:
            file.write(name)
    assert {os.fsencode(path.name): path.read_bytes() for path in app.iterdir()} == {
        name: name for name in NAMES
    }
    paramiko_sftp.symlink("plain", "link")
    assert paramiko_sftp.readlink("link") == "plain"
    assert paramiko_sftp.stat("plain").st_size == len("plain")


def test_asyncssh_copies_both_ways(host, key, app, tmp_path):
    async def copy():
        async with (
            asyncssh.connect(
                "127.0.0.1", host.port, username="root", client_keys=[str(key.path)],
                known_hosts=None, config=None, agent_path=None,
            ) as connection,
            connection.start_sftp_client() as client,
        ):  # fmt: skip
            await client.put(str(here), "up", recurse=True)
            await client.get("up", str(tmp_path / "back"), recurse=True)
            await client.symlink("deep", "up/link")
            await asyncssh.scp((connection, "up/deep/plain"), str(tmp_path / "by-scp"))

    here = make_tree(tmp_path / "here")
    asyncio.run(asyncio.wait_for(copy(), PATIENCE_SECONDS))
    assert contents(tmp_path / "back") == contents(here)
    assert (app / "up" / "link").readlink().name == "deep"
    assert (tmp_path / "by-scp").exists()


@pytest.mark.parametrize("protocol", ["-sftp", "-scp"])
def test_pscp_copies_both_ways(host, key, app, tmp_path, protocol):
    need(shutil.which("pscp") and shutil.which("puttygen"), "PuTTY's pscp and puttygen")
    private = tmp_path / "key.ppk"
    run(["puttygen", str(key.path), "-o", str(private)])
    (tmp_path / "f").write_bytes(os.urandom(300_000))
    words = ["pscp", protocol, "-batch", "-hostkey", host_key(host), "-P", str(host.port),
             "-i", str(private)]  # fmt: skip
    for source, target in ((str(tmp_path / "f"), there("up")), (there("up"), f"{tmp_path}/back")):
        done = run([*words, source, target])
        assert done.returncode == 0, done.stderr
    assert (tmp_path / "f").read_bytes() == (tmp_path / "back").read_bytes()


def host_key(host):
    scanned = run(["ssh-keyscan", "-p", str(host.port), "127.0.0.1"]).stdout
    shown = run(["ssh-keygen", "-l", "-f", "-"], input=scanned).stdout
    return shown.split()[1].decode()


# -- faults -------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(app):
    need(os.geteuid() == 0, "root, to mount a small disk")
    disk = app / "small"
    disk.mkdir()
    if run(["mount", "-t", "tmpfs", "-o", SMALL_DISK, "tmpfs", str(disk)]).returncode != 0:
        need(False, "a machine that lets root mount")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True, timeout=PATIENCE_SECONDS)


def test_a_full_disk_fails_the_file_and_the_session_goes_on(
    paramiko_sftp, small_disk, app, host, key, tmp_path
):
    (tmp_path / "f").write_bytes(bytes(2 << 20))
    with (
        pytest.raises(OSError, match="No space left on device"),
        paramiko_sftp.open("small/f", "wb") as file,
    ):
        file.write(bytes(2 << 20))
    paramiko_sftp.remove("small/f")
    paramiko_sftp.open("small/g", "w").close()
    by_scp = scp(host, key, "-O", str(tmp_path / "f"), str(key.path), there("small"))
    assert by_scp.returncode == 1
    assert b"No space left on device" in by_scp.stderr
    assert (small_disk / "g").exists()
    until(
        lambda: host.events("transfer closed", error="No space left on device"),
        lambda: host.log,
    )


def test_what_the_account_may_not_is_refused_and_the_session_goes_on(tmp_path):
    need(os.geteuid() == 0 and shutil.which("sftp"), "root, to become nobody; OpenSSH's sftp")
    tmp_path.chmod(0o755)
    mine, free = tmp_path / "mine", tmp_path / "free"
    mine.mkdir(mode=0o755)
    free.mkdir()
    os.chown(free, NOBODY, NOBODY)
    program = tmp_path / "program"
    words = [*AS_NOBODY, *transfer.PROGRAM, "/", "sftp", USUAL_ORDER]
    program.write_text(f"#!/bin/sh\nexec {shlex.join(words)} {TELL}>/dev/null\n")
    program.chmod(0o755)
    lines = (f"-put {program} {mine}/f", f"-mkdir {mine}/d", f"-rm {program}",
             f"put {program} {free}/f")  # fmt: skip
    done = run(["sftp", "-b", "-", "-D", str(program)], input="\n".join(lines).encode())
    assert done.returncode == 0, done.stderr
    assert done.stderr.count(b"Permission denied") == 3
    assert (free / "f").stat().st_uid == NOBODY


def descriptors(host):
    return len(list(Path(f"/proc/{host.pid}/fd").iterdir()))


def test_a_client_that_vanishes_leaves_nothing_open(host, key, app, tmp_path):
    (tmp_path / "big").touch()
    os.truncate(tmp_path / "big", 4 * GIB)
    argv = host.client("-b", "-", "root@127.0.0.1", key=key, program="sftp")
    before = descriptors(host) if host.process else None
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL) as client:
        client.stdin.write(f"put {tmp_path}/big endless\n".encode())
        client.stdin.flush()
        started = lambda: (app / "endless").exists() and server_of(host)  # noqa: E731 - as below
        server = until(started, "the upload does not start")
        for process in psutil.Process(client.pid).children(recursive=True):
            process.kill()
        client.kill()
    until(lambda: not psutil.pid_exists(server), "the transfer's process is still there")
    until(
        lambda: before is None or descriptors(host) <= before,
        "the daemon keeps descriptors",
    )
    host.until_said("transfer closed", path=str(app.resolve() / "endless"))


# -- audit --------------------------------------------------------------------------------------


def test_each_file_and_change_is_in_the_audit(host, key, app, tmp_path):
    (tmp_path / "f").write_bytes(b"x" * 1000)
    assert sftp(host, key, f"put {tmp_path}/f audited", "rename audited kept").returncode == 0
    path = str(app.resolve() / "audited")
    closed = host.until_said("transfer closed", path=path)
    assert (closed["bytes"], closed["direction"]) == (1000, "write")
    assert closed["key_fingerprint"] == key.fingerprint
    changed = host.until_said("file change", path=path)
    assert (changed["operation"], changed["target"]) == ("rename", str(app.resolve() / "kept"))
    host.until_said("sftp closed", files_written=1, bytes_written=1000, changes=1)


def test_a_copy_of_many_files_does_not_drown_the_log(host, key, app, tmp_path):
    (tmp_path / "many").mkdir()
    for number in range(1000):
        (tmp_path / "many" / str(number)).touch()
    before = len(host.events())
    assert scp(host, key, "-O", "-r", str(tmp_path / "many"), there("many")).returncode == 0
    host.until_said("scp closed", files_written=1000)
    assert len(list((app / "many").iterdir())) == 1000
    assert len(host.events()) - before < 300
