"""The Erlang programs that run on the node: they compile, call what exists, can be interpreted."""

import os
import re
import shutil
import subprocess
from importlib import resources
from pathlib import Path

import pytest

from support.need import need

FOLDER = Path(str(resources.files("upgrade").joinpath("erl")))
PROGRAMS = sorted(FOLDER.glob("*.erl"))

COMPILE_SECONDS = 60.0
"""How long the compiler may take for all of them; a second or two is usual."""

XREF = """
{ok, _} = xref:start(programs),
ok = xref:set_default(programs, [{warnings, false}, {verbose, false}]),
{ok, _} = xref:add_directory(programs, Folder, [{builtins, true}]),
ok = xref:set_library_path(programs, code_path),
{ok, Calls} = xref:analyze(programs, undefined_function_calls),
{ok, Unused} = xref:analyze(programs, locals_not_used),
{ok, Deprecated} = xref:analyze(programs, deprecated_function_calls),
Elixir = fun(Module) -> lists:prefix("Elixir.", atom_to_list(Module)) end,
Unknown = [Call || {_, {Module, _, _}} = Call <- Calls, not Elixir(Module)],
io:format("~p", [Unknown ++ Unused ++ Deprecated]),
halt().
"""

NOT_INTERPRETED = re.compile(
    r"^-(?!module\(|export\()\w+ | \?\w | \bfun\s+[a-z]\w*/\d | \#\w+\{", re.MULTILINE | re.VERBOSE
)
"""What needs a preprocessor or a loaded module: other attributes, macros, `fun f/1`, records."""


def run(*argv: str, folder: Path) -> str:
    need(shutil.which(argv[0]), f"no {argv[0]} on the PATH (`make system` installs it)")
    done = subprocess.run(
        argv,
        cwd=folder,
        env={"PATH": os.environ["PATH"], "HOME": str(folder), "LC_ALL": "C.UTF-8"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=COMPILE_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def test_they_compile_without_a_warning_and_call_only_what_is_there(tmp_path):
    assert PROGRAMS
    run("erlc", "-Wall", "-Werror", "+debug_info", *map(str, PROGRAMS), folder=tmp_path)
    xref = f'Folder = "{tmp_path}", {XREF}'.replace("\n", " ")
    assert run("erl", "-noinput", "-eval", xref, folder=tmp_path) == "[]"


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda path: path.stem)
def test_they_can_be_interpreted(program):
    source = program.read_text()
    assert source.isascii()
    assert not NOT_INTERPRETED.findall(re.sub(r"%.*", "", source))
    assert f"-module({program.stem})." in source


@pytest.mark.parametrize(
    "source",
    ["-define(X, 1).", '-include("x.hrl").', "x() -> ?X.", "x(L) -> [fun y/1].", "#r{a = 1}"],
)
def test_what_cannot_be_interpreted_is_found(source):
    assert NOT_INTERPRETED.search(source)


def test_maps_and_foreign_functions_can_be_interpreted():
    assert not NOT_INTERPRETED.search("x(#{a := 1}) -> fun erlang:is_integer/1.")


def test_what_the_command_line_says_of_a_key_is_not_taken_for_other_keys(tmp_path):
    run("erlc", str(FOLDER / "run_agent_configuration.erl"), folder=tmp_path)
    differences = (
        "run_agent_configuration:differences([{kernel, [{mine, 1}, {yours, 2}, {ours, 3}]}])"
    )
    given = ("-kernel", "mine", "yours", "ours", "9")  # names, values, names, values
    printed = f'io:format("~p", [{differences}]), halt().'
    said = run("erl", *given, "-noinput", "-eval", printed, folder=tmp_path)
    assert said == "[{kernel,yours}]"
