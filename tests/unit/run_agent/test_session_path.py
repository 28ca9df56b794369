"""The PATH of sessions."""

from pathlib import Path

import pytest

from run_agent.model import Layout
from run_agent.session_path import DEFAULT_PATH, session_path

OURS, RELEASE = "/r/run/run-agent/bin", "/r/app/bin"


@pytest.mark.parametrize(
    ("path", "middle"),
    [
        ("/usr/bin:/bin", "/usr/bin:/bin"),
        (f"/usr/bin:{OURS}:/bin", "/usr/bin:/bin"),
        (f"{RELEASE}:/usr/bin:/bin:{OURS}", "/usr/bin:/bin"),
        (None, DEFAULT_PATH),
        ("", DEFAULT_PATH),
    ],
)
def test_our_commands_are_first_and_the_releases_last_each_once(path, middle):
    assert session_path(path, Layout(Path("/r"))) == f"{OURS}:{middle}:{RELEASE}"


def test_at_the_root_itself_too():
    assert session_path("/bin", Layout(Path("/"))) == "/run/run-agent/bin:/bin:/app/bin"
