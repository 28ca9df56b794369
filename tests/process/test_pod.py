"""What Kubernetes is told of a replica, by a real agent, and that nothing waits for it."""

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import suppress

import psutil
import pytest

from support import small_slugs
from support.platform import ask
from support.told_pod import OURS, POD, TELL_SECONDS, ToldPod
from support.wait import until

NOTICED_SECONDS = 2.0
"""A boot or a stop that takes so much longer than one without Kubernetes would be noticed."""

FIRST_IN_LINE = ("chrt", "--rr", "1")
"""For a boot that fails: its agent has 3 s for the Event (entrypoint.pod), other tests or not."""

FAULTS = {
    "refused": lambda api: api.refuse(),
    "deaf": lambda api: api.deaf(),
    "hangs": lambda api: api.hang(),
    "forbidden": lambda api: api.fail(403),
    "busy": lambda api: api.fail(429, headers={"Retry-After": "2"}),
    "broken": lambda api: api.fail(500),
}


@pytest.fixture
def first_in_line() -> Sequence[str]:
    """Return what to prefix a command with so that it gets a processor at once, where allowed."""
    asked = [shutil.which(FIRST_IN_LINE[0]) or "false", *FIRST_IN_LINE[1:], "true"]
    allowed = subprocess.run(asked, capture_output=True, check=False).returncode == 0
    return FIRST_IN_LINE if allowed else ()


def pod(api):
    return api.get("Pod", POD["metadata"]["name"])


def condition(api):
    return ToldPod(api, POD["metadata"]["name"]).condition


def until_condition(api, replica, *wanted):
    until(
        lambda: condition(api) == wanted,
        lambda: f"{wanted}, not {pod(api)}: {replica.log}",
        TELL_SECONDS,
    )


def until_told(replica):
    """Wait until the agent knows that its pod says it, which is after the pod does."""

    def shown():
        return json.loads(replica.verb("status", "--json").stdout)["pod"]

    until(lambda: shown()["told_at"], lambda: f"{shown()}: {replica.log}", TELL_SECONDS)


def reasons(api):
    return [event["reason"] for event in api.events()]


def test_a_ready_replica_is_shown_on_its_pod(platform, api, boot_in_pod):
    digest = platform.deploy(small_slugs.serving(), "41")
    replica = boot_in_pod().until_ready()
    until_condition(api, replica, "True", "Ready")
    metadata = pod(api)["metadata"]
    assert metadata["labels"][f"{OURS}deploy"] == "41"
    assert metadata["annotations"][f"{OURS}slug-digest"] == digest
    assert api.events() == []
    until_told(replica)
    status = json.loads(replica.verb("status", "--json").stdout)["pod"]
    assert (status["pod"], status["problem"]) == ("default/hello-7f9-x2k", None)
    (line,) = [line for line in replica.verb("status").stdout.splitlines() if "  pod " in line]
    assert line.split()[:4] == ["pod", "default/hello-7f9-x2k,", "told", "at"]


def test_a_drain_and_a_stop_take_the_condition_away(platform, api, boot_in_pod):
    platform.deploy(small_slugs.serving())
    replica = boot_in_pod(DRAIN_SECONDS="60", GRACE_SECONDS="90").until_ready()
    until_condition(api, replica, "True", "Ready")
    assert replica.verb("drain").returncode == 0
    until_condition(api, replica, "False", "Draining")
    assert replica.verb("drain", "--undo").returncode == 0
    until_condition(api, replica, "True", "Ready")
    replica.term()
    until_condition(api, replica, "False", "Stopping")
    replica.signal(signal.SIGTERM)  # the drain need not be waited for
    assert replica.wait() == 0


def test_a_boot_that_fails_is_an_event(platform, api, boot_in_pod, first_in_line):
    platform.deploy(b"no slug at all")
    replica = boot_in_pod(wrapper=first_in_line)
    assert replica.wait() == os.EX_DATAERR
    (event,) = api.events()
    assert (event["reason"], event["type"]) == ("BootFailed", "Warning")
    assert event["message"].startswith("cannot ")
    assert event["involvedObject"]["name"] == POD["metadata"]["name"]


def test_a_pod_does_not_stay_ready_when_its_next_container_does_not_boot(
    platform, api, boot_in_pod, first_in_line
):
    platform.deploy(small_slugs.serving(), "41")
    first = boot_in_pod().until_ready()
    until_condition(api, first, "True", "Ready")
    first.end()
    platform.deploy(b"no slug at all", "42")
    again = boot_in_pod(wrapper=first_in_line)
    assert again.wait() == os.EX_DATAERR
    assert condition(api) == ("False", "BootFailed")
    assert sorted(reasons(api)) == ["BootFailed", "CutOff"]


