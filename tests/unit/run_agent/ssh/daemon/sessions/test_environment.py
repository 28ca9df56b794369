"""A session's environment."""

from pathlib import Path

import pytest

from run_agent.model import Launch, Layout
from run_agent.ssh.authorized_keys import AuthorizedKey
from run_agent.ssh.daemon.sessions import environment
from run_agent.ssh.daemon.sessions.environment import Request
from run_agent.ssh.daemon.site import Login

LAYOUT = Layout(Path("/r"))

RELEASES = {"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8", "HOME": "/home/app", "SECRET": "s"}


def build(request=None, releases=RELEASES, **key):
    login = Login(1, "root", AuthorizedKey("ssh-ed25519", b"", **key), ("10.0.0.1", 5000),
                  ("10.0.0.2", 22))  # fmt: skip
    launch = Launch((), releases, Path("/r/app"))
    return environment.build(launch, LAYOUT, login, request or Request())


def sent(**variables):
    return build(Request(sent=variables))


def test_the_releases_environment_is_there_and_wins_where_it_may():
    env = build(releases=RELEASES | {"BASH_ENV": "/mine"})
    assert (env["SECRET"], env["HOME"], env["BASH_ENV"]) == ("s", "/home/app", "/mine")


def test_what_a_shell_makes_anew_is_not_the_containers():
    env = build(releases=RELEASES | {"PWD": "/x", "OLDPWD": "/y", "SHLVL": "7", "_": "/z"})
    assert not {"OLDPWD", "SHLVL", "_"} & env.keys()


def test_the_folder_has_the_name_that_users_know():
    assert build()["PWD"] == "/r/app"


def test_ssh_tells_who_is_connected():
    env = build(Request("true", original="false"))
    assert env["SSH_CLIENT"] == "10.0.0.1 5000 22"
    assert env["SSH_CONNECTION"] == "10.0.0.1 5000 10.0.0.2 22"
    assert env["SSH_ORIGINAL_COMMAND"] == "false"
    assert "SSH_TTY" not in env


@pytest.mark.parametrize(
    "name", ["PATH", "HOME", "LD_PRELOAD", "BASH_ENV", "LC_EVIL", "LC_", "RUN_AGENT_SESSION"]
)
def test_a_client_sends_nothing_else(name):
    assert sent(**{name: "C"}) == build()


@pytest.mark.parametrize(
    "value", ["xx_XX.UTF-8", "", "/tmp/x", "../x", "C\nx", "x" * 1000, "C.UTF-8/x"]
)
def test_a_locale_that_is_not_here_changes_nothing(value):
    assert sent(LANG=value, LC_ALL=value, LC_CTYPE=value) == build()


def test_of_what_a_client_sends_only_what_may_be_taken_is_kept():
    kept = environment.Sent()
    for name in (b"LANG", b"LC_TIME", b"TERM", b"EVIL", b"\xff", b"LC_EVIL", b"PATH"):
        kept[name] = b"C"
    kept[b"LC_ALL"] = b"x" * 65
    assert kept.keys() == {b"LANG", b"LC_TIME", b"TERM"}


def test_the_clients_locale_takes_the_place_of_ours_category_by_category():
    env = sent(LC_TIME="C", LC_NUMERIC="xx_XX.UTF-8")
    assert {name: env[name] for name in env if name.startswith(("LC_", "LANG"))} == {
        "LANG": "C.UTF-8",
        "LC_TIME": "C",
    }


@pytest.mark.parametrize("name", ["LC_ALL", "LANG", "LC_CTYPE"])
def test_characters_stay_utf_8_whatever_the_client_wants(name):
    env = sent(**{name: "C"})
    assert env["LC_CTYPE"] == "C.UTF-8"
    assert "LC_ALL" not in env


@pytest.mark.parametrize("kind", ["../../etc/passwd", "", "x" * 100, "a b", "x\n"])
def test_a_terminal_type_that_is_none_is_not_taken(kind):
    assert "TERM" not in sent(TERM=kind)


def test_a_terminals_own_type_outweighs_the_one_sent():
    env = build(Request(terminal="xterm", tty="/dev/pts/1", sent={"TERM": "vt100"}))
    assert (env["TERM"], env["SSH_TTY"]) == ("xterm", "/dev/pts/1")


def test_only_an_interactive_shell_is_told_to_leave_out_the_users_files():
    name, shell = "RUN_AGENT_START_UP_FILES", Request(terminal="xterm", tty="/dev/pts/1")
    assert build(shell, allows_start_up_files=False)[name] == "no"
    assert name not in build(shell)
    assert name not in build(Request("true"), allows_start_up_files=False)


@pytest.mark.parametrize(
    ("program", "command", "interactive", "argv"),
    [
        ("/bin/bash", "true", True, ["/bin/bash", "-c", "true"]),
        ("/bin/bash", None, False, ["/bin/bash"]),
        ("/bin/sh", None, True, ["/bin/sh", "-l", "-i"]),
        ("/bin/sh", "true", False, ["/bin/sh", "-c", "true"]),
    ],
)
def test_the_shell_is_bash_or_else_sh(program, command, interactive, argv):
    assert environment.shell({"SHELL": program}, command, interactive=interactive) == argv


def test_an_interactive_bash_reads_our_file():
    program, option, file, mode = environment.shell({"SHELL": "/bin/bash"}, None, interactive=True)
    assert (program, option, mode) == ("/bin/bash", "--rcfile", "-i")
    assert Path(file).is_file()
