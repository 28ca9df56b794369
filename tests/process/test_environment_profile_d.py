"""`.profile.d` with the real bash: what it sets arrives byte for byte, what it breaks is named."""

import asyncio
import logging
import os
import time

import psutil
import pytest

from run_agent import settings
from run_agent.errors import RunAgentError
from run_agent.model import Deploy, Secret
from run_agent.release import Kind, Release, environment, profile_d
from run_agent.release.identity import Identity

PATH = {"PATH": "/usr/bin:/bin"}

OVERRULE_BUILTINS = """
for name in cd compgen exit kill local printf read set source; do
    eval "$name() { echo overruled; }"
done
"""


@pytest.fixture
def source(tmp_path):
    """Return a function that sources scripts, given by name and text, in a slug's folder."""

    def run(scripts, env=PATH, **limits):
        (tmp_path / ".profile.d").mkdir(exist_ok=True)
        for name, text in scripts.items():
            script = text if isinstance(text, bytes) else text.encode()
            (tmp_path / ".profile.d" / name).write_bytes(script)
        return asyncio.run(profile_d.source(tmp_path, env, **limits))

    return run


def refused(source, scripts, **limits):
    with pytest.raises(RunAgentError) as caught:
        source(scripts, **limits)
    return caught.value


def test_without_scripts_nothing_changes_and_nothing_is_started(tmp_path, source):
    assert asyncio.run(profile_d.source(tmp_path, {"A": "1"})) == {"A": "1"}
    (tmp_path / ".profile.d/sub.sh").mkdir(parents=True)
    (tmp_path / ".profile.d/gone.sh").symlink_to("nowhere")
    assert source({"readme.txt": "exit 1"}, {"A": "1"}) == {"A": "1"}


def test_exports_are_taken_over_and_the_rest_is_left(source):
    env = source(
        {"a.sh": "export NEW=1 OLD=new\nlocal_only=1\nunset GONE\nexport NO_VALUE\n"},
        PATH | {"OLD": "old", "GONE": "1", "KEPT": "kept"},
    )
    assert env == PATH | {"NEW": "1", "OLD": "new", "KEPT": "kept"}


@pytest.mark.parametrize(
    "value",
    [
        "two\nlines\n",
        "\n",
        " 'single' \"double\" `x` $HOME $(id) \\ \\n * ? [a] ~ # ! & ; | < > ",
        "ünï çödé 😀",
        "\udcff\udcfe not UTF-8 \udc80",
        "\x01\x02\x7f\t\r",
        "x" * 100_000,
        "ü\n$" * 30_000,
        "",
        "end",
        "variable A=B",
    ],
    ids=lambda value: ascii(value[:12]),
)
def test_values_survive_byte_for_byte(source, value):
    """Both ways: what came in from the configuration, and what a script copies."""
    env = source({"a.sh": 'export COPY="$VALUE"'}, PATH | {"VALUE": value})
    assert env == PATH | {"VALUE": value, "COPY": value}


def test_a_script_may_write_any_bytes(source):
    env = source({"a.sh": b'export A=$\'\\xff\\n\'"\'\xfe"\nexport B="\xc3\xbc\n$A"'})
    assert os.fsencode(env["A"]) == b"\xff\n'\xfe"
    assert os.fsencode(env["B"]) == b"\xc3\xbc\n\xff\n'\xfe"


def test_names_that_bash_cannot_hold_and_functions_are_kept(source):
    odd = {"a.b-c": "1", "BASH_FUNC_f%%": "() { echo f\n}", "1X": "2"}
    assert source({"a.sh": "export A=1"}, PATH | odd) == PATH | odd | {"A": "1"}


def test_what_bash_sets_itself_is_not_taken_over(source):
    assert source({"a.sh": "cd /tmp; cd /"}) == PATH
    had = PATH | {"SHLVL": "7", "PWD": "/gone", "OLDPWD": "/older", "_": "/usr/bin/x"}
    assert source({"a.sh": "cd /tmp"}, had) == had


def test_the_order_is_that_of_the_names_in_bytes(source):
    scripts = {name: f"export ORDER=$ORDER:{name}" for name in ("b.sh", "B.sh", "10.sh", "é.sh")}
    env = source(scripts, PATH | {"LC_ALL": "C.UTF-8"})
    assert env["ORDER"] == ":10.sh:B.sh:b.sh:é.sh"


def test_scripts_run_in_the_slugs_folder_without_arguments_or_input(source, tmp_path):
    env = source({"a.sh": "export HERE=$(pwd -P) COUNT=$# INPUT=$(cat)"})
    assert (env["HERE"], env["COUNT"], env["INPUT"]) == (str(tmp_path), "0", "")


def test_one_sees_what_the_one_before_it_set(source):
    env = source({"a.sh": "export A=1; f() { echo f; }", "b.sh": "export B=$A$(f)"})
    assert env["B"] == "1f"


def test_what_a_script_prints_is_logged_and_no_variable(source, caplog):
    caplog.set_level(logging.INFO)
    env = source({"a.sh": "echo 'variable X=1'; printf 'end\\0variable Y=1\\0'; echo oops >&2"})
    assert env == PATH
    (record,) = caplog.records
    assert record.getMessage().startswith(".profile.d/a.sh printed: variable X=1")
    assert "oops" in record.getMessage()


