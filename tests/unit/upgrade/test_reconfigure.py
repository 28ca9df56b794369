"""What differs between two environments, by name, and what a reason may show."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from run_agent.errors import RunAgentError
from run_agent.model import Secret
from run_agent.node import Node
from run_agent.release import Kind, Release
from upgrade import reconfigure
from upgrade.reconfigure import Differences, Reconfiguration, compare

VM_ARGS = """\
# -setcookie ${COMMENTED}
-name ${MY_NODE_NAME}
+P $PROCESSES
-env POOL ${POOL_SIZE}
"""


def test_equal_environments_have_nothing_to_do():
    assert compare({"A": "1"}, {"A": "1"}) == Differences()
    assert compare({"A": "1"}, {"A": "1"}).names == ()


def test_names_are_told_in_order_and_never_values():
    differences = compare(
        {"B": "old secret", "C": "gone", "D": "same"}, {"B": "new", "A": "n", "D": "same"}
    )
    assert differences == Differences(set=("A", "B"), unset=("C",))
    assert differences.names == ("A", "B", "C")
    assert "secret" not in repr(differences)


def test_an_empty_value_is_no_missing_one():
    assert compare({"A": ""}, {}) == Differences(unset=("A",))
    assert compare({}, {"A": ""}) == Differences(set=("A",))


def test_what_the_start_alone_reads_wants_a_restart():
    before = {"PROCESSES": "1", "POOL_SIZE": "2", "COMMENTED": "3"}
    differences = compare(before, {"PROCESSES": "9", "COMMENTED": "9", "ERL_FLAGS": "9"}, [VM_ARGS])
    assert differences.restart == ("ERL_FLAGS", "POOL_SIZE", "PROCESSES")
    assert differences.hot == ("COMMENTED", "ERL_FLAGS", "POOL_SIZE", "PROCESSES")


@pytest.mark.parametrize("name", sorted(reconfigure.FIXED))
def test_what_names_the_node_is_not_even_set(name):
    differences = compare({name: "a"}, {name: "b"})
    assert (differences.hot, differences.restart) == ((), (name,))


def test_a_value_that_is_no_text_waits_for_a_restart():
    assert compare({}, {"BYTES": "\udcff"}).restart == ("BYTES",)


@given(st.dictionaries(st.sampled_from("ABCD"), st.text()),
       st.dictionaries(st.sampled_from("ABCD"), st.text()))  # fmt: skip
def test_a_plan_leads_from_one_environment_to_the_other(before, after):
    differences = compare(before, after)
    reached = {**before, **{name: after[name] for name in differences.set}}
    for name in differences.unset:
        del reached[name]
    assert reached == after
    assert set(differences.restart) <= set(differences.names)


def wanted(before, after, tree=Path("/nowhere"), kind=Kind.RELX):
    node = Node("n@h", Secret("c"), {}, Path("/nowhere"))
    return Reconfiguration(node, Release(kind, "hello", tree), tree, before, after)


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("s3cret", "cannot parse s3cret"),
        ("ecto://me:passw0rd@db/x", 'bad url "ecto://me:passw0rd@db/x"'),
        ("ecto://me:passw0rd@db/x", "the password passw0rd is too short"),
        ('a "quoted" one', 'argument error: "a \\"quoted\\" one"'),
    ],
)
def test_a_reason_names_the_variable_in_place_of_its_value(value, reason):
    for change in (wanted({}, {"NAME": value}), wanted({"NAME": value}, {})):
        shown = reconfigure._redacted(reason, change, compare(change.env_before, change.env_after))
        assert "$NAME" in shown
        for piece in ("s3cret", "passw0rd", "quoted"):
            assert piece not in shown


def test_values_that_name_other_variables_are_replaced_as_at_a_start(tmp_path):
    (tmp_path / "sys.config").write_text('[{hello, [{greeting, "${GREETING}"}]}].')
    env = {"RELX_REPLACE_OS_VARS": "true", "GREETING": "<${INNER:-ä}>", "INNER": "1"}
    change = wanted(env, env | {"INNER": ""}, tmp_path)
    _, before, now = reconfigure._how(change, tmp_path, tmp_path)
    assert (before, now) == (
        '[{hello, [{greeting, "<1>"}]}].',
        '[{hello, [{greeting, "<ä>"}]}].',
    )
    circle = wanted(env, env | {"INNER": "${GREETING}"}, tmp_path)
    with pytest.raises(RunAgentError, match=r"nothing has changed: .*GREETING.* in a circle") as no:
        reconfigure._how(circle, tmp_path, tmp_path)
    assert no.value.exit_code == 11


def test_relx_prefers_the_source_then_the_original(tmp_path):
    change = wanted({}, {}, tmp_path)
    replacing = wanted({"RELX_REPLACE_OS_VARS": "true"}, {}, tmp_path)
    (tmp_path / "sys.config").write_text("plain")
    assert reconfigure._template(change, tmp_path, tmp_path) == ("plain", False)
    assert reconfigure._template(replacing, tmp_path, tmp_path) == ("plain", True)
    (tmp_path / "sys.config.orig").write_text("original")
    assert reconfigure._template(replacing, tmp_path, tmp_path) == ("original", True)
    (tmp_path / "sys.config.src").write_text("source")
    assert reconfigure._template(change, tmp_path, tmp_path) == ("source", True)


def test_no_value_is_shown_by_a_repr():
    assert "s3cret" not in repr(wanted({"A": "s3cret"}, {"A": "s3cret"}))
