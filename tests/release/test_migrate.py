"""Migrations on a real node of every kind, by its release tool."""

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
import time

import pytest

from run_agent import release
from run_agent.errors import RunAgentError, UnavailableError
from run_agent.model import Secret
from run_agent.node import Node
from support import by_hand, mix_project, slugs, upgrade_slugs
from support.wait import until
from upgrade import migrate
from upgrade.migrate import Migrated, Migrating

KINDS = ("mix", "relx", "distillery1", "distillery2")
ELIXIR = {"mix", "distillery2"}

PRINTED = [("stdout", "migrated 1_create_lines.exs"), ("stdout", "migrated 2_add_words.exs")]

EXPRESSIONS = {
    "elixir": (
        'IO.puts("Grüße"); Ecto.Migrator.run(Hello.Repo, :up, all: true) # so',
        ":ok",
        {
            "{:error, :no_database}": "it returned {error,no_database}",
            'raise "our reason"': "our reason",
            "throw :thrown": "thrown",
            "exit :gone": "gone",
            "foo(": "TokenMissingError",
        },
    ),
    "erlang": (
        """io:put_chars("Grüße\\n"),
        'Elixir.Ecto.Migrator':run('Elixir.Hello.Repo', up, [{all, true}]).""",
        "ok",
        {
            "{error, no_database}": "it returned {error,no_database}",
            "erlang:error(our_reason)": "our_reason",
            "throw(thrown)": "thrown",
            "exit(gone)": "gone",
            "foo(": "syntax error before",
        },
    ),
}
"""One that migrates, one that tells no versions, and those that fail with their reasons."""


@pytest.fixture
def start(environment, tmp_path):
    """Start the example with migrations as a release of a kind; gives the target."""
    with contextlib.ExitStack() as stack:

        def start(kind, variant="migrating", **env):
            slug = upgrade_slugs.slug(kind, "0.1.0", variant)
            tree = slugs.unpack(slug, tmp_path / "app")
            return stack.enter_context(_started(kind, tree, environment | env, tmp_path))

        yield start


@contextlib.contextmanager
def _started(kind, tree, env, tmp_path):
    with by_hand.started(kind, tree, env) as running:
        yield running, target(tree, env, tmp_path)


def target(tree, env, tmp_path, distillery_eval=None):
    what = release.identify(tree, "hello", distillery_eval=distillery_eval)
    run = tmp_path / "run"
    run.mkdir(exist_ok=True)
    node = Node(
        name=env["RELEASE_NODE"],
        cookie=Secret(env["RELEASE_COOKIE"]),
        env=env,
        run=run,
        erl_call=what.erl_call,
        by_tool=what.evaluate,
    )
    return Migrating(node, what, tree)


def run(target, name=None, **options):
    """Migrate; give the outcome and the printed lines."""
    lines = []
    done = asyncio.run(migrate.migrate(target, name, lambda *line: lines.append(line), **options))
    return done, lines


def failure(target, name=None, **options):
    """Migrate in vain; give the error and the printed lines."""
    lines = []
    with pytest.raises(RunAgentError) as failed:
        asyncio.run(migrate.migrate(target, name, lambda *line: lines.append(line), **options))
    return failed.value, lines


@pytest.mark.parametrize("kind", KINDS)
def test_it_migrates_the_first_repo_and_shows_what_that_prints(start, kind):
    _, target = start(kind)
    assert run(target) == (Migrated("hello", (1, 2)), PRINTED)
    assert run(target, "hello") == (Migrated("hello", (1, 2)), PRINTED)


@pytest.mark.parametrize("kind", KINDS)
def test_a_failure_has_exit_code_1_and_its_reason(start, kind, caplog):
    _, target = start(kind, HELLO_MIGRATE="raise")
    error, lines = failure(target)
    assert (error.exit_code, lines) == (1, PRINTED[:1])
    assert str(error).startswith("cannot migrate hello: ")
    assert "asked_to_raise" in str(error)
    assert [record.message for record in caplog.records] == [str(error).partition("\n")[0]]


@pytest.mark.parametrize("kind", KINDS)
def test_an_expression_of_the_controller_is_evaluated_in_the_tool_s_language(start, kind):
    _, target = start(kind)
    good, ok, bad = EXPRESSIONS["elixir" if kind in ELIXIR else "erlang"]
    done, lines = run(target, expression=good)
    assert (done, lines) == (Migrated("hello", (1, 2)), [("stdout", "Grüße"), *PRINTED])
    assert run(target, expression=ok) == (Migrated("hello", None), [])
    for expression, reason in bad.items():
        error, lines = failure(target, expression=expression)
        assert (error.exit_code, lines) == (1, [])
        assert reason in str(error)


