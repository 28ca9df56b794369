"""The run folder and the volume: there, writable, and no other run-agent's."""

import fcntl
import os

from entrypoint.init.sockets import CannotStartError

OF_ONE_RUN = ("environment.json", "vm.args", "vm.args.orig", "change.json")
"""Files in the run folder that must not outlive the run: it may be a volume that stays."""


def lock(run: str, volume: str) -> int:
    """Create the folders and make sure that no other run-agent works in them.

    Returns the descriptor that holds the lock. Raises `CannotStartError`.
    """
    try:
        os.makedirs(run, mode=0o700, exist_ok=True)
        os.makedirs(volume, exist_ok=True)
        descriptor = os.open(
            os.path.join(run, "init.lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600
        )
    except OSError as error:
        raise CannotStartError(
            f"cannot write {error.filename} ({error.strerror}): mount a writable volume there"
        ) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        raise CannotStartError(
            f"cannot start in {run}: another run-agent runs there; stop it, or set RUN_AGENT_ROOT; "
            "a command beside what runs there is started by `run-agent run CMD`",
            os.EX_TEMPFAIL,
        ) from error
    for name in OF_ONE_RUN:
        try:
            os.unlink(os.path.join(run, name))
        except OSError:
            pass  # there was no earlier run; if it stays, the next start overwrites it
    return descriptor
