"""What our pod is told where the API holds its answer, and by an agent that comes after another."""

import json
import os
import signal

import pytest

from support import small_slugs, tarballs
from support.kubernetes_api import KubernetesApi
from support.replica import Replica
from support.told_pod import POD, TELL_SECONDS, ToldPod
from support.wait import until

HOLDS = {"hangs": KubernetesApi.hang, "deaf": KubernetesApi.deaf}

ROUNDS = 5
"""On a machine that is busy enough even what nobody waits for may end first: not so often."""


@pytest.fixture
def told(api: KubernetesApi) -> ToldPod:
    return ToldPod(api, POD["metadata"]["name"])


@pytest.mark.parametrize("fault", HOLDS)
def test_no_boot_waits_for_what_is_being_told(fault, platform, api, boot_in_pod):
    """Each boot has an Event to tell at once; a try at that fails after 5 s or more."""
    platform.deploy(small_slugs.serving())
    cut_off(boot_in_pod().until_ready())
    HOLDS[fault](api)

    def is_ready_first() -> bool:
        replica = boot_in_pod().until_ready()
        failed = replica.until_said("cannot tell pod", TELL_SECONDS)
        [ready] = [event for event in replica.events() if event["message"] == "ready"]
        cut_off(replica)
        return ready["time"] < failed["time"]

    assert any(is_ready_first() for _ in range(ROUNDS))


@pytest.mark.parametrize("fault", HOLDS)
def test_no_stop_waits_for_what_is_being_told(fault, platform, api, boot_in_pod, told):
    platform.deploy(small_slugs.serving())

    def ends_first() -> bool:
        api.listen()
        api.heal()
        replica = boot_in_pod(DRAIN_SECONDS="1").until_ready()
        told.until_ready(lambda: replica.log)
        HOLDS[fault](api)
        assert replica.term().wait() == 0
        said = replica.events("cannot tell pod")
        replica.err.unlink()
        return not said

    assert any(ends_first() for _ in range(ROUNDS))


def cut_off(replica: Replica) -> None:
    """Kill everything of it; the log of the next one begins anew."""
    replica.end()
    replica.err.unlink()


def test_an_agent_after_another_does_not_tell_again_what_the_api_has_forgotten(
    platform, api, boot_in_pod, told
):
    platform.deploy(small_slugs.serving())
    boot_in_pod().until_ready().end()
    replica = boot_in_pod().until_ready()
    happened = told.until_happened("CutOff", lambda: replica.log)
    told.until_ready(lambda: replica.log)
    api.remove("Event", happened["metadata"]["name"])  # as it does after an hour
    api.requests.clear()
    kill_agent(replica)
    until(
        lambda: any(request.status for request in api.requests),
        lambda: f"nothing was told: {replica.log}",
        TELL_SECONDS,
    )
    assert transition(api) == replica.get("/readyz").body["since"]
    until_told_of(replica)
    assert [request.method for request in api.requests] == ["PATCH"]
    assert api.events() == []


def kill_agent(replica: Replica) -> None:
    agent = replica.agent_pid
    os.kill(agent, signal.SIGKILL)
    until(lambda: replica.agent() not in {None, agent}, lambda: replica.log)


def until_told_of(replica: Replica) -> None:
    """Wait until its agent is through with what it had to tell."""

    def rests() -> bool:
        shown = json.loads(replica.verb("status", "--json").stdout)["pod"]
        return shown["told_at"] is not None and shown["waiting"] == 0

    until(rests, lambda: replica.log, TELL_SECONDS)


def transition(api: KubernetesApi) -> str:
    """Return since when the release is ready, as the pod says."""
    pod = api.get("Pod", POD["metadata"]["name"])
    assert pod is not None
    [condition] = pod["status"]["conditions"]
    return str(condition["lastTransitionTime"])


def test_a_boot_that_fails_tells_no_value_of_the_configuration(platform, api, boot_in_pod):
    script = tarballs.file(".profile.d/a.sh", b'export "$DATABASE_URL"; exit 1\n')
    config = {"DATABASE_URL": "ecto://user:s3cret-password@db/x"}
    platform.deploy(small_slugs.serving(script), config=config)
    replica = boot_in_pod()
    assert replica.wait() == os.EX_DATAERR
    (error,) = replica.events("cannot source the slug's .profile.d/a.sh")
    assert "export: `$DATABASE_URL': not a valid identifier" in error["message"]
    told = f"{replica.log} {api.get('Pod', POD['metadata']['name'])} {api.events()}"
    assert "s3cret" not in told


def test_a_boot_that_takes_long_says_on_its_pod_what_it_waits_for(platform, api, boot_in_pod):
    platform.controller.refuse()
    replica = boot_in_pod()

    def said() -> str | None:
        conditions = (api.get("Pod", POD["metadata"]["name"]) or {}).get("status", {})
        return next((each["message"] for each in conditions.get("conditions", ())), None)

    until(said, lambda: f"nothing was told: {replica.log}", TELL_SECONDS)
    assert said().startswith("waiting for the current deploy from http://")
