"""The worker tells a pod over TLS, once: what it does, and what it says of every fault."""

import asyncio
import datetime as dt
import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from run_agent import process, settings
from run_agent.cluster import account, messages, objects, teller
from run_agent.cluster.messages import REPORT, Request
from run_agent.cluster.report import Condition, Event, Report
from run_agent.cluster.teller import ARGV, ask_worker
from run_agent.errors import RunAgentError
from support.kubernetes_api import ACCOUNT, KubernetesApi
from support.need import need
from support.wait import until

WORKER_SECONDS = 60.0
"""Longer than one takes on a loaded machine."""

READY = Condition(status=True, reason="Ready")
PATCH = {"apiGroups": [""], "resources": ["pods/status"], "verbs": ["patch"]}
CREATE = {"apiGroups": [""], "resources": ["events"], "verbs": ["create"]}
A_POD = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {"name": "hello-1", "labels": {"repo": "hello"}, "annotations": {"a": "b"}},
    "spec": {"containers": [{"name": "app", "image": "hello"}]},
    "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]},
}


class Bench:
    """An API with our pod, the account below `root`, and what asks a worker."""

    def __init__(self, api, root):
        self.api, self.root = api, root
        environ = api.mount(root) | {"HOSTNAME": "hello-1", "APP_KEY": "k"}
        self.account = account.find(settings.load(environ | {"RUN_AGENT_ROOT": str(root)}))
        api.add(A_POD)

    @property
    def folder(self):
        return self.root / ACCOUNT

    @property
    def pod(self):
        return self.api.get("Pod", "hello-1")

    def request(self, version="1.2", events=0, seconds=WORKER_SECONDS, **changes):
        report = Report({"version": version}, {"version": version}, READY)
        happened = [Event("UpgradeDone", f"upgrade {n}", 1_700_000_000 + n) for n in range(events)]
        told = tuple(objects.event(self.account, event) for event in happened)
        request = Request(self.account, objects.patch(report, 1_700_000_000), told, seconds)
        return replace(request, **changes)

    def ask(self, *version, **changes):
        return asyncio.run(ask_worker(self.request(*version, **changes), WORKER_SECONDS))

    def fails(self, **changes):
        """Ask, and return the one result there is, a failure."""
        [result] = self.ask(**changes)
        assert not result.done
        return result


@pytest.fixture(name="api")
def an_api():
    with KubernetesApi() as api:
        yield api


@pytest.fixture(name="bench")
def a_bench(api, tmp_path):
    return Bench(api, tmp_path)


# -- what it does


def test_the_pod_says_what_it_was_told_and_keeps_the_rest(bench):
    bench.api.rules = [PATCH, CREATE]
    results = bench.ask("1.2+x", events=2)
    assert [result.done for result in results] == [True] * 3
    assert results[0].what == REPORT
    pod = bench.pod
    assert pod["metadata"]["labels"] == {"repo": "hello", "run-agent.dev/version": "1.2-x"}
    assert pod["metadata"]["annotations"] == {"a": "b", "run-agent.dev/version": "1.2+x"}
    assert pod["spec"] == A_POD["spec"]
    ready, ours = pod["status"]["conditions"]
    assert ready["type"] == "Ready"
    assert (ours["type"], ours["status"]) == ("run-agent.dev/release", "True")
    events = bench.api.events()
    assert [event["message"] for event in events] == ["upgrade 0", "upgrade 1"]
    assert {event["involvedObject"]["uid"] for event in events} == {pod["metadata"]["uid"]}
    assert [request.method for request in bench.api.requests] == ["PATCH", "POST", "POST"]


def test_what_is_not_said_any_more_is_taken_away(bench):
    bench.ask("1.2")
    gone = Report({"version": None}, {"version": None}, READY)
    bench.ask(patch=objects.patch(gone, 0))
    assert bench.pod["metadata"]["labels"] == {"repo": "hello"}
    assert bench.pod["metadata"]["annotations"] == {"a": "b"}


def test_without_a_report_the_pod_stays_as_it_is(bench):
    before = bench.pod
    assert all(result.done for result in bench.ask(patch={}, events=1))
    assert bench.pod == before
    assert bench.api.events()[0]["involvedObject"]["uid"] == before["metadata"]["uid"]