@pytest.mark.parametrize("kind", ["mix", "relx"])
def test_an_application_without_repos_is_refused_and_one_that_has_some_is_named(start, kind):
    _, target = start(kind)
    error, _ = failure(target, "kernel")
    assert error.exit_code == os.EX_DATAERR
    assert "kernel: it has no repos" in str(error)
    assert "-m: hello" in str(error)


def test_without_any_repos_there_is_nothing_to_migrate(start):
    _, target = start("relx", "good")
    error, _ = failure(target)
    assert error.exit_code == os.EX_DATAERR
    assert "nothing to migrate" in str(error)


@pytest.mark.parametrize("name", ["", "Hello", "hello, evil", "'hello'", "a" * 256, "héllo"])
def test_what_is_no_application_s_name_is_refused_before_anything_else(environment, tmp_path, name):
    target_ = target(tmp_path, environment, tmp_path)
    error, _ = failure(target_, name)
    assert error.exit_code == os.EX_USAGE


@pytest.mark.parametrize("kind", ["mix", "relx"])
def test_lines_come_while_it_runs(start, kind):
    _, target = start(kind, HELLO_MIGRATE_SECONDS="2")
    seen = []

    async def follow():
        loop = asyncio.get_running_loop()
        await migrate.migrate(target, None, lambda _, text: seen.append((loop.time(), text)))

    asyncio.run(follow())
    ticks = [at for at, text in seen if text.startswith("migrating: ")]
    assert len(ticks) == 20
    assert ticks[-1] - ticks[0] > 0.5


def test_where_the_node_is_down_it_says_so_at_once(start):
    running, target = start("mix")
    running.stop()
    error, _ = failure(target)
    assert isinstance(error, UnavailableError)
    assert "does not answer" in str(error)


@pytest.mark.parametrize("kind", ["mix", "relx", "distillery2"])
def test_a_node_that_dies_meanwhile_is_told_as_a_migration_that_was_cut(start, kind):
    running, target = start(kind, HELLO_MIGRATE_SECONDS="60")

    def kill_at_first(_, text):
        if text.startswith("migrating: "):
            running.process.send_signal(signal.SIGKILL)

    with pytest.raises(RunAgentError, match="it was cut") as failed:
        asyncio.run(migrate.migrate(target, None, kill_at_first))
    assert failed.value.exit_code == 1
    assert "by half" in str(failed.value)


def test_past_the_deadline_it_says_that_the_database_may_be_half_way(start):
    running, target = start("mix", HELLO_MIGRATE_SECONDS="600")
    begun = time.monotonic()
    assert running.command("rpc", "1").returncode == 0
    # the tool's own start is part of it, and takes long on a busy machine
    error, lines = failure(target, deadline=1 + 3 * (time.monotonic() - begun))
    assert error.exit_code == os.EX_TEMPFAIL
    assert "by half" in str(error)
    assert lines


def test_who_cuts_it_leaves_a_word_in_the_log_and_no_process(start, caplog):
    _, target = start("mix", HELLO_MIGRATE_SECONDS="60")

    async def cut():
        begun = asyncio.Event()
        task = asyncio.create_task(migrate.migrate(target, None, lambda *_: begun.set()))
        await begun.wait()
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task

    asyncio.run(cut())
    assert "the migration of hello was cut" in caplog.text
    rpc = f"-name rpc-[0-9a-f]*-{target.node.name}"
    until(lambda: not _runs(rpc), "the call is left")


def _runs(command_line):
    found = subprocess.run(["pgrep", "-f", "--", command_line], check=False, capture_output=True)
    return found.returncode == 0


def test_a_mix_project_without_a_release_migrates_by_elixir_itself(environment, tmp_path):
    tree = slugs.unpack(_project(tmp_path), tmp_path / "app")
    migrating = upgrade_slugs.UPGRADES / "both" / "migrating"
    shutil.copytree(migrating / "src", tree / "src")
    shutil.copytree(migrating / "priv", tree / "priv")
    shutil.copy(upgrade_slugs.UPGRADES / "mix" / "migrating" / "mix.exs", tree)
    with _project_started(tree, environment):
        assert run(target(tree, environment, tmp_path)) == (Migrated("hello", (1, 2)), PRINTED)


def _project(tmp_path):
    path = tmp_path / "project.tar.gz"
    path.write_bytes(mix_project.slug())
    return path


@contextlib.contextmanager
def _project_started(tree, env):
    command = ("bash", "-c", mix_project.WEB)
    with (tree.parent / "log").open("wb") as log:
        process = subprocess.Popen(
            command, cwd=tree, env=env, stdout=log, stderr=log, stdin=subprocess.DEVNULL
        )
    try:
        port = int(env["PORT"])
        until(lambda: by_hand.listens(port, process), "the project does not listen", 60)
        yield
    finally:
        process.kill()
        process.wait(by_hand.STOP_SECONDS)
