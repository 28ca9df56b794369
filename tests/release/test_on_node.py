"""Our programs on a real node, and what release_handler there says and does."""

import asyncio
import os
import shutil
import signal
import time

import pytest

from run_agent.errors import RunAgentError
from run_agent.model import Secret
from run_agent.node import Node
from run_agent.release import identify
from run_agent.release.erlang_term import Atom
from support import by_hand, slugs, upgrade_slugs
from support.wait import until
from upgrade import on_node, releases

ODD = {
    "ODD_TEXT": "Grüße, łódź 日本 \U0001f600",
    "ODD_MARKS": "\"'\\ ~p %% {}[]. \t\n\x01",
    "ODD_LONG": "x" * 100_000,
    "ODD_NUMBERS": "1,2,3",
}

CALLS_AT_ONCE = 20
DEADLINE_SECONDS = 1.0
QUICK_SECONDS = 5.0
"""More than the deadline, less than anything that would have missed it."""


class Hello:
    """A mix release that runs, and its node."""

    def __init__(self, release, run):
        self.env, self.tree, self.process = release.env, release.tree.resolve(), release.process
        self.run = run
        self.release = identify(release.tree, "hello")

    def node(self, *, cookie=None, by_tool=False):
        return Node(
            self.env["RELEASE_NODE"],
            Secret(cookie or self.env["RELEASE_COOKIE"]),
            env=self.env,
            run=self.run,
            erl_call=None if by_tool else self.release.erl_call,
            by_tool=self.release.evaluate,
        )

    def call(self, program, function, *arguments, **options):
        return asyncio.run(
            on_node.call(self.node(), self.run, program, function, *arguments, **options)
        )

    def serving(self):
        return asyncio.run(releases.serving(self.node()))

    def ask(self, step, *arguments):
        return asyncio.run(step(self.node(), self.run, *arguments))

    def evaluate(self, erlang):
        return asyncio.run(self.node().evaluate(erlang))

    def versions_with(self, library):
        known = "{_, Version, Libraries, _} <- release_handler:which_releases()"
        member = f'lists:member("{library}", Libraries)'
        return self.evaluate(f"[list_to_atom(Version) || {known}, {member}]")

    def statuses(self):
        return {known.version: known.status for known in self.serving().known}

    def place(self, variant="good"):
        """Put the files of 0.2.0 beside the running ones; return its .rel file."""
        new = slugs.unpack(upgrade_slugs.slug("mix", "0.2.0", variant), self.run / "new")
        for path in (*new.glob("lib/*"), new / "releases" / "0.2.0"):
            place = self.tree / path.relative_to(new)
            if not place.exists():
                shutil.copytree(path, place)
        return self.tree / "releases" / "0.2.0" / "hello.rel"

    def left_over(self):
        return list((self.run / "on_node").glob("*"))


