"""Another configuration for a running node of every kind: all of it or nothing."""

import asyncio
import contextlib
import os
import subprocess

import pytest

from run_agent import release
from run_agent.errors import RunAgentError
from run_agent.model import Secret
from run_agent.node import Node
from support import by_hand, slugs
from upgrade import reconfigure
from upgrade.outcome import RefusedError
from upgrade.reconfigure import Reconfiguration

KINDS = ("mix", "relx", "distillery1", "distillery2")
WHOLE = ("mix", "relx", "distillery1")
"""Where we change the applications ourselves; in Distillery 2 its script does."""

RUNTIME_EXS = """\
import Config

config :hello, greeting: System.get_env("GREETING", "")

if limit = System.get_env("LIMIT") do
  config :hello, limit: String.to_integer(limit)
end

if System.get_env("HANG"), do: Process.sleep(:infinity)
"""
SYS_CONFIG = """\
[
    {hello, [
        {limit, ${LIMIT}},
        {greeting, <<"${GREETING}"/utf8>>}
    ]}
].
"""

TOLD_EX = """
  def config_change(changed, new, removed) do
    :persistent_term.put(:told, [{changed, new, removed} | :persistent_term.get(:told, [])])

    case {Application.get_env(:hello, :greeting), :persistent_term.get(:stubborn, false)} do
      {_, true} -> {:error, :stubborn}
      {"refuse", _} -> {:error, :refused}
      {"raise", _} -> raise "no greeting for me"
      _ -> :ok
    end
  end
end
"""
TOLD_ERL = """
config_change(Changed, New, Removed) ->
    persistent_term:put(told, [{Changed, New, Removed} | persistent_term:get(told, [])]),
    case {application:get_env(hello, greeting), persistent_term:get(stubborn, false)} of
        {_, true} -> {error, stubborn};
        {{ok, <<"refuse">>}, _} -> {error, refused};
        {{ok, <<"raise">>}, _} -> error("no greeting for me");
        _ -> ok
    end.
"""


class Running:
    """A release that runs, and how it is given another environment."""

    def __init__(self, tree, env, run):
        self.env, self.tree = env, tree
        self.release = release.identify(tree, "hello")
        self.node = Node(
            name=env["RELEASE_NODE"],
            cookie=Secret(env["RELEASE_COOKIE"]),
            env=env,
            run=run,
            erl_call=self.release.erl_call,
            by_tool=self.release.evaluate,
        )

    def change(self, *unset, dry_run=False, **names):
        """Reconfigure; what comes next begins with what is in force then."""
        after = {name: value for name, value in (self.env | names).items() if name not in unset}
        wanted = Reconfiguration(self.node, self.release, self.tree, self.env, after)
        outcome = asyncio.run(reconfigure.apply(wanted, dry_run=dry_run))
        if not dry_run:
            self.env = after
        return outcome

    def refused(self, *unset, **names):
        with pytest.raises(RunAgentError) as failed:
            self.change(*unset, **names)
        return failed.value

    def ask(self, erlang):
        return asyncio.run(self.node.evaluate(erlang))

    def state(self):
        """Tell all that a reconfiguration may touch."""
        return self.ask(
            "{lists:sort(os:getenv()), "
            "[{App, lists:sort(application:get_all_env(App))} "
            "|| {App, _, _} <- lists:sort(application:loaded_applications())]}"
        )

    def config(self, key):
        return self.ask(f"application:get_env(hello, {key})")

    def variable(self, name):
        return self.ask(f'os:getenv("{name}")')

    def told(self):
        """Return what config_change was told since the last time, the last first."""
        told = self.ask("persistent_term:get(told, [])")
        self.ask("persistent_term:erase(told)")
        return told


@pytest.fixture
def start(environment, tmp_path):
    with contextlib.ExitStack() as stack:

        def start(kind, **env):
            tree = slugs.unpack(slugs.slug(kind), tmp_path / "app")
            _tell_of_changes(kind, tree, tmp_path)
            env = environment | {"LIMIT": "1"} | env
            stack.enter_context(by_hand.started(kind, tree, env))
            run = tmp_path / "run"
            run.mkdir()
            return Running(tree, env, run)

        yield start