def test_an_event_that_is_told_twice_exists_once(bench):
    bench.ask(events=1)
    assert all(result.done for result in bench.ask(events=1))
    assert len(bench.api.events()) == 1


def test_over_ipv6(tmp_path):
    try:
        api = KubernetesApi("::1")
    except OSError as error:
        need(condition=False, reason=f"IPv6 on loopback ({error})")
    with api:
        assert Bench(api, tmp_path).ask()[0].done


def test_nothing_in_our_environment_leads_it_astray(bench, monkeypatch, tmp_path):
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    for name in ("KUBECONFIG", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "SSLKEYLOGFILE"):
        monkeypatch.setenv(name, str(tmp_path / name))
    assert bench.ask()[0].done
    assert not (tmp_path / "SSLKEYLOGFILE").exists()


# -- what the API refuses


def test_who_may_not_patch_may_still_tell_events(bench):
    bench.api.rules, before = [CREATE], bench.pod
    report, event = bench.ask(events=1)
    assert (report.done, report.status) == (False, 403)
    assert 'cannot patch resource "pods/status"' in report.reason
    assert event.done
    assert bench.pod == before
    assert "uid" not in bench.api.events()[0]["involvedObject"]


def test_who_may_not_patch_names_the_pod_by_the_uid_that_was_given(bench):
    bench.api.rules = [CREATE]
    ours = replace(bench.account, uid=bench.pod["metadata"]["uid"])
    bench.ask(events=1, account=ours)
    assert bench.api.events()[0]["involvedObject"]["uid"] == bench.pod["metadata"]["uid"]


def test_who_may_not_tell_events_may_still_patch(bench):
    bench.api.rules = [PATCH]
    report, event = bench.ask(events=20)
    assert report.done
    assert event.status == 403
    assert 'cannot create resource "events"' in event.reason
    assert "run-agent.dev/version" in bench.pod["metadata"]["labels"]
    assert len(bench.api.requests) == 2


def test_a_pod_that_is_not_there_can_still_have_events(bench):
    stranger = replace(bench.account, pod="hello-2")
    report, event = bench.ask(account=stranger, events=1)
    assert (report.status, report.reason) == (404, 'pods "hello-2" not found')
    assert event.done


@pytest.mark.parametrize("status", [404, 405, 409])
def test_who_cannot_tell_one_event_tells_no_other(bench, status):
    bench.api.fail(status, match="POST")
    report, event = bench.ask(events=20)
    assert report.done
    assert (event.done, event.status) == (False, status)
    assert len(bench.api.requests) == 2


def test_an_event_that_the_api_will_never_take_is_not_in_the_way_of_others(bench):
    bench.api.fail(422, match="POST", times=1)
    results = bench.ask(events=2)
    assert [(result.done, result.status) for result in results[1:]] == [(False, 422), (True, 201)]


@pytest.mark.parametrize(
    "pod",
    [
        {"metadata": None},
        {"metadata": {}},
        {"metadata": {"uid": None, "labels": 7}, "status": None},
        {"metadata": "?", "status": {"conditions": ["?", {}]}},
        {"metadata": {}, "status": {"conditions": 7}},
    ],
)
def test_a_pod_in_a_strange_form_is_told_all_the_same(bench, pod):
    bench.api.garble(json.dumps(pod).encode(), match="PATCH")
    report, event = bench.ask(events=1)
    assert report.done
    assert report.reason.startswith("the API has dropped run-agent.dev/version")
    assert event.done
    [said] = bench.api.events()
    assert "uid" not in said["involvedObject"]


@pytest.mark.parametrize("status", [400, 409, 422])
def test_another_refusal(bench, status):
    bench.api.fail(status, match="PATCH")
    assert bench.fails().status == status


@pytest.mark.parametrize("status", [401, 429, 500, 503])
def test_who_cannot_answer_is_asked_nothing_else(bench, status):
    bench.api.fail(status)
    assert bench.fails(events=3).status == status
    assert len(bench.api.requests) == 1


@pytest.mark.parametrize(
    ("value", "seconds"), [("7", 7.0), ("86400", 600.0), ("soon", 0.0), ("-1", 0.0)]
)
def test_how_long_the_api_wants_to_be_left_alone(bench, value, seconds):
    bench.api.fail(429, headers={"Retry-After": value})
    assert bench.fails().retry_after == seconds


