"""The one place of the agent that spawns: short-lived helpers with a deadline and an owner.

Long-lived children (the release, the agent itself) belong to PID 1, not to this module. A child
leads a process group of its own, so that ending it ends what it started.
"""

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from run_agent.errors import RunAgentError

KILL_WAIT_SECONDS = 5.0
"""How long a killed child may take to be reaped; more means it hangs in the kernel."""

OUTPUT_LIMIT_BYTES = 4 << 20
"""Most output of a helper that is kept: an environment or a term fits, a flood does not."""


@dataclass(frozen=True, slots=True)
class Completed:
    """How a helper ended: its exit code (128+n for signal n) and its output."""

    code: int
    stdout: bytes
    stderr: bytes


async def run(
    argv: tuple[str, ...],
    *,
    deadline: float,
    env: Mapping[str, str],
    cwd: Path,
    stdin: bytes = b"",
    pass_fds: tuple[int, ...] = (),
) -> Completed:
    """Run `argv` to its end, `stdin` fed and both outputs collected.

    It inherits `pass_fds`. `deadline` is in seconds. Raises `RunAgentError` when the program
    cannot be started, exceeds the deadline (it and its group are killed), prints more than 4 MiB,
    or hangs in the kernel.
    """
    child = await spawn(argv, env=env, cwd=cwd, pass_fds=pass_fds)
    try:
        async with asyncio.timeout(deadline):
            out, err, _ = await asyncio.gather(
                _read(child.stdout, argv[0]), _read(child.stderr, argv[0]), _feed(child, stdin)
            )
            code = await child.wait()
    except TimeoutError:
        raise _too_long(argv[0], deadline) from None
    finally:
        await end_group(child)
    return Completed(exit_code(code), out, err)


async def follow(
    argv: tuple[str, ...],
    *,
    deadline: float,
    env: Mapping[str, str],
    cwd: Path,
    line: Callable[[str, str], None],
) -> int:
    """Run `argv` to its end and return its exit code, 128+n for signal n.

    `line` is called with `stdout` or `stderr` and each line that it prints, as it comes; what is
    no UTF-8 is replaced. `deadline` is in seconds. Raises `RunAgentError` as `run`; whatever ends
    this ends the program and its group.
    """
    child = await spawn(argv, env=env, cwd=cwd)
    assert child.stdin is not None
    child.stdin.close()
    try:
        async with asyncio.timeout(deadline):
            await asyncio.gather(
                _each_line(child.stdout, "stdout", line), _each_line(child.stderr, "stderr", line)
            )
            return exit_code(await child.wait())
    except TimeoutError:
        raise _too_long(argv[0], deadline) from None
    finally:
        await end_group(child)


async def spawn(
    argv: tuple[str, ...], *, env: Mapping[str, str], cwd: Path, pass_fds: tuple[int, ...] = ()
) -> asyncio.subprocess.Process:
    """Start `argv` with pipes for stdin, stdout and stderr, which the caller serves.

    The caller ends it with `end_group` and gives that a deadline. Raises `RunAgentError` when the
    program cannot be started.
    """
    pipe = asyncio.subprocess.PIPE
    _reap_without_threads()
    try:
        return await asyncio.create_subprocess_exec(
            *argv, env=env, cwd=cwd, stdin=pipe, stdout=pipe, stderr=pipe, process_group=0,
            pass_fds=pass_fds,
        )  # fmt: skip
    except OSError as error:
        raise RunAgentError(
            f"cannot start {argv[0]} in {cwd} ({error.strerror})", exit_code=os.EX_OSERR
        ) from error


def _reap_without_threads() -> None:
    """Learn of a child's end from its pidfd, as asyncio does by itself from Python 3.12 on.

    Before, it takes a thread for each: at the container's limit of processes there is none, and
    the child that has just started would have nobody to wait for it. Without pidfd_open(2) (Linux
    before 5.3, some sandboxes, a Python built against older headers) it stays with the threads.
    """
    if sys.version_info >= (3, 12) or not hasattr(os, "pidfd_open"):
        return
    watcher = asyncio.get_child_watcher()
    if isinstance(watcher, asyncio.PidfdChildWatcher) and watcher.is_active():
        return
    with contextlib.suppress(OSError):
        os.close(os.pidfd_open(os.getpid()))
        watcher = asyncio.PidfdChildWatcher()
        watcher.attach_loop(asyncio.get_running_loop())
        asyncio.set_child_watcher(watcher)


def exit_code(returncode: int) -> int:
    """Turn a `returncode` (negative for a signal) into the shell's form, 128+n."""
    return returncode if returncode >= 0 else 128 - returncode


async def end_group(child: asyncio.subprocess.Process) -> None:
    """Kill the child and its process group, and reap it; one that has ended is left alone.

    Raises `RunAgentError` when it is still there after 5 s, unless the caller is being cancelled:
    nothing may take the place of that.
    """
    if child.returncode is not None:
        return  # reaped: its number may be somebody else's by now
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    try:
        async with asyncio.timeout(KILL_WAIT_SECONDS):
            await child.wait()
    except TimeoutError:
        task = asyncio.current_task()
        if task is None or not task.cancelling():
            raise _stuck(child.pid) from None


def _stuck(pid: int) -> RunAgentError:
    return RunAgentError(
        f"cannot end process {pid}: {KILL_WAIT_SECONDS:g} s after it was killed it hangs in the "
        "kernel, most likely in a disk; check `dmesg`",
        exit_code=os.EX_OSERR,
    )


def _too_long(name: str, deadline: float) -> RunAgentError:
    return RunAgentError(
        f"cannot wait longer than {deadline:g} s for {name}; it was ended",
        exit_code=os.EX_TEMPFAIL,
    )


async def _each_line(
    stream: asyncio.StreamReader | None, name: str, line: Callable[[str, str], None]
) -> None:
    """Pass on each line; one that is longer than the reader's buffer comes in pieces."""
    assert stream is not None
    while not stream.at_eof():
        try:
            found = await stream.readuntil()
        except asyncio.IncompleteReadError as end:
            found = end.partial
        except asyncio.LimitOverrunError as over:
            found = await stream.readexactly(over.consumed)
        if found:
            line(name, found.decode(errors="replace").removesuffix("\n"))


async def _read(stream: asyncio.StreamReader | None, name: str) -> bytes:
    assert stream is not None
    parts, size = [], 0
    while part := await stream.read(1 << 16):
        parts.append(part)
        size += len(part)
        if size > OUTPUT_LIMIT_BYTES:
            raise RunAgentError(f"cannot use the output of {name}: it is over 4 MiB")
    return b"".join(parts)


async def _feed(child: asyncio.subprocess.Process, data: bytes) -> None:
    assert child.stdin is not None
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        child.stdin.write(data)
        await child.stdin.drain()
    child.stdin.close()
