"""Starting, reaping and ending child processes. Signals only what is provably ours."""

import fcntl
import os
import signal
import sys
import termios
from collections import namedtuple
from collections.abc import Callable, Iterable, Iterator, Mapping

PR_SET_CHILD_SUBREAPER = 36
"""prctl(2): orphans below us become our children, as they do of PID 1."""

KILL_ROUNDS = 10

MOST_OOM_SCORE = 1000
"""proc(5), oom_score_adj."""

CANNOT_EXECUTE, NOT_FOUND = 126, 127
"""The shell's exit codes (POSIX 2.8.2) for a program that cannot be executed or is missing."""


def adopt_orphans() -> None:
    """Become the subreaper of everything started below; raises `OSError` where that fails."""
    if os.getpid() == 1:
        return
    import ctypes  # noqa: PLC0415 - half a MiB that PID 1 proper never pays

    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")


def spawn(  # noqa: PLR0913 - what a start may want; all but two have defaults
    argv: list[str],
    *,
    env: Mapping[str, str],
    cwd: str | None = None,
    keep: Iterable[int] = (),
    redirect: Mapping[int, int] | None = None,
    raise_oom_score: int = 0,
    terminal: bool = False,
    session: bool = False,
    files: tuple[int, int] | None = None,
) -> int:
    """Fork and execute `argv` in a process group (or session) of its own; return its pid.

    `keep` are descriptors it inherits, `redirect` maps its descriptors to ours. `terminal` makes
    its group the foreground of the terminal that it shares with us; together with `session`, the
    terminal at its descriptor 0 becomes its own. `files` are its limits of open files, soft and
    hard, in the place of ours. With `raise_oom_score` the kernel takes it before us. What fails
    after the fork is told on stderr by the child, which ends with 127 (not found) or 126.
    """
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        pid = os.fork()
        if pid == 0:
            os.setsid() if session else os.setpgid(0, 0)
            _become(argv, env, cwd, keep, redirect or {}, raise_oom_score,
                    terminal=terminal, session=session, files=files)  # fmt: skip
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
    if not session:
        try:
            os.setpgid(pid, pid)  # the child does it too: whoever is first, the group exists now
        except OSError:
            pass  # it has executed already, its own call came first
    return pid


def _become(  # noqa: PLR0913 - as above
    argv: list[str],
    env: Mapping[str, str],
    cwd: str | None,
    keep: Iterable[int],
    redirect: Mapping[int, int],
    raise_oom_score: int,
    *,
    terminal: bool,
    session: bool,
    files: tuple[int, int] | None,
) -> None:
    """Turn the forked child into `argv`. Never returns."""
    try:
        if terminal and not session:
            os.tcsetpgrp(0, os.getpid())  # SIGTTOU is blocked here
        if raise_oom_score:
            _raise_oom_score(raise_oom_score)
        for target, source in redirect.items():
            os.dup2(source, target)
        if terminal and session:
            fcntl.ioctl(0, termios.TIOCSCTTY, 0)
        for descriptor in keep:
            os.set_inheritable(descriptor, True)
        if cwd is not None:
            os.chdir(cwd)
        if files is not None:
            _limit_files(files)
        for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        os.execvpe(argv[0], argv, env)
    except OSError as error:
        sys.stderr.write(f"cannot execute {argv[0]} in {cwd or os.curdir} ({error.strerror}): "
                         "check the command, the PATH, and a script's #! line\n")  # fmt: skip
        sys.stderr.flush()
        os._exit(NOT_FOUND if isinstance(error, FileNotFoundError) else CANNOT_EXECUTE)
    finally:
        os._exit(CANNOT_EXECUTE)


def _limit_files(limits: tuple[int, int]) -> None:
    import resource  # noqa: PLC0415 - PID 1 starts nothing with limits, and so never loads it

    resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def _raise_oom_score(by: int) -> None:
    """Put it above ours: what we have is the container's, and may be near the most (proc(5))."""
    try:
        with open("/proc/self/oom_score_adj", "r+") as file:
            score = min(int(file.read()) + by, MOST_OOM_SCORE)
            file.seek(0)
            file.write(str(score))
    except OSError:
        pass  # a hint to the kernel; a sandbox without /proc does without


