"""What is to be pasted to observe a node from elsewhere."""

import shlex

import pytest

from entrypoint.commands import observer

FACTS = {
    "node": "hello@10.1.2.3",
    "cookie": "the cookie",
    "epmd_port": 4369,
    "distribution_port": 40001,
    "ssh_address": None,
    "ssh_port": None,
}


def test_the_ports_are_the_same_on_both_sides_and_the_address_is_made_local_before():
    commands = observer._commands(FACTS)
    assert list(commands)[:3] == ["route", "route_macos", "forward"]
    assert commands["route"] == "sudo ip address add 10.1.2.3/32 dev lo"
    assert commands["forward"] == (
        "ssh -N -L 127.0.0.1:4369:localhost:4369 -L 10.1.2.3:4369:localhost:4369 "
        "-L 10.1.2.3:40001:localhost:40001 root@HOST"
    )
    assert commands["observer"] == (
        "erl -hidden -name observer-$$@10.1.2.3 -setcookie 'the cookie' -run observer"
    )


def test_another_epmd_port_is_told_to_erl():
    commands = observer._commands(FACTS | {"epmd_port": 5000})
    assert commands["observer"].startswith("ERL_EPMD_PORT=5000 erl ")


@pytest.mark.parametrize("cookie", ["it's", "a b", "$HOME", "`id`", "plain", '"', "\\"])
def test_a_shell_gives_erl_the_cookie_as_it_is(cookie):
    words = shlex.split(observer._commands(FACTS | {"cookie": cookie})["observer"])
    assert words[words.index("-setcookie") + 1] == cookie


@pytest.mark.parametrize(
    ("told", "forward"),
    [
        ("10.0.0.1 5000 10.0.0.2 2222", "ssh -N -p 2222 … root@10.0.0.2"),
        ("2001:db8::1 5000 2001:db8::2 22", "ssh -N … root@2001:db8::2"),
        ("scrambled", "ssh -N -p 2200 … root@HOST"),
        (None, "ssh -N -p 2200 … root@HOST"),
    ],
)
def test_the_way_in_is_the_one_of_this_session_where_it_is_one_over_ssh(told, forward):
    came = observer._came_in_by(
        {"SSH_PORT": "2200"} | ({} if told is None else {"SSH_CONNECTION": told})
    )
    line = observer._commands(FACTS | came)["forward"]
    before, after = forward.split("…")
    assert line.startswith(f"{before}-L 127.0.0.1:4369")
    assert line.endswith(after)


def test_loopback_needs_no_route():
    commands = observer._commands(FACTS | {"node": "hello@127.0.0.1"})
    assert list(commands) == ["forward", "observer"]
    assert commands["forward"].count("-L 127.0.0.1:4369:") == 1


def test_people_read_every_command_below_what_it_is_for():
    text = observer._text(FACTS)
    for name, line in observer._commands(FACTS).items():
        before, below, _ = text.partition(f"\n{line}\n")
        assert below
        said = before.rpartition("\n\n")[2].splitlines()
        assert [words for words in said if not words.startswith("# ") or len(words) > 100] == []
        assert " ".join(words.removeprefix("# ") for words in said) == observer.EXPLANATIONS[name]


@pytest.mark.parametrize(("port", "option"), [("2222", "-p 2222 "), ("22", ""), ("none", "")])
def test_without_ssh_the_way_in_is_the_port_that_serves_it(port, option):
    came = observer._came_in_by({"SSH_PORT": port})
    line = observer._commands(FACTS | came)["forward"]
    assert line.startswith(f"ssh -N {option}-L 127.0.0.1:4369")
    assert line.endswith("root@HOST")
