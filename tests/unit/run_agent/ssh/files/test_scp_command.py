"""The command of the far side of scp, read as a shell reads it."""

import pytest

from run_agent.ssh.files import scp, scp_command
from run_agent.ssh.files.scp_command import Word


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("plain", Word("plain")),
        ("'a b'", Word("a b")),
        (r"a\ b", Word("a b")),
        (r'"a\"b\c"', Word(r'a"b\c')),
        ("a'b'\"c\"", Word("abc")),
        ("''", Word("")),
        ("*.log", Word("*.log", "*.log")),
        (r"a\*b", Word("a*b")),
        ("'*'?", Word("*?", "[*]?")),
        ("'a;$b`c'", Word("a;$b`c")),
        ("~/x", Word("~/x", home=True)),
        ("'~/x'", Word("~/x")),
        (r"\~", Word("~")),
    ],
)
def test_words_mean_what_they_mean_to_a_shell(text, word):
    assert scp_command.split(text) == [word]


def test_a_command_is_read_in_full():
    asked = scp_command.parse("scp -pr -d -f -- -a 'b c'")
    assert [word.text for word in asked.paths] == ["-a", "b c"]
    assert (asked.sends, asked.recursive, asked.preserve, asked.to_folder) == (True,) * 4


def test_wildcards_and_home_are_expanded_as_a_shell_does(tmp_path):
    for name in ("b.log", "a.log", ".hidden.log", "other"):
        (tmp_path / name).touch()
    folder, home = bytes(tmp_path), b"/home/me"

    def expanded(text):
        (word,) = scp_command.split(text)
        return scp.expand(word, folder, home)

    assert expanded("*.log") == [b"a.log", b"b.log"]
    assert expanded("'*.log'") == [b"*.log"]
    assert expanded("*.none") == [b"*.none"]
    assert expanded("~/x") == [b"/home/me/x"]
    assert expanded("'~/x'") == [b"~/x"]
