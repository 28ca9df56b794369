"""OpenSSH's client and a replica in a container."""

import shutil
import subprocess

import pytest

from support.need import need
from support.ssh import OPTIONS, client_environ
from support.ssh_replica import argv, ssh, until_open
from support.wait import PATIENCE_SECONDS, until


@pytest.fixture
def opened(host):
    """Boot a release into which a key may log in."""
    return host.boot_open()


def test_commands_and_terminals(opened):
    replica, key = opened
    line = "pwd; id -u; echo $RELEASE_NODE; cat; echo oh >&2; exit 42"
    done = ssh(replica, key, "--", line, input=b"in\0put")
    assert (done.returncode, done.stdout) == (42, b"/app\n0\nhello@127.0.0.1\nin\0put")
    assert done.stderr == b"oh\n"
    assert ssh(replica, key, "--", "kill -KILL $$").returncode == 255
    terminal = ssh(replica, key, "-tt", "--", "tty; stty size; exit 7")
    assert terminal.returncode == 7
    assert terminal.stdout.startswith(b"/dev/pts/")


def test_files_go_both_ways(opened, tmp_path):
    replica, key = opened
    need(shutil.which("scp"), "OpenSSH's scp")
    content = bytes(range(256)) * 4096
    (tmp_path / "there").write_bytes(content)
    copy(replica, key, tmp_path / "there", "root@127.0.0.1:/tmp/there")
    assert replica.exec("stat", "--format=%s", "/tmp/there").stdout == f"{len(content)}\n"
    copy(replica, key, "root@127.0.0.1:/tmp/there", tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == content


def copy(replica, key, source, target):
    known = OPTIONS | {"UserKnownHostsFile": str(replica.root / "known_hosts")}
    options = [f"-o{name}={value}" for name, value in known.items()]
    subprocess.run(
        ["scp", "-F", "none", *options, "-P", replica.environ["SSH_PORT"], "-i", key.path,
         source, target],
        check=True, env=client_environ(), timeout=PATIENCE_SECONDS, stdin=subprocess.DEVNULL,
    )  # fmt: skip


def test_an_expression_on_the_node(opened):
    replica, key = opened
    done = ssh(replica, key, "-tt", "--", "gigalixir_run", "distillery-eval", "--", "'node()'")
    assert done.stdout.splitlines()[-1] == b':"hello@127.0.0.1"', done


def test_the_host_key_outlives_the_container_and_a_key_that_is_removed_does_not(host, opened):
    """A host key that is another one would be refused by the client."""
    replica, key = opened
    again = host.boot_again(replica, settings=dict(replica.environ))
    until_open(again, key)
    with subprocess.Popen(
        argv(again, key, "--", "echo in; exec cat"), stdin=subprocess.PIPE,
        stdout=subprocess.PIPE, env=client_environ(),
    ) as session:  # fmt: skip
        assert session.stdout.readline() == b"in\n"
        host.admit()
        session.wait(PATIENCE_SECONDS)
    assert b"Permission denied" in ssh(again, key, "--", "true").stderr


def test_a_stop_ends_sessions_and_what_they_left(opened):
    replica, key = opened
    with subprocess.Popen(
        argv(replica, key, "--", "setsid --fork sleep 600; echo in; exec cat"),
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=client_environ(),
    ) as session:  # fmt: skip
        assert session.stdout.readline() == b"in\n"
        assert replica.container.stop(20) == 0
        assert session.wait(PATIENCE_SECONDS) != 0
    until(lambda: not replica.alive(), "nothing is left")