def test_a_run_that_was_cut_off_is_an_event_of_the_next_one(platform, api, boot_in_pod):
    platform.deploy(small_slugs.serving())
    first = boot_in_pod().until_ready()
    until_condition(api, first, "True", "Ready")
    first.end()
    again = boot_in_pod().until_ready()
    until(lambda: reasons(api) == ["CutOff"], lambda: again.log, TELL_SECONDS)
    # the agent after this one has it from PID 1 as well, and the API knows it already
    agent = again.agent_pid
    os.kill(agent, signal.SIGKILL)
    until(lambda: again.agent() not in {None, agent}, lambda: again.log)
    again.until_ready()
    until_condition(api, again, "True", "Ready")
    assert reasons(api) == ["CutOff"]


def test_a_readiness_that_is_lost_is_shown(platform, api, boot_in_pod):
    platform.deploy(small_slugs.serving(), config={"STATUS": "200"})
    replica = boot_in_pod(READY_CHECK="http:/health").until_ready()
    until_condition(api, replica, "True", "Ready")
    ask(replica, "/503", "POST")
    until_condition(api, replica, "False", "NotReady")


@pytest.mark.parametrize("fault", FAULTS)
def test_an_api_in_trouble_delays_neither_boot_nor_stop(fault, platform, api, boot_in_pod):
    platform.deploy(small_slugs.serving())
    FAULTS[fault](api)
    # at the same time, so that what else the machine does slows both of them
    without, replica = platform.boot(), boot_in_pod()
    without.until_ready()
    replica.until_ready(NOTICED_SECONDS)
    until(lambda: replica.events("cannot tell pod"), lambda: replica.log, TELL_SECONDS)
    without.term()
    replica.term()
    assert without.wait() == 0
    assert replica.wait(NOTICED_SECONDS) == 0
    assert len(replica.events("cannot tell pod")) == 1


def test_a_failed_boot_waits_a_moment_for_an_api_that_hangs_and_no_longer(
    platform, api, boot_in_pod
):
    api.hang()
    platform.deploy(b"no slug at all")
    without, replica = platform.boot(), boot_in_pod()
    assert without.wait() == os.EX_DATAERR
    assert replica.wait(3 + NOTICED_SECONDS) == os.EX_DATAERR


def test_the_state_is_right_once_the_api_answers_again(platform, api, boot_in_pod):
    platform.deploy(small_slugs.serving())
    api.fail(503)
    replica = boot_in_pod().until_ready()
    until(lambda: replica.events("cannot tell pod"), lambda: replica.log, TELL_SECONDS)
    assert condition(api) is None
    api.heal()
    until(lambda: condition(api) == ("True", "Ready"), lambda: replica.log, 2 * TELL_SECONDS)


def test_no_account_is_no_matter_and_is_said_once(platform):
    platform.deploy(small_slugs.serving())
    replica = platform.boot(
        settings={"KUBERNETES_SERVICE_HOST": "127.0.0.1", "KUBERNETES_SERVICE_PORT": "1"}
    ).until_ready()
    (said,) = replica.events("our pod is not told")
    assert said["severity"] == "INFO"
    assert f"{replica.root}/var/run/secrets/kubernetes.io/serviceaccount/token" in said["message"]
    assert json.loads(replica.verb("status", "--json").stdout)["pod"] is None
    assert replica.term().wait() == 0


def test_it_can_be_turned_off(platform, api, boot_in_pod):
    platform.deploy(small_slugs.serving())
    replica = boot_in_pod(KUBERNETES_REPORTS="none").until_ready()
    replica.term().wait()
    assert api.requests == []


def test_the_token_is_in_no_argv_and_no_log(platform, api, boot_in_pod):
    platform.deploy(small_slugs.serving())
    replica = boot_in_pod()
    seen = set()
    until(
        lambda: seen.update(_commands_below(replica.pid)) or condition(api),
        lambda: replica.log,
        TELL_SECONDS,
        every=0.01,
    )
    assert any("run_agent.cluster.worker" in command for command in seen)
    assert not any(api.token in command for command in seen)
    assert api.token not in replica.log


def _commands_below(pid: int) -> Iterator[str]:
    for child in psutil.Process(pid).children(recursive=True):
        with suppress(psutil.Error):
            yield " ".join(child.cmdline())
