"""What a test needs of the machine it runs on."""

import os

import pytest


def need(condition: object, reason: str) -> None:
    """Skip the test (or, at module level, the file) for `reason` unless `condition` holds.

    In CI it fails instead: there a machine must have everything, or the project's own files must
    install it.
    """
    if condition:
        return
    if os.environ.get("CI"):
        pytest.fail(f"cannot run in CI without this: {reason}", pytrace=False)
    pytest.skip(reason, allow_module_level=True)
