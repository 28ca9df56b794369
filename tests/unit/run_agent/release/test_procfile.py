"""The web line of a Procfile."""

import pytest

from run_agent.release import procfile


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (b"web: mix phx.server", "mix phx.server"),
        (b"web:mix phx.server\n", "mix phx.server"),
        (b"release: true\r\nweb:  run --port $PORT \r\nworker: x\r\n", "run --port $PORT"),
        (b"# web: no\n\nweb: echo a:b # c\nweb: second\n", "echo a:b # c"),
        (b"web: echo '\xff'", "echo '\udcff'"),
        (b"web-1: x\nwebs: y\n", None),
        (b"web:\n", None),
        (b"", None),
    ],
)
def test_the_web_line(tmp_path, text, line):
    (tmp_path / "Procfile").write_bytes(text)
    assert procfile.web(tmp_path) == line


def test_no_file_no_line(tmp_path):
    assert procfile.web(tmp_path) is None


def test_a_line_is_a_shells():
    assert procfile.argv("a && b $PORT") == ("/bin/bash", "-c", "a && b $PORT")
