"""Installs of a plain mix release by release_handler, on real nodes."""

import asyncio
import contextlib
import os
import re
import shutil
import subprocess
from dataclasses import replace

import pytest

from run_agent.errors import RunAgentError
from run_agent.model import Secret
from run_agent.node import Node
from run_agent.release import Kind
from run_agent.release.erlang_term import Atom, consult
from support import by_hand, slugs, upgrade_slugs
from support.wait import until
from upgrade import handler, on_node, releases
from upgrade.model import Change

INSTALL_SECONDS = 30.0
REBOOT_SECONDS = 30.0
COMPILE_SECONDS = 60.0

NEW_ENVIRONMENT = {"GREETING": "Neue Grüße, łódź", "SALUTE": "hail", "ONLY_NEW": "1"}

ENVIRONMENT = (
    "lists:sort([{App, Key, erlang:phash2(Value)} || {App, _, _} <- "
    "application:loaded_applications(), {Key, Value} <- application:get_all_env(App)])"
)
"""The application environment, short enough for one answer."""

SET_BY_THEMSELVES = {
    ("kernel", "connect_all"),
    ("kernel", "logger"),
    ("runtime_tools", "ttb_autostart_module"),
}
"""What OTP's own applications put into their environment while they start."""

PROVIDER = """
-module(hello_provider).
-export([load/2]).
load(Config, Value) ->
    'Elixir.Config.Reader':merge(Config, [{hello, [{provided, {Value, WORD}}]}]).
"""

PROVIDERS = re.compile(r"providers => \[")


class Hello:
    """A mix release that runs, and the change of it that is tried."""

    def __init__(self, release, run):
        self.started, self.run = release, run
        self.tree = release.tree.resolve()
        before = dict(release.env)
        after = before | NEW_ENVIRONMENT
        del after["SECRET_KEY_BASE"]
        [erl_call] = self.tree.glob("erts-*/bin/erl_call")
        cookie = Secret(before["RELEASE_COOKIE"])
        self.node = Node(before["RELEASE_NODE"], cookie, before, run, erl_call)
        self.up = Change(
            self.node, run, self.tree, Kind.MIX, "hello", "0.1.0", "0.2.0", after, before
        )
        self.down = replace(
            self.up, from_version="0.2.0", to_version="0.1.0", env=before, env_before=after
        )

    def place(self, variant="good"):
        """Put the files of 0.2.0 beside the running ones, and make them known to the node."""
        new = slugs.unpack(upgrade_slugs.slug("mix", "0.2.0", variant), self.run / "new")
        for path in (*new.glob("lib/*"), new / "releases" / "0.2.0"):
            place = self.tree / path.relative_to(new)
            if not place.exists():
                shutil.copytree(path, place)
        rel_file = self.folder() / "hello.rel"
        asyncio.run(releases.set_unpacked(self.node, self.run, rel_file))
        return new

    def folder(self, version="0.2.0"):
        return self.tree / "releases" / version

    def edit(self, name, pattern, replacement):
        path = self.folder() / name
        text, count = re.subn(pattern, replacement, path.read_text())
        assert count, f"{path} is not as expected"
        path.write_text(text)

    def install(self, change):
        asyncio.run(handler.install(change, deadline=INSTALL_SECONDS))

    def evaluate(self, erlang):
        return asyncio.run(self.node.evaluate(erlang))

    def version(self):
        return asyncio.run(releases.serving(self.node)).version

    def greeting(self):
        return self.started.get("/")[1].decode()

    def variables(self, *names):
        return [self.started.get(f"/env/{name}")[1].decode() for name in names]

    def files(self):
        """Return what is on disk where an install writes: size, mode and inode by path."""
        return {
            path: (stat.st_size, stat.st_mode, stat.st_ino)
            for folder in (self.tree / "releases", self.run / "on_node")
            for path in folder.rglob("*")
            if path.is_file() and path.name != "RELEASES"
            for stat in [path.stat()]
        }


