"""The run folder and the volume: there, writable, and no other run-agent's."""

import fcntl
import os
import stat

from entrypoint.init.sockets import CannotStartError

HEALTH_PORT = "health-port"
"""The file that says where PID 1 answers probes: a port, or "none"."""

OF_ONE_RUN = ("environment.json", "vm.args", "change.json", HEALTH_PORT)
"""Files in the run folder that must not outlive the run: it may be a volume that stays."""


def lock(run: str, volume: str) -> int:
    """Create the folders and make sure that no other run-agent works in them.

    Returns the descriptor that holds the lock. Raises `CannotStartError`.
    """
    try:
        os.makedirs(run, mode=0o700, exist_ok=True)
        os.makedirs(volume, exist_ok=True)
        _close_to_others(run)
        _close_to_others(volume)
        descriptor = os.open(
            os.path.join(run, "init.lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600
        )
    except OSError as error:
        raise CannotStartError(
            f"cannot write {error.filename} ({error.strerror}): mount a volume there that user "
            f"{os.geteuid()} may write"
        ) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        raise CannotStartError(
            f"cannot start in {run}: another run-agent runs there; stop it, or set RUN_AGENT_ROOT; "
            "a command beside what runs there is started by `run-agent run CMD`",
            os.EX_TEMPFAIL,
        ) from error
    for name in os.listdir(run):
        if name not in OF_ONE_RUN and not name.startswith(("vm.args.", "vm.args-")):
            continue
        try:
            os.unlink(os.path.join(run, name))
        except OSError:
            pass  # there was no earlier run; if it stays, the next start overwrites it
    return descriptor


def note_health_port(run: str, port: object) -> None:
    """Tell the image's health check where PID 1 answers: the verb decides that, not HEALTH_PORT.

    Raises `CannotStartError`.
    """
    path = os.path.join(run, HEALTH_PORT)
    try:
        with open(path, "w", opener=_for_us_only) as file:
            file.write("none" if port is None else str(port))
    except OSError as error:
        raise CannotStartError(
            f"cannot write {path} ({error.strerror}): mount a writable volume with space at {run}"
        ) from error


def _for_us_only(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _close_to_others(folder: str) -> None:
    """Take away that everybody may write there: the image cannot know who will be its user.

    Where another user owns it, it has to stay open: for us.
    """
    status = os.stat(folder)
    if status.st_uid == os.geteuid() and status.st_mode & stat.S_IWOTH:
        try:
            os.chmod(folder, stat.S_IMODE(status.st_mode) & ~(stat.S_IWGRP | stat.S_IWOTH))
        except OSError:
            pass  # a mount whose modes are fixed
