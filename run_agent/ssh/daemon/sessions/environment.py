"""What the processes of a session see: the release's environment, and what SSH adds to it.

Of what a client sends only its locale and its terminal's type are taken, and only in the form
that these have; the rest, of which it may send any amount, is not even kept.
"""

from __future__ import annotations

import ctypes
import functools
import os
import pwd
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from run_agent.model import Launch, Layout
from run_agent.release import locales
from run_agent.session_path import session_path
from run_agent.ssh.daemon.sessions.terminal import KNOWN_TYPE
from run_agent.ssh.daemon.site import Login

SHELLS = ("bash", "sh")

CATEGORIES = frozenset(
    ("LANG", "LC_ALL", "LC_ADDRESS", "LC_COLLATE", "LC_CTYPE", "LC_IDENTIFICATION",
     "LC_MEASUREMENT", "LC_MESSAGES", "LC_MONETARY", "LC_NAME", "LC_NUMERIC", "LC_PAPER",
     "LC_TELEPHONE", "LC_TIME")
)  # fmt: skip
"""locale(7). OpenSSH's clients send them by default on Debian (SendEnv)."""

LOCALE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.@-]{0,63}")
"""Without a slash: the C library would take a path for a folder of its own."""

TAKEN = frozenset(name.encode() for name in (*CATEGORIES, "TERM"))

LONGEST = 64
"""Bytes of a locale's or a terminal's name; neither pattern takes more."""

SHELL_OWN = ("_", "OLDPWD", "PWD", "SHLVL")
"""What each shell sets anew: the container's are not the session's."""

BELOW_A_SHELL = "1"
"""SHLVL for `-c`: Debian's bash reads ~/.bashrc where SSH_CLIENT is set and it believes itself the
first shell. What that file prints would break scp and rsync."""

ALL_CATEGORIES = 0x1FBF
"""newlocale(3): LC_ALL_MASK, glibc's; a C library that has fewer passes over the others."""


@dataclass(frozen=True, slots=True)
class Request:
    """What a client asked for: a command (None: a shell), and a terminal's type and device."""

    command: str | None = None
    terminal: str | None = None
    tty: str | None = None
    original: str | None = None
    """What it asked for where its key's `command=` runs instead."""
    sent: Mapping[str, str] | None = None
    """The variables that it sent."""


class Sent(dict[bytes, bytes]):
    """The variables that a client sends, of which only what may be taken is kept."""

    def __setitem__(self, name: bytes, value: bytes) -> None:
        """Keep it, or not."""
        if name in TAKEN and len(value) <= LONGEST:
            super().__setitem__(name, value)


def build(launch: Launch, layout: Layout, login: Login, request: Request) -> dict[str, str]:
    """Build the environment; later wins: the release's, the client's locale, what SSH sets."""
    sent = request.sent or {}
    env = {name: value for name, value in launch.env.items() if name not in SHELL_OWN}
    env = _with_locale(env, sent)
    env["PATH"] = session_path(env.get("PATH"), layout)
    env |= _account(env, layout, login)
    env |= _connection(login, request)
    env |= _start_up(env, login, request)
    env["PWD"] = str(launch.cwd)  # or bash would show where its links lead
    kind = request.terminal if request.tty else sent.get("TERM")
    if kind and KNOWN_TYPE.fullmatch(kind):
        env["TERM"] = kind
    return env


def shell(env: Mapping[str, str], command: str | None, *, interactive: bool) -> list[str]:
    """Return the argv: bash, or sh where it is missing, with `command` or without."""
    program = env["SHELL"]
    if command is not None:
        return [program, "-c", command]
    if not interactive:
        return [program]  # reads its commands from stdin
    if Path(program).name == SHELLS[0]:
        return [program, "--rcfile", str(_file("bashrc")), "-i"]
    return [program, "-i"] if env.get("RUN_AGENT_START_UP_FILES") else [program, "-l", "-i"]


def _with_locale(env: Mapping[str, str], sent: Mapping[str, str]) -> dict[str, str]:
    """Put the client's locale in the place of ours, category by category, where it exists here.

    Characters stay UTF-8 in any case: without, Erlang prints escapes instead of letters.
    """
    wanted = {
        name: value
        for name, value in sent.items()
        if name in CATEGORIES and LOCALE.fullmatch(value) and _exists(value)
    }
    if not wanted:
        return dict(env)
    ours = env.get("LC_ALL") or env.get("LC_CTYPE") or env.get("LANG") or locales.utf8()
    everything = wanted.pop("LC_ALL", None)
    chosen = {"LANG": everything} if everything else {"LANG": ours} | wanted
    if not _is_utf8(chosen.get("LC_CTYPE", chosen["LANG"])):
        chosen["LC_CTYPE"] = ours
    return {name: value for name, value in env.items() if name not in CATEGORIES} | chosen


def _account(env: Mapping[str, str], layout: Layout, login: Login) -> dict[str, str]:
    """Name the account that the release runs as; the one that was typed is but a way to it."""
    try:
        account = pwd.getpwuid(os.geteuid())
        name, home = account.pw_name, account.pw_dir
    except KeyError:  # an arbitrary number, as some platforms choose
        name, home = login.user, str(layout.app)
    found = (shutil.which(name, path=env["PATH"]) for name in SHELLS)
    program = next(filter(None, found), "/bin/sh")
    return {
        "HOME": env.get("HOME") or home,
        "USER": name,
        "LOGNAME": name,
        "SHELL": program,
        "RUN_AGENT_ROOT": str(layout.root),
    }


def _connection(login: Login, request: Request) -> dict[str, str]:
    """Tell of the connection what ssh(1), ENVIRONMENT, promises."""
    (source, source_port), (local, local_port) = login.source[:2], login.local[:2]
    ssh = {
        "SSH_CLIENT": f"{source} {source_port} {local_port}",
        "SSH_CONNECTION": f"{source} {source_port} {local} {local_port}",
        "SSH_TTY": request.tty,
        "SSH_ORIGINAL_COMMAND": request.original,
    }
    return {name: value for name, value in ssh.items() if value is not None}


def _start_up(env: Mapping[str, str], login: Login, request: Request) -> dict[str, str]:
    """Name the files that shells read before anything else; the user's own BASH_ENV stays."""
    start_up = {}
    if Path(env["SHELL"]).name == SHELLS[0]:
        start_up["BASH_ENV"] = env.get("BASH_ENV") or str(_file("path.sh"))
        if request.command is not None:
            start_up["SHLVL"] = BELOW_A_SHELL
    else:
        start_up["ENV"] = env.get("ENV") or str(_file("path.sh"))
    if request.command is None and request.tty and not login.key.allows_start_up_files:
        start_up["RUN_AGENT_START_UP_FILES"] = "no"
    return start_up


def _file(name: str) -> Path:
    return Path(str(resources.files("run_agent.ssh.daemon.sessions") / "shell" / name))


@functools.lru_cache(maxsize=256)
def _exists(locale: str) -> bool:
    """Ask the C library, which alone knows where its locales are."""
    libc = ctypes.CDLL(None)
    libc.newlocale.argtypes = [ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p]
    libc.newlocale.restype = ctypes.c_void_p
    libc.freelocale.argtypes = [ctypes.c_void_p]
    found = libc.newlocale(ALL_CATEGORIES, locale.encode(), None)
    if found:
        libc.freelocale(found)
    return bool(found)


def _is_utf8(locale: str) -> bool:
    return re.search(r"\.utf-?8\b", locale, re.IGNORECASE) is not None
