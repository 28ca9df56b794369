"""What is shown of a text that may quote the environment: names where it holds their values.

The words of start scripts, of exceptions and of release_handler repeat what they were given: whole,
escaped, as numbers, cut short, or a part alone, as the password of a database's URL. No I/O.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from urllib.parse import unquote

SHORTEST = 3
"""A shorter piece of a value is no secret, and stands in every text."""

SHORTEST_ANYWHERE = 6
"""From here on a piece is looked for anywhere; a shorter one only as a word of its own."""

MOST_CHARACTERS = 1000
"""How much of a text is shown, its begin and its end: an Erlang reason may have pages."""

END_BYTES = 2 * MOST_CHARACTERS
"""How much of what a program printed is looked at, where its end alone counts."""

NO_SECRETS = frozenset(
    {
        "APP_NAME", "BINDIR", "GIGALIXIR_APP_NAME", "GIGALIXIR_COMMAND", "HOME", "HOSTNAME", "LANG",
        "LC_ALL", "LC_CTYPE", "LOGNAME", "MY_NODE_NAME", "MY_POD_IP", "PATH", "PORT", "PWD",
        "RELEASE_MUTABLE_DIR", "RELEASE_NAME", "RELEASE_NODE", "RELEASE_TMP", "RELX_OUT_FILE_PATH",
        "RELX_REPLACE_OS_VARS", "REPLACE_OS_VARS", "ROOTDIR", "RUN_AGENT_ROOT", "SHELL", "TERM",
        "USER", "VMARGS_PATH",
    }
)  # fmt: skip
"""Variables whose values a reader needs, also where another variable repeats them."""

_SCHEME = re.compile(r"\b[a-z][a-z0-9+.-]*://")
_SEPARATORS = re.compile(r"[\s:/@?&=,;\"'\\]+")
_COLOURS = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|[\x00-\x08\x0b-\x1f\x7f]")
_CONTINUED = re.compile(r'"\s*\n\s*"')  # ~p breaks a long string in two
_NUMBERS = re.compile(r"\d+(?:,\s*\d+){7,}")  # a string, where one character is not printable
_CUT = re.compile(r'([^\s"\'<>\[({,]+)("?\.\.\.)')  # what ~P leaves of a string


def redacted(text: str, *envs: Mapping[str, str], keep: Iterable[str] = ()) -> str:
    """Return `text` with `$NAME` in the place of values of `envs`, and of pieces of them.

    Where two variables share one, the first is named. The words of `keep`, such as the name of the
    release, stay. Line breaks, too; colours and what is beyond `MOST_CHARACTERS` go.
    """
    return _shortened(_with_names(text, _names(envs, keep)))


def redacted_end(output: bytes, *envs: Mapping[str, str]) -> str:
    """Return the end of what a program printed, at most `MOST_CHARACTERS`, as `redacted` does.

    Of a word that is cut there nothing is left: no part of a value would be known as one.
    """
    text = output[-END_BYTES:].decode(errors="replace")
    if len(output) > END_BYTES:
        text = re.sub(r"^\S*", "…", text)
    shown = _with_names(text, _names(envs, ()))
    return shown if len(shown) <= MOST_CHARACTERS else f"… {shown[-MOST_CHARACTERS:].lstrip()}"


def _with_names(text: str, names: Mapping[str, str]) -> str:
    text = _NUMBERS.sub("…", _CONTINUED.sub("", _COLOURS.sub("", text)))
    # An environment may have a megabyte, of which a short text quotes little.
    if there := [piece for piece in names if piece in text]:
        text = _pattern(there).sub(lambda found: names[found[0]], text)
        text = re.sub(r"(\$\w+)(?:[^\w$]{0,4}\1(?!\w))+", r"\1", text)
    return _CUT.sub(lambda cut: _begun(cut[1], names) + cut[2], text).strip()


def _names(envs: Iterable[Mapping[str, str]], keep: Iterable[str]) -> dict[str, str]:
    """Map what may not be shown to what is shown instead."""
    items = [item for env in envs for item in env.items()]
    public = set(keep)
    for name, value in items:
        if name in NO_SECRETS:
            public.update(_pieces(value))
    names: dict[str, str] = {}
    for name, value in items:
        if name not in NO_SECRETS:
            for piece in _pieces(value):
                if piece not in public:
                    names.setdefault(piece, f"${name}")
    return names


def _pieces(value: str) -> Iterator[str]:
    """Give the forms of a value, its words, and their parts, as a URL has them."""
    escaped = value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    latin = value.encode(errors="replace").decode("latin-1")
    plain = _SCHEME.sub(" ", value)
    words = plain.split()
    parts = _SEPARATORS.split(plain)
    for piece in (value, escaped, latin, *words, *parts, *map(unquote, parts)):
        if len(piece) >= SHORTEST:
            yield piece


def _pattern(pieces: Iterable[str]) -> re.Pattern[str]:
    """Match the longest piece that is there; a letter after a backslash is an escape's."""
    return re.compile("|".join(map(_one, sorted(pieces, key=len, reverse=True))))


def _one(piece: str) -> str:
    if len(piece) >= SHORTEST_ANYWHERE:
        return re.escape(piece)
    return rf"(?:(?<!\w)|(?<=\\[nrtfvbe])){re.escape(piece)}(?!\w)"


def _begun(text: str, names: Mapping[str, str]) -> str:
    if len(text) < SHORTEST or text.startswith("$"):
        return text
    return next((name for piece, name in names.items() if piece.startswith(text)), text)


def _shortened(text: str) -> str:
    if len(text) <= MOST_CHARACTERS:
        return text
    half = MOST_CHARACTERS // 2
    return f"{text[:half]} … {text[-half:]}"
