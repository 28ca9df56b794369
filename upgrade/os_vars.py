"""`${NAME}` in configuration files, as the start scripts of relx and Distillery replace it."""

import contextlib
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from run_agent.errors import RunAgentError

MOST_ROUNDS = 20
"""How deep values may name other variables; the scripts would go on for ever in a circle."""

_VARIABLE = re.compile(rb"\$\{(?P<name>[^}\n]*?)(?::-(?P<default>[^}\n]*))?\}")


def replaced(text: bytes, env: Mapping[str, str]) -> bytes:
    """Return `text` with every `${NAME}` and `${NAME:-DEFAULT}` replaced, in values too.

    What is not set becomes the default or nothing. Raises `RunAgentError` (78) where values name
    each other in a circle.
    """

    def value(match: re.Match[bytes]) -> bytes:
        found = os.fsencode(env.get(os.fsdecode(match["name"]), ""))
        return found or match["default"] or b""

    for _ in range(MOST_ROUNDS):
        text, count = _VARIABLE.subn(value, text)
        if count == 0:
            return text
    names = sorted({os.fsdecode(match["name"]) for match in _VARIABLE.finditer(text)})
    raise RunAgentError(
        f"cannot render the configuration: the values of {', '.join(names)} name each other in a "
        "circle; take the ${} out of one of them",
        exit_code=os.EX_CONFIG,
    )


@contextlib.contextmanager
def writing(root: Path) -> Iterator[None]:
    """Say in the user's words what keeps us from reading or writing a release's files (74)."""
    try:
        yield
    except OSError as error:
        raise RunAgentError(
            f"cannot prepare {error.filename or root} ({error.strerror}): the release's folder "
            f"{root} and the run folder must be writable and have room",
            exit_code=os.EX_IOERR,
        ) from error
