"""Judge what a controller says: JSON at the door, frozen values behind it.

Pure: bytes and objects in, `model.Deploy`, lines and strings out. Every problem of a deploy is
listed at once, each by the name of its field. Config values, and the query of a slug's URL, never
get into a message.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn, TypeGuard, TypeVar
from urllib.parse import SplitResult, urlsplit

from run_agent.errors import UnavailableError
from run_agent.model import Deploy

T = TypeVar("T")

ENTRY_LIMIT_BYTES = 131_072
"""The longest `NAME=VALUE` with its NUL that Linux takes in execve (MAX_ARG_STRLEN, 32 pages)."""

RELEASE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,127}")
"""customer_app_name becomes the path `bin/NAME`, so it has neither slash nor dot."""

SHA256 = re.compile(r"[0-9A-Fa-f]{64}")

EVAL_LANGUAGES = ("erlang", "elixir")


@dataclass(frozen=True, slots=True)
class SshKeys:
    """Lines of an authorized_keys file, unjudged, with neither blank lines nor line ends.

    `changed` is false where the controller said that they are the ones it sent last (HTTP 304).
    It is about this controller's last answer, whoever asked: one of two callers that keep a copy
    each compares `lines`.
    """

    lines: tuple[str, ...]
    changed: bool = True


class AnswerError(ValueError):
    """What is wrong with an answer, in words that go behind the name of its source."""


class Number(str):
    """A JSON number, digit for digit as it was written."""

    __slots__ = ()


def loads(body: bytes) -> object:
    """Decode JSON; raises `AnswerError` with a message that quotes nothing of `body`."""
    try:
        return json.loads(
            body.decode("utf-8-sig"),
            parse_int=Number,
            parse_float=Number,
            parse_constant=_refuse_constant,
        )
    except UnicodeDecodeError:
        raise AnswerError("it is not UTF-8") from None
    except json.JSONDecodeError as error:
        where = f"{error.msg}, line {error.lineno} column {error.colno}"
        raise AnswerError(f"it is not JSON ({where})") from None
    except RecursionError:
        raise AnswerError("it is nested too deep") from None


def data(answer: object) -> object:
    """Return what an HTTP controller wraps in `{"data": …}`; raises `AnswerError`."""
    if not isinstance(answer, dict) or answer.get("data") is None:
        raise AnswerError("data is missing")
    return answer["data"]


def deploy(found: object, source: str, *, folder: Path | None = None) -> Deploy:
    """Build the deploy from its decoded JSON object.

    `source` is how messages name where it came from. With `folder` a relative slug_url is one of
    its files. Raises `UnavailableError`, which lists everything that is missing or malformed.
    """
    if not isinstance(found, dict):
        raise unusable(source, "the deploy is not a JSON object")
    problems: list[str] = []

    def field(name: str, rule: Callable[[object], T]) -> T | None:
        try:
            return rule(found.get(name))
        except AnswerError as problem:
            problems.append(f"{name} {problem}")
            return None

    slug_url = field("slug_url", lambda value: _slug_url(value, folder))
    app_name = field("customer_app_name", _release_name)
    version, cloud = field("version", _text), field("cloud", _text)
    sha, summary = field("sha", _text), field("summary", _text)
    created_at, slug_sha256 = field("created_at", _text), field("slug_sha256", _sha256)
    language, remote_command = _distillery(found.get("capabilities"))
    config = field("config", _object) or {}
    problems += _config_problems(config)
    if problems or slug_url is None or app_name is None:
        raise unusable(source, *problems)
    return Deploy(
        slug_url=slug_url,
        app_name=app_name,
        version=version,
        config={name: _scalar(value) for name, value in config.items() if value is not None},
        cloud=cloud,
        distillery_eval=language,
        distillery_remote_command=remote_command,
        slug_sha256=slug_sha256,
        sha=sha,
        summary=summary,
        created_at=created_at,
    )


def ssh_keys(found: object) -> tuple[str, ...]:
    """Return the lines of a JSON list of keys; raises `AnswerError` naming the bad entry.

    An entry with line breaks is as many lines as a file made of the list would hold.
    """
    if not isinstance(found, list):
        raise AnswerError("data is not a list of keys")
    for number, entry in enumerate(found, start=1):
        if not _is_text(entry):
            raise AnswerError(f"key {number} is not a string of Unicode")
    return lines("\n".join(found))


def lines(text: str) -> tuple[str, ...]:
    """Split into lines at line feeds only (as sshd does), without blank ones."""
    return tuple(line.strip() for line in text.split("\n") if line.strip())


def host_index(found: object) -> str:
    """Return the index of `{"index": 1}`; raises `AnswerError`."""
    index = found.get("index") if isinstance(found, dict) else None
    if not isinstance(index, str) or not (index.isascii() and index.isdecimal()):
        raise AnswerError("index is missing or no whole number")
    return str(index)


def expression(found: object) -> str:
    """Return the expression to evaluate; raises `AnswerError`."""
    if not _is_text(found) or not found.strip():
        raise AnswerError("data is not an expression")
    return found


def unusable(source: str, *problems: str) -> UnavailableError:
    """Build the error for an answer that came, but that cannot be used."""
    listed = "; ".join(problems)
    return UnavailableError(f"cannot use {source}: {listed}; correct it there")


def _refuse_constant(name: str) -> NoReturn:
    raise AnswerError(f"it is not JSON ({name} is no JSON number)")


def _slug_url(value: object, folder: Path | None) -> str:
    if value is None or value == "":
        raise AnswerError("is missing")
    if not _is_text(value) or not value.isprintable():
        raise AnswerError("is not a string of printable characters")
    try:
        parts = urlsplit(value)
        hostname = parts.hostname
    except ValueError:
        # Its own message may quote the user and password of the URL.
        raise AnswerError("is not a URL") from None
    if folder is not None and not parts.scheme:
        # `..` may leave the folder: whoever writes there may name any file:// URL as well.
        return (folder / value).as_uri()
    if not _names_a_file(parts, hostname):
        raise AnswerError("must be https://, http://, gs://BUCKET/OBJECT or file:///PATH")
    return value


def _names_a_file(parts: SplitResult, hostname: str | None) -> bool:
    match parts.scheme:
        case "https" | "http":
            return bool(hostname)
        case "gs":
            return bool(parts.netloc and parts.path.strip("/"))
        case "file":
            return not parts.netloc and parts.path.startswith("/")
    return False


def _release_name(value: object) -> str:
    if value is None or value == "":
        raise AnswerError("is missing")
    if not _is_text(value) or not RELEASE_NAME.fullmatch(value):
        raise AnswerError("must be letters, digits, - and _ (it becomes the path bin/NAME)")
    return value


def _sha256(value: object) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str) or not SHA256.fullmatch(value):
        raise AnswerError("must be 64 hexadecimal digits")
    return value.lower()


def _text(value: object) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str):
        raise AnswerError("is neither a string nor a number")
    # Text for people is no reason to refuse a deploy.
    return value.encode("utf-8", "replace").decode() or None


def _distillery(capabilities: object) -> tuple[str | None, str | None]:
    """Return the language of `eval` and the remote command; what is unknown counts as absent."""
    tool = capabilities.get("distillery") if isinstance(capabilities, dict) else None
    if not isinstance(tool, dict):
        return None, None
    language, remote_command = tool.get("eval"), tool.get("remote_command")
    return (
        language if language in EVAL_LANGUAGES else None,
        remote_command if _is_text(remote_command) else None,
    )


def _object(value: object) -> dict[str, object]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise AnswerError("is not a JSON object")
    return value


def _config_problems(config: Mapping[str, object]) -> Iterator[str]:
    for name, value in config.items():
        problem = None if value is None else _entry_problem(name, value)
        if problem is not None:
            yield f"config {name[:64]!r} {problem}"


def _entry_problem(name: str, value: object) -> str | None:
    if name == "" or "=" in name or "\0" in name:
        return "is no name for a variable"
    if not isinstance(value, str | bool):
        return "is neither a string, a number nor a boolean"
    text = _scalar(value)
    if "\0" in text:
        return "holds a NUL"
    if not _is_unicode(name + text):
        return "is not valid Unicode (half of a surrogate pair)"
    size = len(f"{name}={text}\0".encode())
    return "is over 128 KiB" if size > ENTRY_LIMIT_BYTES else None


def _scalar(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)


def _is_text(value: object) -> TypeGuard[str]:
    return isinstance(value, str) and not isinstance(value, Number) and _is_unicode(value)


def _is_unicode(text: str) -> bool:
    """Whether `text` can be written anywhere: JSON may hold half of a surrogate pair."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