@pytest.fixture
def hello(environment, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    with by_hand.started("mix", by_hand.app("mix", tmp_path), environment) as release:
        yield Hello(release, run)


def test_arguments_and_results_arrive_as_they_are(hello):
    pairs = list(ODD.items())
    assert hello.call("run_agent_environment", "put", pairs, []) == ([], list(ODD))
    before, missing = hello.call("run_agent_environment", "put", [], list(ODD))
    assert {on_node.text(name): on_node.text(value) for name, value in before} == ODD
    assert missing == []
    assert hello.evaluate('os:getenv("ODD_TEXT")') == "false"
    assert hello.left_over() == []


def test_nothing_of_a_program_stays_on_the_node(hello):
    hello.call("run_agent_environment", "put", [], [])
    loaded = '[M || {M, _} <- code:all_loaded(), lists:prefix("run_agent", atom_to_list(M))]'
    assert hello.evaluate(loaded) == "[]"


def test_a_program_that_fails_says_why_without_the_values(hello):
    with pytest.raises(RunAgentError, match=r"run_agent_releases:nope .*badkey.*nope,0") as caught:
        hello.call("run_agent_releases", "nope")
    assert caught.value.exit_code == os.EX_SOFTWARE
    secret = [(Atom("kernel"), ("s3cret", "v4lue"))]
    with pytest.raises(RunAgentError, match=r"error \{bad_generator,") as caught:
        hello.call("run_agent_configuration", "differences", secret)
    for shown in ("s3cret", "v4lue", ",".join(map(str, b"s3cret"))):
        assert shown not in str(caught.value)
    with pytest.raises(RunAgentError, match=r"^cannot make 9 permanent: the node has no such"):
        hello.ask(releases.make_permanent, "9")
    assert hello.left_over() == []


def test_many_may_call_at_once(hello):
    async def all_at_once():
        asked = [releases.serving(hello.node()) for _ in range(CALLS_AT_ONCE)]
        return await asyncio.gather(*asked)

    assert {serving.version for serving in asyncio.run(all_at_once())} == {"0.1.0"}
    assert hello.left_over() == []


def test_a_node_that_hangs_costs_no_more_than_the_deadline(hello):
    hello.process.send_signal(signal.SIGSTOP)  # start execs the VM
    try:
        begun = time.monotonic()
        with pytest.raises(RunAgentError, match="cannot wait longer than 1 s") as caught:
            hello.call("run_agent_releases", "relup", "/nowhere", deadline=DEADLINE_SECONDS)
        assert time.monotonic() - begun < QUICK_SECONDS
    finally:
        hello.process.send_signal(signal.SIGCONT)
    assert caught.value.exit_code == os.EX_TEMPFAIL
    until(lambda: asyncio.run(hello.node().ping()), "the node does not go on")
    assert hello.left_over() == []


def test_a_wrong_cookie_or_a_node_that_is_gone_is_said(hello):
    node = hello.node(cookie="wrong")
    with pytest.raises(RunAgentError, match="check that it is up and that its cookie") as caught:
        asyncio.run(releases.serving(node))
    assert caught.value.exit_code == os.EX_UNAVAILABLE
    hello.process.kill()
    hello.process.wait()
    with pytest.raises(RunAgentError, match="cannot reach the node") as caught:
        hello.serving()
    assert caught.value.exit_code == os.EX_UNAVAILABLE
    assert hello.left_over() == []


def test_without_erl_call_the_releases_script_calls_too(hello):
    node = hello.node(by_tool=True)
    pairs = [(name, value) for name, value in ODD.items() if name != "ODD_LONG"]

    async def both():
        call = on_node.call(node, hello.run, "run_agent_environment", "put", pairs, [], deadline=20)
        await call
        return await on_node.call(
            node, hello.run, "run_agent_environment", "put", [], ["ODD_TEXT"], deadline=20
        )

    [(name, value)], missing = asyncio.run(both())
    assert (on_node.text(name), on_node.text(value)) == ("ODD_TEXT", ODD["ODD_TEXT"])
    assert missing == []


def test_what_serves_is_told_with_its_tree(hello):
    serving = hello.serving()
    assert serving.root == hello.tree
    assert serving.erts == max(hello.tree.glob("erts-*")).name.removeprefix("erts-")
    assert serving.version == "0.1.0"
    [known] = serving.known
    assert (known.name, known.status) == ("hello", "permanent")


def test_a_release_without_release_handler_is_said(hello):
    hello.evaluate("supervisor:terminate_child(sasl_sup, release_handler)")
    with pytest.raises(RunAgentError, match="have sasl in the release"):
        hello.serving()


@pytest.mark.parametrize(
    ("variant", "restarts"), [("good", False), ("restarting", True), ("rebooting", True)]
)
def test_a_relup_tells_its_ways(hello, tmp_path, variant, restarts):
    new = slugs.unpack(upgrade_slugs.slug("mix", "0.2.0", variant), tmp_path / "new")
    relup = hello.ask(releases.relup, new / "releases" / "0.2.0" / "relup")
    assert relup.version == "0.2.0"
    assert relup.up_from == {"0.1.0": restarts}
    assert set(relup.down_to) == {"0.1.0"}


def test_a_relup_may_hold_any_term_or_be_none(hello, tmp_path):
    path = tmp_path / "relup"
    assert hello.ask(releases.relup, path) is None
    path.write_text('{"2",[{"1",[],[{apply,{m,f,[#{a => <<"b">>},1.5,$c,fun m:f/1]}}]}],[]}.')
    assert hello.ask(releases.relup, path).up_from == {"1": False}
    for bad in ("{", "[].", '{"2",[{"1"}],[]}.', '{"2",[],[]}.{"2",[],[]}.', '{"2",a,[]}.'):
        path.write_text(bad)
        with pytest.raises(RunAgentError, match=r"cannot read .*relup.*built again"):
            hello.ask(releases.relup, path)


def test_a_version_is_added_and_removed_and_no_file_goes(hello):
    rel_file = hello.place()
    files = sorted(hello.tree.rglob("*"))
    hello.ask(releases.remove, "0.2.0")  # not known yet: nothing
    hello.ask(releases.set_unpacked, rel_file)
    assert hello.statuses() == {"0.1.0": "permanent", "0.2.0": "unpacked"}
    # also those of the version with which the node began, although RELEASES had been missing
    assert hello.versions_with("hello-0.1.0") == "['0.1.0']"
    assert hello.versions_with("greeter-1.0.0") == "['0.2.0']"
    with pytest.raises(RunAgentError, match="the node knows it already"):
        hello.ask(releases.set_unpacked, rel_file)
    with pytest.raises(RunAgentError, match=r"cannot make 0\.2\.0 permanent: it is unpacked"):
        hello.ask(releases.make_permanent, "0.2.0")
    hello.ask(releases.make_permanent, "0.1.0")
    with pytest.raises(RunAgentError, match=r"cannot remove 0\.1\.0: it is the permanent version"):
        hello.ask(releases.remove, "0.1.0")
    hello.ask(releases.remove, "0.2.0")
    hello.ask(releases.remove, "0.2.0")
    assert hello.statuses() == {"0.1.0": "permanent"}
    assert sorted(hello.tree.rglob("*")) == sorted({*files, hello.tree / "releases" / "RELEASES"})


def test_a_rel_file_that_is_none_is_refused(hello, tmp_path):
    bad = tmp_path / "hello.rel"
    for content in ("", "{", "{release,1}."):
        bad.write_text(content)
        with pytest.raises(RunAgentError, match=r"cannot be read as a \.rel file"):
            hello.ask(releases.set_unpacked, bad)
    assert hello.statuses() == {"0.1.0": "permanent"}


def test_a_releases_file_that_a_full_disk_has_cut_is_made_anew(hello):
    rel_file, path = hello.place(), hello.tree / "releases" / "RELEASES"
    for content in ("", "%% coding: utf-8\n", '[{release,"hello","0.1'):
        path.write_text(content)
        hello.ask(releases.set_unpacked, rel_file)
        assert hello.statuses() == {"0.1.0": "permanent", "0.2.0": "unpacked"}
        hello.ask(releases.remove, "0.2.0")


def test_with_a_releases_file_that_says_something_else_nothing_is_done(hello):
    rel_file = hello.place()
    hello.ask(releases.set_unpacked, rel_file)
    path = hello.tree / "releases" / "RELEASES"
    for content in ("", "[].", "{", '[{release,"hello","7","13",[],permanent}].'):
        path.write_text(content)
        for step, argument in [(releases.remove, "0.2.0"), (releases.make_permanent, "0.2.0")]:
            with pytest.raises(RunAgentError, match="does not agree with it; restart"):
                hello.ask(step, argument)
    path.unlink()
    with pytest.raises(RunAgentError, match="does not agree with it"):
        hello.ask(releases.remove, "0.2.0")
    assert hello.statuses() == {"0.1.0": "permanent", "0.2.0": "unpacked"}