def test_an_event_alone_may_be_too_much(bench):
    bench.api.fail(429, headers={"Retry-After": "7"}, match="POST")
    report, event = bench.ask(events=3)
    assert report.done
    assert (event.status, event.retry_after) == (429, 7.0)
    assert len(bench.api.requests) == 2


def test_a_redirect_is_not_followed(bench):
    bench.api.fail(307, headers={"Location": f"{bench.account.url}/elsewhere"}, match="PATCH")
    assert bench.fails().status == 307
    assert len(bench.api.requests) == 1


@pytest.mark.parametrize("body", [b"<html>Sign in</html>", b"", b"[]", b"\xff", b"[" * 100_000])
def test_what_is_no_object_is_no_success(bench, body):
    bench.api.garble(body)
    result = bench.fails()
    assert (result.status, result.reason) == (200, "what came is no object of Kubernetes")


def test_an_error_that_is_no_object_is_one_all_the_same(bench):
    bench.api.garble(b"x" * 100_000, status=502)
    assert (bench.fails().status, bench.fails().reason) == (502, "without a word")


def test_what_is_dropped_on_the_way_is_said(bench):
    bench.api.drops.add("labels")
    [result] = bench.ask()
    assert result.done
    assert result.reason == "the API has dropped run-agent.dev/version"


# -- who does not answer


def test_nobody_listens(bench):
    bench.api.refuse()
    assert (bench.fails(events=1).status, bench.fails().reason) == (0, "connection refused")


@pytest.mark.parametrize("how", ["accepts only", "silent", "only headers", "dripping"])
def test_who_hangs_is_left_in_time(bench, how):
    match how:
        case "accepts only":
            bench.api.deaf()
        case "silent":
            bench.api.hang()
        case "only headers":
            bench.api.hang(after_headers=True)
        case "dripping":
            bench.api.drip(0.2)
    result = bench.fails(events=2, seconds=1.0)
    assert (result.status, result.reason) == (0, "no whole answer within 1 s")


def test_an_answer_that_is_cut_is_none(bench):
    bench.api.cut()
    result = bench.fails()
    assert result.status == 0
    assert result.reason


# -- token and certificate


def test_a_rotated_token_is_read_anew(bench):
    bench.api.rotate_token(remount=False)
    assert (bench.fails().status, bench.fails().reason) == (401, "Unauthorized")
    bench.api.remount()
    assert bench.ask()[0].done


def test_a_changed_authority_is_read_anew(bench):
    bench.api.rotate_certificate(remount=False)
    result = bench.fails()
    assert result.status == 0
    assert result.reason.startswith("the API's certificate is not accepted: unable to get ")
    assert not bench.api.requests  # the token was not shown
    bench.api.remount()
    assert bench.ask()[0].done


@pytest.mark.parametrize(
    ("hours", "said"), [(1, "certificate is not yet valid"), (-3, "certificate has expired")]
)
def test_clocks_that_do_not_agree(bench, hours, said):
    bench.api.rotate_certificate(valid_in=dt.timedelta(hours=hours))
    assert bench.fails().reason == f"the API's certificate is not accepted: {said}"


def test_an_authority_as_old_clusters_have_it(bench):
    bench.api.rotate_certificate(bare=True)
    assert bench.ask()[0].done


def test_a_certificate_of_somebody_else(bench):
    result = bench.fails(account=replace(bench.account, host="localhost"))
    assert "the API's certificate is not accepted: Hostname mismatch" in result.reason


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        ("token", b"", "token holds no token"),
        ("token", b"hush\r\nhush", "token holds no token"),
        ("token", b"hush hush", "token holds no token"),
        ("token", b"hush\x7f", "token holds no token"),
        ("token", "hüsh".encode(), "token holds no token"),
        ("token", None, "token: no such file or directory"),
        ("ca.crt", b"", "ca.crt holds no certificate"),
        ("ca.crt", b"rubbish", "ca.crt holds no certificate"),
        ("ca.crt", b"\xff", "ca.crt holds no certificate"),
        ("ca.crt", None, "ca.crt: no such file or directory"),
    ],
)
def test_files_that_are_of_no_use(bench, file, content, said):
    (bench.folder / file).unlink()
    if content is not None:
        (bench.folder / file).write_bytes(content)
    result = bench.fails()
    assert result.status == 0
    assert said.lower() in result.reason.lower()
    assert "hush" not in result.reason
    assert not bench.api.requests


