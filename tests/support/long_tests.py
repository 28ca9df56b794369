"""Whether tests take the time that the contract names, or a shorter one that a person waits for."""

import os

LONG = bool(os.environ.get("CI") or os.environ.get("RUN_AGENT_LONG_TESTS"))
"""In CI, and where RUN_AGENT_LONG_TESTS=1 asks for it."""
