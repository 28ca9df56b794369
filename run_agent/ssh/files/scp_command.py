"""The command with which scp starts its far side: `scp [-r -p -d -v -q] -t|-f PATH…`.

Clients write it for a shell, and people rely on what the shell does to the paths: quotes, `~`,
wildcards. That much is understood here. What needs a real shell (`;`, `$`, a pipe) is not ours.
"""

from __future__ import annotations

import glob
from dataclasses import dataclass
from typing import NamedTuple

FOR_A_SHELL = frozenset(";&|<>()$`\n\r\0#")
"""Outside quotes these mean more than themselves (sh(1p)); `#` only starts a comment before a
word, but nobody's path is worth the difference."""

IN_DOUBLE_QUOTES = frozenset('$`"\\')
"""What a backslash takes the meaning from, there."""

WILDCARDS = frozenset("*?[")

OPTIONS = frozenset("rpdvq")


class Word(NamedTuple):
    """One word of the command: as it is without its quotes, and as a pattern for glob."""

    text: str
    pattern: str | None = None
    """None where it holds no wildcard."""
    home: bool = False
    """Whether its `~` stands for a home folder."""


@dataclass(frozen=True, slots=True)
class Command:
    """What the far side is to do."""

    sends: bool
    """-f: the paths go to the client; otherwise (-t) what it sends goes to the one path."""
    paths: tuple[Word, ...]
    recursive: bool = False
    preserve: bool = False
    to_folder: bool = False


def parse(command: str) -> Command | None:
    """Return what `command` asks for, None where it is not exactly scp's far side."""
    words = split(command)
    if not words or words[0].text != "scp":
        return None
    flags, paths = _flags(words[1:])
    directions = flags & {"t", "f"}
    if len(directions) != 1 or flags - directions - OPTIONS or not paths:
        return None
    sends = directions == {"f"}
    if not sends and len(paths) != 1:
        return None
    return Command(sends, tuple(paths), "r" in flags, "p" in flags, "d" in flags)


def _flags(words: list[Word]) -> tuple[set[str], list[Word]]:
    flags: set[str] = set()
    for at, word in enumerate(words):
        if word.text == "--":
            return flags, words[at + 1 :]
        if not word.text.startswith("-") or word.text == "-":
            return flags, words[at:]
        flags |= set(word.text[1:])
    return flags, []


def split(command: str) -> list[Word] | None:
    """Split into words as a shell does; None where only a shell can."""
    words: list[Word] = []
    at, end = 0, len(command)
    while True:
        while at < end and command[at] in " \t":
            at += 1
        if at == end:
            return words
        found = _word(command, at)
        if found is None:
            return None
        word, at = found
        words.append(word)


def _word(command: str, start: int) -> tuple[Word, int] | None:
    """Take the word at `start`; None where its quotes do not end, or a shell is needed."""
    text, pattern, quote, wild = "", "", "", False
    at = start
    while at < len(command):
        one = command[at]
        at += 1
        if not quote and one in " \t":
            break
        if one == quote or (not quote and one in "'\""):
            quote = "" if quote else one
            continue
        if one == "\\" and quote != "'":
            if at == len(command) or command[at] == "\n":
                return None
            if not quote or command[at] in IN_DOUBLE_QUOTES:
                one = command[at]
                at += 1
        elif one in ("$`" if quote == '"' else "" if quote else FOR_A_SHELL):
            return None
        elif not quote and one in WILDCARDS:
            text, pattern, wild = text + one, pattern + one, True
            continue
        text, pattern = text + one, pattern + glob.escape(one)
    if quote:
        return None
    return Word(text, pattern if wild else None, home=command[start] == "~"), at
