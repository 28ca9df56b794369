"""The `run-agent` command (also installed as `gigalixir_run`): finds the verb, prints, exits.

Each verb is a file in `commands`; only the one that is called is imported, so that `shell` starts
in milliseconds.
"""

import importlib
import os
import signal
import sys

from run_agent import __version__
from run_agent.errors import RunAgentError

VERBS = {
    "init": "boot the app's current deploy and keep it running (the container's entry point)",
    "bootstrap": "boot one slug, without a controller",
    "exec": "keep any command running as PID 1, without a slug",
    "job": "run one command on the app's current deploy, in a container of its own",
    "distillery_job": "the same for a command of the release's own script",
    "status": "show what runs here and whether it is ready",
    "settings": "show every setting, what it does, and what it is here",
    "drain": "take this replica out of service, or back in",
    "keys": "fetch the SSH keys now (keys refresh)",
    "remote_console": "open a console on the running node",
    "observer": "tell how to attach observer to the running node",
    "upgrade": "change the running release to another version in place",
    "downgrade": "change it back to an earlier version",
    "releases": "show the versions on the node, and the deploys on the volume",
    "migrate": "run the database migrations on the running node",
    "reconfigure": "put the app's current configuration in force, without a restart",
    "distillery_eval": "evaluate an expression on the running node",
    "run": "run a command of the release, or any other",
    "shell": "run a command with the release's environment, in the app folder",
}

BECOME_PID_1 = {"init", "bootstrap", "exec", "job", "distillery_job"}

USAGE = "usage: run-agent VERB [ARGUMENTS…]"


def main() -> int:
    """Run one verb; returns the exit code. Messages go to stderr, data to stdout."""
    first, *arguments = sys.argv[1:] or [""]
    verb = first.replace("-", "_")
    if verb in VERBS:
        return _run(verb, arguments)
    if first in {"-V", "--version", "version"}:
        print(f"run-agent {__version__}")
    elif first in {"", "-h", "--help", "help"}:
        _print_help()
    else:
        _complain(f"cannot do {first!r}: there is no such verb; see run-agent --help")
        return os.EX_USAGE
    return os.EX_OK if first else os.EX_USAGE


def _run(verb: str, arguments: list[str]) -> int:
    if verb in BECOME_PID_1:
        # Blocked signals survive the exec and are not lost, even by PID 1 (signal(7)).
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
    command = importlib.import_module(f"entrypoint.commands.{verb}")
    try:
        code = int(command.main(arguments, os.environ))
        sys.stdout.flush()
    except RunAgentError as error:
        _complain(str(error))
        return error.exit_code
    except BrokenPipeError:
        # Whoever read our output has gone; nothing more may be written there, at the exit neither.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except Exception as error:  # noqa: BLE001 - the root: a person gets one line, not a trace
        _complain(f"cannot go on, this is a bug in run-agent: {type(error).__name__}: {error}")
        return os.EX_SOFTWARE
    return code


def _complain(message: str) -> None:
    print(f"run-agent: {message}", file=sys.stderr)


def _print_help() -> None:
    width = max(map(len, VERBS))
    print(f"{USAGE}\n\nRuns and looks after one replica of an Elixir or Erlang release.\n\nverbs:")
    for verb, what in VERBS.items():
        print(f"  {verb:{width}}  {what}")
    print("\n`run-agent VERB --help` explains one verb. Settings come from the environment:")
    print("`run-agent settings` explains them. A dash and an underscore are the same in a verb.")


if __name__ == "__main__":
    sys.exit(main())
