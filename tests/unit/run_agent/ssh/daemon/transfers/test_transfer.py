"""Which commands and subsystems are file transfers."""

import pytest

from run_agent.ssh.daemon.transfers import transfer


@pytest.mark.parametrize(
    "command",
    [
        "scp -t .",
        "scp -f -- -odd",
        "scp -r -p -d -v -q -t /tmp/x",
        "scp -rpf 'a b' c",
        "scp -v -f *.log",
        'scp -t "~root/x"',
    ],
)
def test_the_far_side_of_scp_is_ours(command):
    assert transfer.wanted(command, None)


@pytest.mark.parametrize(
    "command",
    [
        None,
        "",
        "scp",
        "scp a b",
        "scp -t",
        "scp -t a b",
        "scp -t -f a",
        "scp -S evil -t a",
        "scp -t x; rm -rf y",
        "scp -t x && y",
        "scp -t x\ny",
        "scp -f $HOME/x",
        "scp -f `id`",
        'scp -f "$(id)"',
        "scp -f x > y",
        "scp -f 'x",
        "scp -f x\\",
        "scpx -f x",
        "/usr/bin/scp -f x",
        "echo scp -f x",
    ],
)
def test_everything_else_is_for_the_shell(command):
    assert not transfer.wanted(command, None)


def test_sftp_is_the_only_subsystem():
    assert transfer.wanted(None, "sftp")
    assert not transfer.wanted(None, "netconf")
    assert not transfer.wanted("scp -t x", "netconf")
