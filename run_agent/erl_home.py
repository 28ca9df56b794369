"""A home folder that holds nothing but the cookie, for Erlang programs that we start ourselves.

They take the cookie from there. Every other way shows it: what an argv, ERL_FLAGS or an args_file
says, the VM repeats in its own argv, which is for everybody to read.
"""

import os
from pathlib import Path

from run_agent import files
from run_agent.errors import RunAgentError
from run_agent.model import Secret


def prepare(run: Path, cookie: Secret) -> Path:
    """Return the folder below the run folder, with the cookie in it; other calls may be at it too.

    To be given as HOME. Raises `RunAgentError` (74) where it cannot be written.
    """
    home = run / "erl_call"
    file, content = home / ".erlang.cookie", cookie.reveal().encode()
    try:
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not file.exists() or file.read_bytes() != content:
            files.atomic_write(file, content, mode=0o400)
    except OSError as error:
        raise RunAgentError(
            f"cannot write {file} ({error.strerror}): the run folder must be writable and "
            "have room; mount a tmpfs there",
            exit_code=os.EX_IOERR,
        ) from error
    return home
