"""What Kubernetes is told of a real release: how a change of its version ended, and what befell it.

A whole replica, in a pod of the API fake, with the rights that the example gives it.
"""

import calendar
import json
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from support import cgroup, upgrade_slugs
from support.cluster import example_rules
from support.kubernetes_api import KubernetesApi
from support.need import need
from support.platform import Platform, until_kept, volume
from support.replica import Replica
from support.told_pod import ToldPod
from support.upgrading import NODE_SECONDS, QUICK, change, deploy, label, status
from support.wait import until

POD = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "hello-7f9-x2k"}}

TIME = "%Y-%m-%dT%H:%M:%SZ"

STALE_SECONDS = 600
"""From this age on a list of SSH keys that cannot be fetched is worth an Event."""

ALMOST_STALE_SECONDS = STALE_SECONDS - 10
"""The age of the kept list as a replica boots on it: young enough, but not for long."""

LIMIT_MIB = 256
EATS_ON_THE_NODE = 'byte_size(:binary.copy("x", 1_000_000_000))'
OUT_OF_MEMORY = f"the release was killed by the kernel, out of memory: limit {LIMIT_MIB} MiB, peak "

Boot = Callable[..., Replica]


@pytest.fixture
def api() -> Iterator[KubernetesApi]:
    """Give an API that knows our pod, and lets it do what the example does."""
    with KubernetesApi() as api:
        api.add(POD)
        api.rules = example_rules()
        yield api


@pytest.fixture
def told(api: KubernetesApi) -> ToldPod:
    return ToldPod(api, POD["metadata"]["name"])


@pytest.fixture
def boot(platform: Platform, api: KubernetesApi, told: ToldPod, tmp_path: Path) -> Boot:
    """Boot the current deploy in the pod, each time on the same volume, until the pod says so."""
    root = tmp_path / "pod"
    account = api.mount(root) | {"POD_NAME": POD["metadata"]["name"]}

    def boot(*, settings=None, **options) -> Replica:
        settings = QUICK | account | (settings or {})
        replica = platform.boot(root=root, settings=settings, **options)
        replica.until_ready(NODE_SECONDS)
        told.until_ready(lambda: replica.log)
        return replica

    return boot


# -- changes of the version -----------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["mix", "relx"])
def test_each_change_of_the_version_is_told_by_an_event_and_annotations(platform, boot, told, kind):
    digest = deploy(platform, kind, "0.1.0")
    replica = until_kept(boot(settings={"UPGRADE_VERIFY_SECONDS": "5"}), digest)
    assert told.annotations == {"version": "0.1.0", "slug-digest": digest}
    assert told.labels == {"version": "0.1.0", "deploy": label("0.1.0")}

    deploy(platform, kind, "0.2.0", "no_relup")
    require_in_vain(replica, told, 10, "refused", "UpgradeRefused")
    broken = upgrade_slugs.truncated(upgrade_slugs.slug(kind, "0.2.0")).read_bytes()
    platform.deploy(broken, version=label("0.2.0"))
    require_in_vain(replica, told, 11, "failed, nothing changed", "UpgradeFailed")
    deploy(platform, kind, "0.2.0", "hanging")  # it never becomes ready
    event = require_in_vain(replica, told, 12, "failed and recovered", "RolledBack")
    assert event["message"].endswith("; 0.1.0 serves again")

    newer = deploy(platform, kind, "0.2.0")
    require_done(replica, told, "upgrade", "UpgradeDone", "0.2.0 serves; it was 0.1.0")
    upgraded = told.annotations
    assert (upgraded["version"], upgraded["slug-digest"]) == ("0.2.0", newer)
    assert told.labels == {"version": "0.2.0", "deploy": label("0.2.0")}

    require_done(replica, told, "downgrade", "RolledBack", "0.1.0 serves; it was 0.2.0")
    back = told.annotations
    assert (back["version"], back["slug-digest"]) == ("0.1.0", digest)
    assert told.labels == {"version": "0.1.0", "deploy": label("0.1.0")}
    told.until_ready(lambda: replica.log)


def require_in_vain(replica, told, code, verdict, reason):
    """Upgrade in vain, and require the pod to say so and else what it said; return the Event."""
    labels, before = told.labels, told.annotations
    ended = change(replica, "upgrade")
    assert (ended.code, ended.outcome["verdict"]) == (code, verdict), (ended, replica.log)
    event = require_event(replica, told, reason, "Warning", ended)
    assert told.labels == labels
    assert told.annotations == before | last(replica, "upgrade", verdict)
    return event


