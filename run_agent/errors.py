"""The errors this project raises. Every message starts with "cannot" and says what to do next.

Exit codes are those of sysexits(3). A subclass exists only where some line catches it.
"""

import os


class RunAgentError(Exception):
    """Something could not be done; `exit_code` is what a process that ends for it returns.

    The default exit code is 70 (EX_SOFTWARE). The message never holds a secret.
    """

    exit_code = os.EX_SOFTWARE

    def __init__(self, message: str, *, exit_code: int | None = None) -> None:
        super().__init__(message)
        if exit_code is not None:
            self.exit_code = exit_code


class SettingsError(RunAgentError):
    """The environment or the arguments are wrong (78, EX_CONFIG); lists every problem at once."""

    exit_code = os.EX_CONFIG

    def __init__(self, problems: list[str]) -> None:
        self.problems = tuple(problems)
        lines = "".join(f"\n  - {problem}" for problem in problems)
        super().__init__(f"cannot start with these settings:{lines}")


class UnavailableError(RunAgentError):
    """The controller or the storage gave no usable answer (69, EX_UNAVAILABLE), retries included.

    Boot answers it with the last good deploy on the volume, where there is one.
    """

    exit_code = os.EX_UNAVAILABLE


class DeniedError(RunAgentError):
    """The controller or the storage said 401, 403 or 404 (77, EX_NOPERM).

    Not retried. Boot answers it like `UnavailableError`, but reports it as an error.
    """

    exit_code = os.EX_NOPERM


class SlugError(RunAgentError):
    """The slug itself is bad (65, EX_DATAERR): corrupt, not what was announced, or unsafe."""

    exit_code = os.EX_DATAERR
