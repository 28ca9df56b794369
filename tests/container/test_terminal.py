"""A terminal on a container: `podman run -it`, and `podman exec -it` beside a release."""

import os

import pytest

from support import podman
from support.container_replica import QUIET
from support.containers import Container
from support.terminal import CTRL_C, on_terminal
from support.upgrading import serves

ON_TERMINAL = ("--interactive", "--tty")

PROMPT = r"iex\(hello@127\.0\.0\.1\)\d+> "


@pytest.fixture
def shell(image):
    """Run a shell as the release of a container that has a terminal."""
    bash = ("exec", "--", "bash", "--norc", "--noprofile")
    container = Container(*bash, settings=QUIET, options=ON_TERMINAL)
    try:
        with on_terminal(container.argv, env=os.environ) as terminal:
            yield terminal
    finally:
        podman.run("rm", "--force", "--time=0", container.name)
        container.end()


def test_keys_reach_the_release_which_is_in_the_foreground(shell):
    shell.until_shown(r"bash-5\S*# ")
    shell.type("echo on $(tty)\n")
    shell.until_shown("on /dev/pts/0")
    shell.type("sh -c 'echo a''sleep; exec sleep 600'\n")
    shell.until_shown("asleep")
    shell.type(CTRL_C)
    shell.type("echo code $?\n")
    shell.until_shown("code 130")
    shell.type("exit 4\n")
    assert shell.wait() == 4


def test_a_console_beside_the_release_ends_without_it(host):
    replica = host.boot_release()
    release = replica.release_pid
    argv = podman.argv("exec", *ON_TERMINAL, replica.container.name, "run-agent", "remote_console")
    with on_terminal(argv, env=os.environ) as console:
        console.until_shown(PROMPT)
        console.type("6 * 7\n")
        console.until_shown(r"(?m)^42")
        console.type(CTRL_C)
        console.until_shown("a\\)bort")
        console.type(CTRL_C)
        console.wait()
    assert replica.release_pid == release
    assert serves(replica) == "0.1.0"
    assert replica.is_ready()
