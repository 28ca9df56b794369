"""How a client is told which signal ended a command."""

import signal

import pytest

from run_agent.ssh.daemon.sessions import signals


@pytest.mark.parametrize(
    ("number", "name"),
    [
        (signal.SIGKILL, "KILL"),
        (signal.SIGBUS, "BUS@run-agent"),
        (signal.SIGRTMIN, "RTMIN@run-agent"),
        (signal.SIGRTMIN + 1, "35@run-agent"),
        (99, "99@run-agent"),
    ],
)
def test_every_number_has_a_name_and_only_the_rfcs_have_no_domain(number, name):
    assert signals.name(int(number)) == name
