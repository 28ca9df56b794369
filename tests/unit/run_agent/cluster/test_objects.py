"""Reports and Events as the API accepts them, whatever they say."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from run_agent.cluster import objects
from run_agent.cluster.account import Account
from run_agent.cluster.report import Condition, Event, Report
from support.kubernetes_objects import NAME, VALUE

AT = 1_700_000_000.75
POD = Account("10.0.0.1", 443, Path("/x"), "shop", "hello-1")
LABEL = "run-agent.dev/version"


def a_report(version="1.2.0", **annotations):
    condition = Condition(status=True, reason="Ready", message="hello serves")
    return Report({"version": version}, annotations, condition)


def label_of(version):
    return objects.patch(a_report(version), AT)["metadata"]["labels"][LABEL]


def an_event(**changes):
    said = {"reason": "UpgradeDone", "message": "1 to 2", "at": AT} | changes
    return Event(**said)


def test_a_report():
    report = Report(
        {"version": "1.2.0", "example.org/x": "y"},
        {"slug-digest": "abc", "hot-upgraded-at": None},
        Condition(status=False, reason="Draining", message="by hand"),
    )
    assert objects.patch(report, AT) == {
        "metadata": {
            "labels": {"run-agent.dev/version": "1.2.0", "example.org/x": "y"},
            "annotations": {
                "run-agent.dev/slug-digest": "abc",
                "run-agent.dev/hot-upgraded-at": None,
            },
        },
        "status": {
            "conditions": [
                {
                    "type": "run-agent.dev/release",
                    "status": "False",
                    "reason": "Draining",
                    "message": "by hand",
                    "lastTransitionTime": "2023-11-14T22:13:20Z",
                }
            ]
        },
    }


def test_an_event():
    event = objects.event(POD, an_event(warning=True))
    name = event["metadata"].pop("name")
    assert name.startswith("hello-1.")
    assert event == {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"namespace": "shop"},
        "involvedObject": {
            "apiVersion": "v1",
            "kind": "Pod",
            "namespace": "shop",
            "name": "hello-1",
        },
        "type": "Warning",
        "reason": "UpgradeDone",
        "message": "1 to 2",
        "source": {"component": "run-agent"},
        "reportingComponent": "run-agent",
        "reportingInstance": "hello-1",
        "firstTimestamp": "2023-11-14T22:13:20Z",
        "lastTimestamp": "2023-11-14T22:13:20Z",
        "count": 1,
    }
    assert objects.event(POD, an_event())["type"] == "Normal"


def test_the_same_event_has_the_same_name_and_no_other_has():
    events = [an_event(), an_event(reason="Else"), an_event(message="2 to 3"), an_event(at=AT + 1)]
    names = [objects.event_name(POD, event) for event in events]
    assert len(set(names)) == len(names)
    assert objects.event_name(POD, an_event()) == names[0]


@pytest.mark.parametrize(
    ("version", "label"),
    [
        ("1.2.0+build.5", "1.2.0-build.5"),
        ("-rc1_", "rc1"),
        ("v1 / größe", "v1-gr-e"),
        ("€", ""),
        ("x" * 70, "x" * 63),
        ("x" * 62 + "-y", "x" * 62),
        (None, None),
    ],
)
def test_a_label_is_made_what_the_api_accepts(version, label):
    assert label_of(version) == label


@given(st.text())
def test_any_text_makes_a_label(text):
    assert VALUE.fullmatch(label_of(text))


@given(pod=st.from_regex(NAME, fullmatch=True), said=st.text())
def test_any_event_has_a_name_that_the_api_accepts(pod, said):
    account = Account("10.0.0.1", 443, Path("/x"), "shop", pod)
    assert NAME.fullmatch(objects.event_name(account, an_event(message=said)))


@pytest.mark.parametrize("text", ["short", "x" * 1024, "x" * 1025, "ä" * 600, "\ud800" * 2000])
def test_messages_stay_within_what_the_api_takes(text):
    message = objects.event(POD, an_event(message=text))["message"].encode()
    assert len(message) <= 1024
    assert message.startswith(text[:100].encode(errors="replace"))
    condition = Condition(status=True, reason="Ready", message=text)
    said = objects.patch(Report({}, {}, condition), AT)["status"]["conditions"][0]["message"]
    assert said.encode() == message


def test_a_long_annotation_is_cut():
    patch = objects.patch(a_report(verdict="x" * 10_000), AT)
    assert len(patch["metadata"]["annotations"]["run-agent.dev/verdict"].encode()) == 4096


@pytest.mark.parametrize(
    ("reason", "said"), [("It is so", "Itisso"), ("", "Unknown"), ("A" * 200, "A" * 128)]
)
def test_a_reason_is_one_word(reason, said):
    assert objects.event(POD, an_event(reason=reason))["reason"] == said


def test_what_the_api_drops_is_noticed():
    patch = objects.patch(a_report(digest="d", gone=None), AT)
    whole = {
        "metadata": {"labels": {LABEL: "1.2.0"}, "annotations": {"run-agent.dev/digest": "d"}},
        "status": {"conditions": [{"type": "run-agent.dev/release"}]},
    }
    assert objects.lost(patch, whole) == []
    assert objects.lost(patch, {}) == [LABEL, "run-agent.dev/digest", "run-agent.dev/release"]
    assert objects.lost({}, {}) == []