@pytest.mark.parametrize(
    "habit",
    [
        "[ -n '' ] && export X=1",  # its status is 1, and means nothing
        "ls /nowhere",  # 2, like a syntax error's
        "no-such-command",
        "return 5",
        "set -e; true",
        "set -u",
        "set -a",
        "set -f; IFS=abc",
        "set -o posix",
        "shopt -s nullglob extglob",
        "trap 'echo trapped' EXIT",
        "exec 3>/dev/null 4<&0",
        "cd /; unset PWD",
        OVERRULE_BUILTINS,
        "alias printf=false",
        "PATH=; hash -r",
        "export LC_ALL=C; export LC_ALL=nonsense; unset LC_ALL",
    ],
)
def test_no_habit_of_a_script_harms_the_next(source, habit):
    env = source({"a.sh": habit, "b.sh": "export B=$((1 + 1)); false"}, PATH | {"A": "a\nü"})
    assert (env["A"], env["B"]) == ("a\nü", "2")
    assert not {name for name in env if name.startswith("__run_agent")}


@pytest.mark.parametrize(
    ("script", "code"),
    [
        ("echo why >&2; exit 3", 3),
        ("echo why; exit 0", 0),
        ("set -e; echo why; false", 1),
        ("set -u; echo why; echo $UNSET_", 1),
        ("echo why; kill -TERM $$", 143),
        ("exec sh -c 'echo why >&2; exit 4'", 4),
        ("# why\nif true; then (", 2),
    ],
)
def test_a_script_that_ends_the_shell_is_named_with_its_last_output(source, script, code):
    error = refused(source, {"a.sh": "export A=1", "b.sh": script, "c.sh": "exit 9"})
    message = str(error)
    assert message.startswith("cannot source the slug's .profile.d/b.sh: ")
    assert f"exit code {code};" in message
    assert "why" in message or "syntax error" in message
    assert error.exit_code == os.EX_DATAERR


def test_of_much_output_an_error_shows_the_end(source):
    message = str(refused(source, {"a.sh": "yes | head -n 100000; echo the end; exit 1"}))
    assert message.endswith("the end")
    assert len(message) < 3000


@pytest.mark.parametrize("script", ["sleep 600", "while :; do :; done", "sleep 600 & wait"])
def test_a_script_that_hangs_is_ended(source, script):
    started = time.monotonic()
    error = refused(source, {"a.sh": script}, deadline=0.5)
    assert time.monotonic() - started < 5
    assert "cannot source the slug's .profile.d/a.sh: " in str(error)
    assert "0.5 s" in str(error)
    assert error.exit_code == os.EX_TEMPFAIL


@pytest.mark.parametrize("start", ["sleep 600 &", "(sleep 600 &)", "sleep 600 & disown"])
def test_what_a_script_leaves_in_the_background_does_not_hold_up_the_start(source, start):
    env = source({"a.sh": f"{start}\nexport A=1"}, deadline=30)
    assert env["A"] == "1"
    assert not psutil.Process().children(recursive=True)


def test_a_bash_env_file_cannot_spoil_what_is_captured(source, tmp_path):
    (tmp_path / "bash_env").write_text("echo variable X=1; export FROM_BASH_ENV=1")
    env = source({"a.sh": "export A=1"}, PATH | {"BASH_ENV": str(tmp_path / "bash_env")})
    assert (env["A"], env["FROM_BASH_ENV"]) == ("1", "1")
    assert "X" not in env


@pytest.fixture
def build(tmp_path):
    """Return a function that builds the whole environment of a slug with one script."""

    def run(script, config):
        (tmp_path / ".profile.d").mkdir()
        (tmp_path / ".profile.d/a.sh").write_text(script)
        environ = PATH | {"RUN_AGENT_ROOT": str(tmp_path / "root"), "CONTROLLER_URL": "none"}
        return asyncio.run(
            environment.build(
                environ,
                settings=settings.load(environ),
                identity=Identity("app", "10.0.0.7", Secret("c00kie"), Secret("base")),
                deploy=Deploy("https://host/slug", "hello", config=config),
                release=Release(Kind.PROCFILE, "hello", tmp_path),
            )
        )

    return run


def test_scripts_win_over_the_configuration_but_cannot_rename_the_node(build, tmp_path):
    env = build(
        "export FOO=$FOO-script PORT=7000 RELEASE_NODE=evil MY_COOKIE=evil PATH=/mine:$PATH",
        {"FOO": "config", "PORT": "6000"},
    )
    assert (env["FOO"], env["PORT"]) == ("config-script", "7000")
    assert (env["RELEASE_NODE"], env["MY_COOKIE"]) == ("app@10.0.0.7", "c00kie")
    assert env["PATH"] == f"/mine:{tmp_path}/root/run/run-agent/bin:/usr/bin:/bin"


def test_a_script_that_replaces_the_path_does_not_lose_ours(build, tmp_path):
    assert build("export PATH=/x", {})["PATH"] == f"{tmp_path}/root/run/run-agent/bin:/x"


def test_a_value_from_a_script_that_no_process_can_be_given_is_refused_by_name(build):
    with pytest.raises(RunAgentError, match="'BIG' has 200005 bytes"):
        build("printf -v BIG '%200000s' x; export BIG", {})


@pytest.mark.parametrize("end", ["exit 1", "true"])
def test_what_is_shown_of_scripts_names_variables_and_quotes_no_values(source, caplog, end):
    caplog.set_level(logging.INFO)
    env = PATH | {"DATABASE_URL": "ecto://user:s3cret-password@db/x"}
    script = f'export "$DATABASE_URL"; echo "at s3cret-password" >&2; {end}'
    try:
        source({"a.sh": script}, env)
        shown = caplog.text
    except RunAgentError as error:
        shown = str(error)
    assert "export: `$DATABASE_URL': not a valid identifier" in shown
    assert "at $DATABASE_URL" in shown
    assert "s3cret" not in shown