def require_done(replica, told, verb, reason, message):
    """Change the version, and require the pod to tell of that."""
    before = int(time.time())
    ended = change(replica, verb, *(["0.1.0"] if verb == "downgrade" else ()))
    assert (ended.code, ended.outcome["message"]) == (0, message), (ended, replica.log)
    require_event(replica, told, reason, "Normal", ended)
    assert last(replica, verb, "done").items() <= told.annotations.items()
    assert before <= seconds(told.annotations["hot-upgraded-at"]) <= time.time()


def require_event(replica, told, reason, kind, ended):
    """Require one Event, of that kind, that says what was said to who asked for the change."""
    event = told.until_happened(reason, lambda: replica.log)
    assert (event["type"], event["message"]) == (kind, ended.outcome["message"])
    assert event["firstTimestamp"] >= status(replica)["last_change"]["at"]
    return event


def last(replica, verb, verdict):
    """Return the annotations of a change that ended when `status` says so."""
    at = status(replica)["last_change"]["at"]
    return {"last-operation": verb, "last-verdict": verdict, "last-operation-at": at}


def seconds(text):
    return calendar.timegm(time.strptime(text, TIME))


# -- the keys -------------------------------------------------------------------------------------


def test_keys_that_a_controller_does_not_tell_for_ten_minutes_are_an_event(
    platform, boot, told, reserved
):
    """The list is kept on the volume, with the time when it was fetched: long ago."""
    ssh = {"SSH_PORT": str(reserved.free()), "SSH_KEYS_SECONDS": "1"}
    platform.controller.ssh_keys = ["ssh-ed25519 " + "A" * 68 + " me"]
    digest = deploy(platform, "mix", "0.1.0")
    first = until_kept(boot(settings=ssh), digest)
    kept = volume(first.root) / "ssh_keys.json"
    until(kept.exists, lambda: first.log)
    assert first.term().wait() == 0
    fetched_at = time.time() - ALMOST_STALE_SECONDS
    kept.write_text(json.dumps(json.loads(kept.read_text()) | {"fetched_at": fetched_at}))
    platform.controller.fault("ssh_keys", "status", 503)
    replica = boot(settings=ssh)
    event = told.until_happened("SshKeysStale", lambda: replica.log)
    assert event["type"] == "Warning"
    assert "503" in event["message"]
    assert re.search(r"; the list is \d+ min old$", event["message"]), event
    age = seconds(event["firstTimestamp"]) - fetched_at
    assert age > STALE_SECONDS - 2, "both are told in whole seconds"
    told.until_ready(lambda: replica.log)  # it may have been told before the release was ready


# -- memory ---------------------------------------------------------------------------------------


@pytest.fixture
def memory() -> Iterator[Path]:
    """Give a control group whose memory ends soon."""
    need(not Path("/proc/swaps").read_text().splitlines()[1:], "a machine without swap")
    with cgroup.group("memory") as folder:
        (folder / "memory.limit_in_bytes").write_text(str(LIMIT_MIB << 20))
        yield folder


def test_a_release_that_is_killed_for_memory_and_started_again_is_an_event(
    platform, boot, told, memory
):
    deploy(platform, "mix", "0.1.0")
    replica = boot(settings={"RESTART": "on-failure"}, wrapper=cgroup.entered(memory))
    eat_memory(replica)
    require_out_of_memory(replica, told)
    replica.until_ready(NODE_SECONDS)
    told.until_ready(lambda: replica.log)


def test_a_container_that_ended_for_memory_is_an_event_of_the_next_one(
    platform, api, boot, told, memory
):
    deploy(platform, "mix", "0.1.0")
    replica = boot(wrapper=cgroup.entered(memory))
    api.refuse()  # the agent ends with the container: it may tell, but need not
    eat_memory(replica)
    assert replica.wait(NODE_SECONDS) == 137
    ended = time.time()
    api.listen()
    event = require_out_of_memory(boot(), told)
    assert seconds(event["firstTimestamp"]) <= ended


def eat_memory(replica):
    """Have the node take more than there is, once no worker runs, which would be killed first."""
    until(lambda: not psutil.Process(replica.agent_pid).children(), lambda: replica.log)
    replica.verb("distillery_eval", EATS_ON_THE_NODE, timeout=NODE_SECONDS)


def require_out_of_memory(replica, told):
    event = told.until_happened("OutOfMemory", lambda: replica.log)
    assert event["type"] == "Warning"
    assert event["message"].startswith(OUT_OF_MEMORY)
    return event