@pytest.fixture
def hello(environment, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    with by_hand.started("mix", by_hand.app("mix", tmp_path), environment) as release:
        yield Hello(release, run)


def environment_of(node):
    """Return the application environment as {(APP, KEY): hash}."""
    [terms] = consult(f"{asyncio.run(node.evaluate(ENVIRONMENT))}.")
    return {(app.name, key.name): value for app, key, value in terms}


def mine(environment):
    return {key: value for key, value in environment.items() if key not in SET_BY_THEMSELVES}


@contextlib.contextmanager
def fresh(hello, reserved, tree, **env):
    """Boot the tree anew with what 0.2.0 got, beside the running one."""
    ports = {"PORT": str(reserved.free()), "TCP_PORT": str(reserved.free())}
    name = {"RELEASE_NODE": "fresh@127.0.0.1", "MY_NODE_NAME": "fresh@127.0.0.1"}
    environment = {**hello.up.env, **ports, **name, **env}
    with by_hand.started("mix", tree, environment) as booted:
        yield Node(
            "fresh@127.0.0.1", hello.node.cookie, environment, hello.run, hello.node.erl_call
        )
        booted.stop()


def test_an_install_ends_with_what_a_fresh_boot_ends_with(hello, reserved):
    new = hello.place()
    files, before = hello.files(), environment_of(hello.node)
    with hello.started.connect_line() as line:
        line.sendall(b"ping\n")
        first = line.recv(1000)
        hello.install(hello.up)
        line.sendall(b"ping\n")
        assert line.recv(1000)
        assert first
    assert hello.version() == "0.2.0"
    assert "version=0.2.0" in hello.greeting()
    assert "greeting=Neue Grüße, łódź salute=hail" in hello.greeting()
    assert hello.variables("GREETING", "ONLY_NEW", "RELEASE_VSN", "SECRET_KEY_BASE") == [
        "Neue Grüße, łódź", "1", "0.2.0", "not set\n",
    ]  # fmt: skip
    assert hello.files() == files
    installed = mine(environment_of(hello.node))
    with fresh(hello, reserved, new) as node:
        assert installed == mine(environment_of(node))

    hello.install(hello.down)
    assert hello.version() == "0.1.0"
    assert "version=0.1.0" in hello.greeting()
    assert hello.variables("GREETING", "ONLY_NEW", "RELEASE_VSN") == [
        "Grüße", "not set\n", "0.1.0",
    ]  # fmt: skip
    assert mine(environment_of(hello.node)) == mine(before)
    assert hello.files() == files


def test_a_provider_that_fails_leaves_everything_as_it_was(hello):
    hello.place()
    files, before = hello.files(), environment_of(hello.node)
    demanding = replace(hello.up, env={**hello.up.env, "HELLO_REQUIRE_SECRET": "1"})
    with pytest.raises(RunAgentError, match=r"cannot install 0\.2\.0 over 0\.1\.0: ") as caught:
        hello.install(demanding)
    assert "RuntimeError: the environment lacks SECRET_KEY_BASE" in str(caught.value)
    assert hello.version() == "0.1.0"
    assert environment_of(hello.node) == before
    assert hello.files() == files
    assert hello.variables("GREETING", "ONLY_NEW", "HELLO_REQUIRE_SECRET") == [
        "Grüße", "not set\n", "not set\n",
    ]  # fmt: skip


def test_what_a_provider_says_is_told_without_the_values_of_the_environment(hello):
    hello.place()
    runtime = hello.folder() / "runtime.exs"
    for failing, told in {
        'raise "bad url: " <> System.get_env("GREETING")': "RuntimeError: bad url: $GREETING",
        'Map.fetch!(%{a: System.get_env("GREETING")}, :b)': "failed: KeyError",
        'System.fetch_env!("NOWHERE")': "NOWHERE",
        "throw System.get_env()": "failed: throw",
        "Nowhere.to_be_found()": "UndefinedFunctionError",
        "config :hello,": "line ",
    }.items():
        runtime.write_text(f"import Config\n{failing}\n")
        with pytest.raises(RunAgentError, match=re.escape(told)) as caught:
            hello.install(hello.up)
        assert NEW_ENVIRONMENT["GREETING"] not in str(caught.value)
    runtime.unlink()
    with pytest.raises(RunAgentError, match=r"File\.Error: could not read file .*runtime\.exs"):
        hello.install(hello.up)
    assert hello.version() == "0.1.0"


def test_without_a_relup_nothing_changes(hello):
    hello.place("no_relup")
    files, before = hello.files(), environment_of(hello.node)
    with pytest.raises(RunAgentError, match="neither version has a relup"):
        hello.install(hello.up)
    assert hello.version() == "0.1.0"
    assert environment_of(hello.node) == before
    assert hello.files() == files
    assert hello.variables("ONLY_NEW") == ["not set\n"]


def test_a_version_that_the_node_does_not_know_is_said(hello):
    with pytest.raises(RunAgentError, match=r"the node does not know 0\.2\.0"):
        hello.install(hello.up)


def test_code_change_that_raises_has_the_node_restart_with_the_old_environment(hello):
    hello.place("raising")
    files, before = hello.files(), environment_of(hello.node)
    pid = hello.evaluate("os:getpid()")
    with hello.started.connect_line() as line:
        line.sendall(b"ping\n")
        assert line.recv(1000)
        with pytest.raises(RunAgentError, match=r"code_change|may be restarting itself"):
            hello.install(hello.up)
        until(lambda: line.recv(1000) == b"", "the node did not restart", REBOOT_SECONDS)

    def serves():
        with contextlib.suppress(RunAgentError):
            return asyncio.run(hello.node.runs("hello")) and hello.version() == "0.1.0"

    until(serves, "the old version does not serve again", REBOOT_SECONDS)
    assert hello.evaluate("os:getpid()") == pid
    assert mine(environment_of(hello.node)) == mine(before)
    assert hello.variables("GREETING", "ONLY_NEW", "RELEASE_VSN") == [
        "Grüße", "not set\n", "0.1.0",
    ]  # fmt: skip
    assert hello.files() == files


def compiled(word, folder):
    """Put a configuration provider that answers `word` into the library at `folder`."""
    source = folder / "hello_provider.erl"
    source.write_text(PROVIDER.replace("WORD", word))
    subprocess.run(
        ("erlc", "-o", folder / "ebin", source),
        env={"PATH": os.environ["PATH"], "HOME": str(folder)},
        timeout=COMPILE_SECONDS,
        check=True,
    )
    source.unlink()


PROVIDED = "application:get_env(hello, provided)"
NAMED = "providers => [{hello_provider,7},"


def test_a_provider_that_only_the_new_version_has_is_run(hello):
    hello.place()
    compiled("new", hello.tree / "lib" / "hello-0.2.0")
    hello.edit("sys.config", PROVIDERS, NAMED)
    hello.edit("runtime.exs", r"\Z", '\nif System.get_env("FAILS"), do: raise("asked to")\n')
    failing = replace(hello.up, env={**hello.up.env, "FAILS": "1"})
    with pytest.raises(RunAgentError, match="asked to"):
        hello.install(failing)
    assert hello.evaluate("erlang:module_loaded(hello_provider)") == "false"
    hello.install(hello.up)
    assert hello.evaluate(PROVIDED) == "{ok,{7,new}}"


def test_a_provider_whose_code_changes_counts_as_it_is_then(hello):
    hello.place()
    for version, word in (("0.1.0", "old"), ("0.2.0", "new")):
        compiled(word, hello.tree / "lib" / f"hello-{version}")
    old = hello.tree / "lib" / "hello-0.1.0" / "ebin" / "hello_provider"
    assert hello.evaluate(f'code:load_abs("{old}")') == "{module,hello_provider}"
    hello.edit("sys.config", PROVIDERS, NAMED)
    hello.edit(
        "relup",
        "point_of_no_return,",
        '{load_object_code,{hello,"0.2.0",[hello_provider]}},point_of_no_return,'
        "{load,{hello_provider,brutal_purge,brutal_purge}},",
    )
    hello.install(hello.up)
    assert hello.evaluate(PROVIDED) == "{ok,{7,new}}"


def test_values_that_no_file_can_hold_are_set_nevertheless(hello):
    hello.place()
    hello.edit("runtime.exs", r"\Z", "\nconfig :hello, fun: fn -> 42 end, pid: self()\n")
    hello.install(hello.up)
    called = "begin {ok, Fun} = application:get_env(hello, 'fun'), Fun() end"
    assert hello.evaluate(called) == "42"
    assert "salute=hail" in hello.greeting()


@pytest.mark.parametrize("prune", ["true", "false"])
def test_a_release_that_restarts_itself_after_its_providers_gets_the_same(hello, reserved, prune):
    hello.place()
    hello.edit("sys.config", "RUNTIME_CONFIG=false", "RUNTIME_CONFIG=true")
    hello.edit("sys.config", "(reboot_system_after_config) => false", r"\1 => true")
    hello.edit("sys.config", "(prune_runtime_sys_config_after_boot) => false", rf"\1 => {prune}")
    hello.edit("sys.config", r"(extra_config) => \[\]", r"\1 => [{kernel,[{start_pg,true}]}]")
    hello.install(hello.up)
    installed = mine(environment_of(hello.node))
    data = hello.tree / "releases" / "start_erl.data"
    data.write_text(data.read_text().replace("0.1.0", "0.2.0"))
    with fresh(hello, reserved, hello.tree) as node:
        booted = mine(environment_of(node))
    if prune == "true":  # it names the file that this one boot had
        assert installed.pop(("elixir", "config_provider_booted"))
        assert booted.pop(("elixir", "config_provider_booted"))
    assert installed == booted


def test_what_a_fresh_boot_would_refuse_is_refused(hello):
    hello.place()
    files = hello.files()
    expected = '[{hello,[greeting],{ok,<<"as compiled">>}}]'
    for pattern, replacement, told in [
        ("(validate_compile_env) => false", rf"\1 => {expected}", "hello greeting is not what"),
        (r"(extra_config) => \[\]", r"\1 => [{kernel,[{start_pg,true}]}]", "it changes kernel"),
        (r"\[\{elixir", "[{elixir", "cannot read .*sys.config: see its line"),
    ]:
        kept = (hello.folder() / "sys.config").read_text()
        hello.edit("sys.config", pattern, replacement)
        if "line" in told:
            (hello.folder() / "sys.config").write_text("[{hello,\n [}].")
        with pytest.raises(RunAgentError, match=told):
            hello.install(hello.up)
        (hello.folder() / "sys.config").write_text(kept)
    assert hello.version() == "0.1.0"
    assert {path.name for path in hello.files()} == {path.name for path in files}


def test_what_was_compiled_in_may_be_a_default_or_deep_or_missing(hello):
    hello.place()
    app = hello.tree / "lib" / "hello-0.2.0" / "ebin" / "hello.app"
    app.write_text(
        re.sub(r"\{modules,", "{env,[{deep,[{a,#{b => 1}}]}]},{modules,", app.read_text(), count=1)
    )
    hello.edit(
        "sys.config",
        "(validate_compile_env) => false",
        r"\1 => [{hello,[deep,a,b],{ok,1}},{hello,[deep,c],error},{hello,[no],error},"
        r'{hello,[salute],{ok,<<"hail">>}},{no_app,[a,b],error}]',
    )
    hello.install(hello.up)
    assert hello.version() == "0.2.0"


def test_an_install_that_was_cut_off_does_not_count(hello):
    hello.place()
    config = hello.folder() / "sys.config"
    config.rename(config.with_name("sys.config.original"))
    config.write_text('[{hello,[{greeting,<<"of another install">>}]}].')
    hello.install(hello.up)
    assert "greeting=Neue Grüße, łódź" in hello.greeting()
    assert not config.with_name("sys.config.original").exists()


def test_a_release_without_providers_gets_its_sys_config(hello):
    hello.place()
    (hello.folder() / "more.config").write_text('[{hello,[{greeting,<<"included">>},{n,1}]}].')
    (hello.folder() / "sys.config").write_text(
        '[{hello,[{greeting,<<"first">>},{n,0}]},"more",{hello,[{n,2},{unset,[]}]}].'
    )
    hello.install(hello.up)
    assert "greeting=included" in hello.greeting()
    assert (
        hello.evaluate("[application:get_env(hello, K) || K <- [n, unset]]") == "[{ok,2},{ok,[]}]"
    )


def test_what_is_not_in_force_is_told_by_name(hello):
    def differences(*config):
        program = "run_agent_configuration"
        call = on_node.call(hello.node, hello.run, program, "differences", list(config))
        return [(app.name, key.name) for app, key in asyncio.run(call)]

    hello.evaluate("application:set_env(hello, word, here)")
    word = (Atom("word"), Atom("here"))
    assert differences((Atom("hello"), [word]), (Atom("not_loaded"), [word])) == []
    other, missing = (Atom("word"), Atom("there")), (Atom("missing"), 1)
    assert differences((Atom("hello"), [other, missing])) == [
        ("hello", "word"),
        ("hello", "missing"),
    ]