def reap() -> Iterator[tuple[int, int]]:
    """Give (pid, exit code) of every child that has ended, 128+n for signal n.

    A child stays a zombie while the caller looks at it, so that its pid, its group and its
    session cannot be anybody else's yet.
    """
    while True:
        try:
            ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return
        if ended is None:
            return
        by_exit = ended.si_code == os.CLD_EXITED
        yield ended.si_pid, ended.si_status if by_exit else 128 + ended.si_status
        os.waitpid(ended.si_pid, 0)


def none_left() -> bool:
    """Whether we have no child at all any more (as PID 1 or subreaper: no descendant)."""
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return True
    return False


def signal_all(number: int) -> None:
    """Signal everything else in the container, or outside PID 1 what descends from us."""
    if os.getpid() == 1:
        signal_quietly(os.kill, -1, number)
        return
    for pid in _descendants():
        _signal_if(_descends_from_us, pid, number)


def signal_quietly(send: object, target: int, number: int) -> None:
    """Call os.kill or os.killpg; a target that is gone is no error."""
    try:
        send(target, number)  # type: ignore[operator]
    except (ProcessLookupError, PermissionError):
        pass


def kill_session(leader: int) -> None:
    """Kill what an ended session leader of ours left behind in its session.

    Nobody can join a session, so all its members descend from the leader.
    """
    for pid in _processes():
        if _stat(pid).session == leader:
            _signal_if(lambda pid: _stat(pid).session == leader, pid, signal.SIGKILL)


def kill_marked(mark: str) -> None:
    """Kill every process in whose environment a variable begins with `mark`, but no epmd.

    The release may be registered in that one, whoever happened to start it. Looks again: what is
    killed may just have started another one. Not for ever: what hangs in the kernel does not die.
    """
    wanted = b"\0" + mark.encode()

    def is_marked(pid: int) -> bool:
        return wanted in b"\0" + _environ(pid) and not _is_epmd(pid)

    for _ in range(KILL_ROUNDS):
        marked = [pid for pid in _processes() if is_marked(pid)]
        for pid in marked:
            _signal_if(is_marked, pid, signal.SIGKILL)
        if not marked:
            return


def signal_group(group: int, number: int) -> bool:
    """Signal a process group that holds a child of ours; return whether there was one.

    A child keeps the group's number from being given to somebody else.
    """
    if not any(_stat(pid).group == group for pid in _direct_children()):
        return False
    signal_quietly(os.killpg, group, number)
    return True


def _signal_if(is_ours: Callable[[int], bool], pid: int, number: int) -> None:
    """Signal a process; a pidfd makes sure that it is the one that was looked at."""
    try:
        pidfd = os.pidfd_open(pid)
    except OSError:
        return
    if is_ours(pid):
        signal_quietly(signal.pidfd_send_signal, pidfd, number)
    os.close(pidfd)


def _direct_children() -> list[int]:
    own = os.getpid()
    return [pid for pid in _processes() if _stat(pid).parent == own]


def _descendants() -> list[int]:
    children: dict[int, list[int]] = {}
    for pid in _processes():
        children.setdefault(_stat(pid).parent, []).append(pid)
    found = children.get(os.getpid(), [])
    for pid in found:  # it grows meanwhile, by one generation after the other
        found += children.get(pid, ())
    return found


def _descends_from_us(pid: int) -> bool:
    own = os.getpid()
    while pid > 1:
        pid = _stat(pid).parent
        if pid == own:
            return True
    return False


def _processes() -> list[int]:
    return [int(entry) for entry in os.listdir("/proc") if entry.isdecimal()]


def _is_epmd(pid: int) -> bool:
    try:
        program = os.readlink(f"/proc/{pid}/exe").removesuffix(" (deleted)")
    except OSError:
        return False
    return os.path.basename(program) == "epmd"


def _environ(pid: int) -> bytes:
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            return file.read()
    except OSError:
        return b""  # gone, or not ours


_Stat = namedtuple("_Stat", "parent group session")  # noqa: PYI024 - typing is not for PID 1


def _stat(pid: int) -> _Stat:
    """Read what proc(5) says of a process, zeros for one that is gone."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            # the command in parentheses may hold anything, so read on from the last one
            fields = file.read().rpartition(b")")[2].split()
    except OSError:
        return _Stat(0, 0, 0)
    return _Stat(*(int(field) for field in fields[1:4]))
