"""The few Erlang terms that release files are made of, read and written without a VM.

Anything else (a float, a binary, a map) is refused: release files have none. The syntax is that
of `file:consult/1`: terms, each ended by a dot, and comments.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias

MAX_DEPTH = 50
"""Release files nest four deep; the limit keeps a hostile one from exhausting our stack."""


@dataclass(frozen=True, slots=True)
class Atom:
    """An Erlang atom, told apart from the string of the same characters."""

    name: str


Term: TypeAlias = "tuple[Term, ...] | list[Term] | int | Atom | str"
"""A str is what Erlang calls a string; to Erlang it equals the list of its code points."""

_TOKEN = re.compile(
    r"""
    (?P<space>   (?: \s | %[^\n]* )+ )
  | (?P<end>     \. (?= \s | % | \Z ) )
  | (?P<mark>    [{}\[\],] )
  | (?P<integer> [+-]?[0-9]+ (?! [0-9A-Za-z_@\#] | \.[0-9] ) )
  | (?P<atom>    [a-z\xdf-\xf6\xf8-\xff] [0-9A-Za-z_@\xc0-\xd6\xd8-\xf6\xf8-\xff]* )
  | (?P<quoted>  ' (?: [^'\\] | \\. )* ' )
  | (?P<string>  " (?: [^"\\] | \\. )* " (?: \s* " (?: [^"\\] | \\. )* " )* )
    """,
    re.VERBOSE | re.DOTALL,
)

_LITERAL = re.compile(r'"(?:[^"\\]|\\.)*"', re.DOTALL)
"""One of the several, side by side, that a long string is printed as."""

_ESCAPE = re.compile(
    r"\\(?: x\{(?P<wide>[0-9a-fA-F]+)\} | x(?P<hex>[0-9a-fA-F]{2}) | (?P<octal>[0-7]{1,3})"
    r" | \^(?P<control>.) | (?P<letter>.) )",
    re.VERBOSE | re.DOTALL,
)
_LETTERS = {
    "b": "\b", "d": "\x7f", "e": "\x1b", "f": "\f", "n": "\n", "r": "\r", "s": " ", "t": "\t",
    "v": "\v",
}  # fmt: skip

_PLAIN_ATOM = re.compile(r"[a-z][0-9A-Za-z_@]*")
_RESERVED = frozenset(
    {
        "after", "and", "andalso", "band", "begin", "bnot", "bor", "bsl", "bsr", "bxor", "case",
        "catch", "cond", "div", "else", "end", "fun", "if", "let", "maybe", "not", "of", "or",
        "orelse", "receive", "rem", "try", "when", "xor",
    }
)  # fmt: skip
"""Atoms of these names are written in quotes."""


@dataclass(frozen=True, slots=True)
class _Token:
    kind: str
    text: str
    line: int

    def unexpected(self, expected: str) -> ValueError:
        return ValueError(f"line {self.line}: expected {expected}, found {self.text!r}")


def consult(text: str) -> list[Term]:
    """Read all terms of a file. Raises `ValueError` with the line where it is none of ours."""
    tokens = _tokens(text)
    terms = []
    while (token := next(tokens)).kind != "nothing":
        terms.append(_term(token, tokens, 0))
        if (dot := next(tokens)).kind != "end":
            raise dot.unexpected("the dot that ends a term")
    return terms


def render(term: Term) -> str:
    """Write a term as Erlang reads it. The dot that ends it in a file is the caller's."""
    match term:
        case tuple():
            return "{" + ",".join(map(render, term)) + "}"
        case list():
            return "[" + ",".join(map(render, term)) + "]"
        case Atom(name):
            plain = _PLAIN_ATOM.fullmatch(name) and name not in _RESERVED
            return name if plain else _quoted(name, "'")
        case int():
            return str(term)
        case _:
            return _quoted(term, '"')


def _tokens(text: str) -> Iterator[_Token]:
    position, line = 0, 1
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None:
            raise ValueError(f"line {line}: cannot read {text[position : position + 20]!r}")
        if match.lastgroup != "space":
            yield _Token(str(match.lastgroup), match.group(), line)
        line += match.group().count("\n")
        position = match.end()
    yield _Token("nothing", "the end of the file", line)


def _term(token: _Token, tokens: Iterator[_Token], depth: int) -> Term:
    if depth > MAX_DEPTH:
        raise ValueError(f"line {token.line}: nested more than {MAX_DEPTH} deep")
    match token.kind, token.text:
        case "integer", digits:
            return int(digits)
        case "atom", name:
            return Atom(name)
        case "quoted", name:
            return Atom(_unquoted(name))
        case "string", literals:
            return "".join(map(_unquoted, _LITERAL.findall(literals)))
        case "mark", "{":
            return tuple(_elements("}", tokens, depth + 1))
        case "mark", "[":
            return list(_elements("]", tokens, depth + 1))
    raise token.unexpected("a term")


def _elements(closing: str, tokens: Iterator[_Token], depth: int) -> Iterator[Term]:
    token = next(tokens)
    if token.text == closing:
        return
    while True:
        yield _term(token, tokens, depth)
        token = next(tokens)
        if token.text == closing:
            return
        if token.text != ",":
            raise token.unexpected(f", or {closing}")
        token = next(tokens)


def _unquoted(token: str) -> str:
    return _ESCAPE.sub(_unescaped, token[1:-1])


def _unescaped(match: re.Match[str]) -> str:
    if digits := match["wide"] or match["hex"]:
        return chr(int(digits, 16))
    if match["octal"]:
        return chr(int(match["octal"], 8))
    if match["control"]:
        return chr(ord(match["control"]) & 31)
    return _LETTERS.get(match["letter"], match["letter"])


def _quoted(text: str, quote: str) -> str:
    return quote + "".join(_escaped(character, quote) for character in text) + quote


def _escaped(character: str, quote: str) -> str:
    if character in {quote, "\\"}:
        return "\\" + character
    return character if character.isprintable() else f"\\x{{{ord(character):x}}}"