def test_a_token_that_cannot_be_read(bench):
    (bench.folder / "token").unlink()
    (bench.folder / "token").mkdir()
    assert bench.fails().reason == f"cannot read {bench.folder}/token: Is a directory"


# -- the process


def test_nobody_sees_the_token(bench):
    bench.api.hang()
    child = subprocess.Popen(
        ARGV, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={}
    )
    with child:
        child.stdin.write(messages.request_text(bench.request(seconds=WORKER_SECONDS)))
        child.stdin.close()
        child.stdin = None
        until(lambda: bench.api.requests, "the API was asked", WORKER_SECONDS)
        shown = Path(f"/proc/{child.pid}/cmdline").read_bytes()
        own, score = (
            int(Path(f"/proc/{pid}/oom_score_adj").read_text()) for pid in (os.getpid(), child.pid)
        )
        niceness = psutil.Process(child.pid).nice()
        bench.api.heal()
        out, err = child.communicate(timeout=WORKER_SECONDS)
    assert bench.api.token.encode() not in shown + out + err
    assert err == b""
    assert score == min(own + 500, 1000)
    assert niceness > psutil.Process().nice()


def test_what_is_urgent_is_not_nice(bench):
    bench.api.hang()
    text = messages.request_text(bench.request(is_urgent=True))
    with subprocess.Popen(ARGV, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        child.stdin.write(text)
        child.stdin.close()
        until(lambda: bench.api.requests, "the API was asked", WORKER_SECONDS)
        niceness = psutil.Process(child.pid).nice()
        bench.api.heal()
        child.wait(WORKER_SECONDS)
    assert niceness == psutil.Process().nice()


def test_one_that_hangs_is_killed(bench):
    (bench.folder / "token").unlink()
    os.mkfifo(bench.folder / "token")  # whoever opens it waits for ever
    began = time.monotonic()
    with pytest.raises(RunAgentError, match="cannot wait longer than 1 s"):
        asyncio.run(ask_worker(bench.request(), 1.0))
    assert time.monotonic() - began < 10
    assert not psutil.Process().children()


def test_one_that_dies_says_of_what(bench):
    broken = replace(bench.request(), events=({"kind": "Event"},))
    with pytest.raises(RunAgentError, match=r"the worker ended with 70 \(KeyError: 'metadata'\)"):
        asyncio.run(ask_worker(broken, WORKER_SECONDS))


@pytest.mark.parametrize("said", ["hello", "", "null", "[7]", "[{}]"])
def test_one_that_talks_nonsense_is_a_failure_like_any_other(bench, monkeypatch, said):
    monkeypatch.setattr(teller, "ARGV", (sys.executable, "-I", "-c", f"print({said!r})"))
    with pytest.raises(RunAgentError, match="the worker gave no answer that can be read"):
        asyncio.run(ask_worker(bench.request(), WORKER_SECONDS))


def test_one_that_hangs_in_the_kernel_is_said(bench, monkeypatch):
    bench.api.hang()
    monkeypatch.setattr(process, "KILL_WAIT_SECONDS", 0.0)  # nobody is reaped so fast

    async def end():
        with pytest.raises(RunAgentError, match=r"cannot end process \d+: .* hangs in the kernel"):
            await ask_worker(bench.request(), 1.0)
        await _nobody_is_left()

    asyncio.run(end())


def test_nor_is_it_in_the_way_of_who_leaves(bench, monkeypatch):
    bench.api.hang()
    monkeypatch.setattr(process, "KILL_WAIT_SECONDS", 0.0)

    async def end():
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1.0):
                await ask_worker(bench.request(), WORKER_SECONDS)
        await _nobody_is_left()

    asyncio.run(end())


async def _nobody_is_left():
    """Let the loop reap its children."""
    await asyncio.to_thread(until, lambda: not psutil.Process().children(), "it is reaped")
