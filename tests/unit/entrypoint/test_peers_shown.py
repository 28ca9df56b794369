"""How connected nodes are shown and logged; tests/release asks real ones."""

import asyncio

import pytest

from entrypoint.commands.status import _nodes
from entrypoint.peers import LOGGED, SHOWN, Peers, Run, _tell
from entrypoint.replica import Facts, Replica
from run_agent import settings
from run_agent.model import Secret
from run_agent.node import Node

NAMES = tuple(f"app@10.0.{n // 256}.{n % 256}" for n in range(300))
AT = "2026-01-02T03:04:05Z"


@pytest.fixture
def node(tmp_path):
    return Node("app@10.1.1.1", Secret("c00kie"), env={}, run=tmp_path, erl_call=tmp_path)


def shown(node, names=(), **known):
    return Run(7, node, names, len(names), **{"answered_at": AT} | known).state()


def test_of_many_nodes_the_first_are_kept_and_all_are_counted(node):
    state = shown(node, NAMES)
    assert (state["count"], state["connected"]) == (300, list(NAMES[:SHOWN]))
    assert _nodes(state).endswith(f", {NAMES[SHOWN - 1]} and {300 - SHOWN} more")


@pytest.mark.parametrize(
    ("names", "known", "line"),
    [
        ((), {}, f"0 connected (asked {AT})"),
        (("a@b", "c@d"), {}, f"2 connected (asked {AT}): a@b, c@d"),
        (("a@b",), {"problem": "it hangs"}, f"1 connected (asked {AT}): a@b; it hangs"),
        ((), {"elsewhere": "port 5"}, f"0 connected (asked {AT}); port 5"),
        ((), {"problem": "it hangs", "elsewhere": "port 5"}, f"0 connected (asked {AT}); it hangs"),
        ((), {"answered_at": None, "problem": "it is down"}, "none known yet; it is down"),
        ((), {"answered_at": None}, "none known yet"),
    ],
)
def test_a_person_reads_them_in_a_line(node, names, known, line):
    assert _nodes(shown(node, names, **known)) == line


def test_where_there_is_no_node_nothing_is_shown():
    assert Run(7, None).state() is None


def test_the_log_is_not_flooded(caplog):
    caplog.set_level("INFO", "peers")
    _tell("connected", list(NAMES))
    assert len(caplog.records) == LOGGED + 1
    assert caplog.records[0].message == f"node {NAMES[0]} connected"
    assert caplog.records[-1].message == f"{300 - LOGGED} more nodes connected"


def test_without_a_release_or_a_minimum_nothing_waits(tmp_path):
    async def unready():
        return "the app"

    environ = {"RUN_AGENT_ROOT": str(tmp_path), "CONTROLLER_URL": "none"}
    replica = Replica(Facts("app"), release={"state": "none", "pid": None})

    def peers(**values):
        return Peers(settings.load(environ | values), replica, lambda: None)

    assert peers().gate(unready) is unready
    assert asyncio.run(peers(CLUSTER_MIN="3").gate(unready)()) == "the app"
    asyncio.run(peers().refresh())
    assert replica.nodes is None