def _tell_of_changes(kind, tree, tmp_path):
    """Give it a `config_change` that notes what it is told, and a key that may not parse."""
    folder = tree / "releases" / "0.1.0"
    if kind == "mix":
        (folder / "runtime.exs").write_text(RUNTIME_EXS)
    else:
        (folder / "sys.config").write_text(SYS_CONFIG)
    [ebin] = tree.glob("lib/hello-*/ebin")
    if kind == "relx":
        text = (slugs.EXAMPLE / "relx" / "src" / "hello_app.erl").read_text()
        export, source = "-export([start/2, ", tmp_path / "hello_app.erl"
        assert export in text
        source.write_text(text.replace(export, f"{export}config_change/3, ") + TOLD_ERL)
        compiler = ("erlc", "-o", ebin, source)
    else:
        text = (slugs.EXAMPLE / "mix" / "lib" / "hello" / "application.ex").read_text()
        source = tmp_path / "application.ex"
        source.write_text(text.rstrip().removesuffix("end") + TOLD_EX)
        compiler = ("elixirc", "--ignore-module-conflict", "-o", ebin, source)
    subprocess.run(compiler, check=True, capture_output=True, timeout=by_hand.COMMAND_SECONDS)


@pytest.mark.parametrize("kind", KINDS)
def test_new_values_reach_the_node_and_its_applications(start, kind):
    running = start(kind)
    outcome = running.change(GREETING="Zweiter", NEW="größer", LIMIT="2")
    assert outcome.to_json() == {
        "dry_run": False,
        "set": ["GREETING", "LIMIT", "NEW"],
        "unset": [],
        "restart": [],
        "applications": {"hello": ["greeting", "limit"]},
    }
    assert running.config("greeting") == running.ask('{ok, <<"Zweiter">>}')
    assert running.config("limit") == "{ok,2}"
    assert running.variable("NEW") == running.ask("[$g,$r,246,223,$e,$r]")
    changed = running.told()
    assert changed.count("greeting") == changed.count("limit") == 1
    assert running.change("NEW").applications == {}
    assert running.variable("NEW") == "false"
    assert running.told() == "[]"


@pytest.mark.parametrize("kind", ["relx", "distillery1"])
def test_a_value_that_names_another_variable_becomes_what_a_start_makes_of_it(start, kind):
    running = start(kind, INNER="Zweiter")
    running.change(GREETING="${INNER}")
    assert running.config("greeting") == running.ask('{ok, <<"Zweiter">>}')


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_done_where_nothing_has_changed(start, kind):
    running = start(kind)
    before = running.state()
    assert running.change().differences.names == ()
    assert (running.state(), running.told()) == (before, "[]")


@pytest.mark.parametrize("kind", WHOLE)
def test_the_way_there_and_back_leaves_everything_as_it_was(start, kind):
    running = start(kind)
    before = running.state()
    running.change(GREETING="Zweiter", NEW="1")
    running.change("NEW", GREETING="Grüße")
    assert running.state() == before


def test_a_key_that_goes_goes_and_what_the_application_has_set_stays(start):
    running = start("mix")
    running.ask("application:set_env(hello, own, 42)")
    outcome = running.change("LIMIT")
    assert (outcome.differences.unset, outcome.applications) == (("LIMIT",), {"hello": ("limit",)})
    assert running.config("limit") == "undefined"
    assert running.config("own") == "{ok,42}"
    assert running.told() == "[{[],[],[limit]}]"
    running.change(LIMIT="5")
    assert running.told() == "[{[],[{limit,5}],[]}]"


def test_a_key_that_goes_falls_back_to_what_its_app_file_says(start):
    running = start("mix")
    [app] = running.tree.glob("lib/hello-*/ebin/hello.app")
    app.write_text(app.read_text().replace("[{applications", "[{env,[{limit,7}]},{applications", 1))
    assert "{limit,7}" in app.read_text()
    running.change("LIMIT")
    assert running.config("limit") == "{ok,7}"


@pytest.mark.parametrize("kind", KINDS)
def test_a_value_that_does_not_parse_changes_nothing_and_is_not_shown(start, kind, caplog):
    running = start(kind)
    before = running.state()
    error = running.refused(GREETING="Zweiter", LIMIT="12x s3cret")
    assert error.exit_code == 11
    assert "nothing has changed" in str(error)
    assert "s3cret" not in str(error) + caplog.text
    assert (running.state(), running.told()) == (before, "[]")
    running.change(GREETING="Zweiter", LIMIT="3")
    assert running.config("limit") == "{ok,3}"


def test_the_reason_is_the_provider_s_own_with_the_names_that_changed(start):
    error = start("mix").refused(LIMIT="12x", NEW="1")
    assert "ArgumentError" in str(error)
    assert str(error).endswith("these have changed: LIMIT, NEW")


def test_a_provider_that_hangs_changes_nothing(start, monkeypatch):
    monkeypatch.setattr(reconfigure, "CHANGE_SECONDS", 2)
    running = start("mix")
    before = running.state()
    error = running.refused(HANG="1")
    assert (error.exit_code, running.state()) == (11, before)
    assert "does not come to an end" in str(error)


@pytest.mark.parametrize("greeting", ["raise", "refuse"])
@pytest.mark.parametrize("kind", WHOLE)
def test_an_application_that_does_not_take_it_gets_its_old_one_back(start, kind, greeting):
    running = start(kind)
    before = running.state()
    error = running.refused(GREETING=greeting, NEW="1")
    assert error.exit_code == 11
    assert "hello does not take its new configuration" in str(error)
    assert running.state() == before
    former = running.ask('[{[{greeting, <<"Grüße"/utf8>>}], [], []}, '
                         f'{{[{{greeting, <<"{greeting}">>}}], [], []}}]')  # fmt: skip
    assert running.told() == former
    running.change(GREETING="Zweiter")
    assert running.config("greeting") == running.ask('{ok, <<"Zweiter">>}')


def test_one_that_does_not_even_take_the_old_one_is_told_so(start):
    running = start("relx")
    before = running.state()
    running.ask("persistent_term:put(stubborn, true)")
    error = running.refused(GREETING="Zweiter")
    assert error.exit_code == 12
    assert "restart the replica" in str(error)
    assert running.state() == before


@pytest.mark.parametrize("kind", KINDS)
def test_a_dry_run_touches_nothing(start, kind):
    running = start(kind)
    before = running.state()
    outcome = running.change("LIMIT", GREETING="Zweiter", ERL_FLAGS="+P 1", dry_run=True)
    assert outcome.to_json() == {
        "dry_run": True,
        "set": ["ERL_FLAGS", "GREETING"],
        "unset": ["LIMIT"],
        "restart": ["ERL_FLAGS"],
        "applications": {},
    }
    assert (running.state(), running.told()) == (before, "[]")


def test_what_the_release_reads_at_its_start_is_named(start):
    running = start("relx")
    vm_args = running.tree / "releases" / "0.1.0" / "vm.args"
    vm_args.with_name("vm.args.src").write_text("-name ${MY_NODE_NAME}\n+P ${PROCESSES}\n")
    outcome = running.change(PROCESSES="262144", MY_NODE_NAME="evil@host")
    assert outcome.differences.restart == ("MY_NODE_NAME", "PROCESSES")
    assert running.variable("PROCESSES") == running.ask('"262144"')
    assert "evil" not in running.variable("MY_NODE_NAME")


def test_a_release_without_sasl_can_be_reconfigured_as_well(start):
    running = start("relx")
    running.ask("application:stop(sasl)")
    assert running.change(GREETING="Zweiter").applications == {"hello": ("greeting",)}


def test_of_a_node_that_falls_silent_nobody_says_that_nothing_has_changed(start, monkeypatch):
    monkeypatch.setattr(reconfigure, "ANSWER_SECONDS", 1.0)
    error = start("mix").refused(HANG="1")
    assert error.exit_code == 13
    assert "restart the replica" in str(error)


def test_where_the_node_is_down_it_says_so(environment, tmp_path):
    tree = slugs.unpack(slugs.slug("mix"), tmp_path / "app")
    run = tmp_path / "run"
    run.mkdir()
    error = Running(tree, environment, run).refused(GREETING="x")
    assert error.exit_code == os.EX_UNAVAILABLE


def test_a_project_without_a_release_is_refused(environment, tmp_path):
    (tmp_path / "Procfile").write_text("web: mix run\n")
    error = Running(tmp_path, environment, tmp_path).refused(GREETING="x")
    assert isinstance(error, RefusedError)
    assert error.exit_code == 10
