"""What a node's answer may be, whoever prints it: the app's own code may print in between."""

import asyncio
import base64
import os
import zlib

import pytest

from run_agent.errors import RunAgentError
from run_agent.model import Secret
from run_agent.node import Node


def connected(tmp_path, text: bytes):
    """Ask a node whose tool prints `text`."""
    (tmp_path / "answer").write_bytes(text)
    node = Node(
        "app@10.0.0.7",
        Secret("c00kie"),
        env={"PATH": os.environ["PATH"]},
        run=tmp_path,
        by_tool=lambda _: ("cat", str(tmp_path / "answer")),
    )
    return asyncio.run(node.connected())


def answer(value: bytes) -> bytes:
    return b"<<<ok," + base64.b64encode(value) + b">>>\n"


def test_the_names_come_sorted(tmp_path):
    packed = base64.b64encode(zlib.compress(b"b@10.0.0.2\na@10.0.0.1\n"))
    assert connected(tmp_path, b"noise\n" + answer(packed)) == ("a@10.0.0.1", "b@10.0.0.2")


@pytest.mark.parametrize(
    "text",
    [
        answer(b"no base64!"),
        answer(base64.b64encode(b"no zlib")),
        answer(base64.b64encode(zlib.compress(b"\xff\xfe"))),
        b"<<<ok,A>>>",
        b"<<<ok,/w==>>>",
    ],
)
def test_what_is_garbled_is_an_error_of_ours(tmp_path, text):
    with pytest.raises(RunAgentError, match=r"cannot read .* garbled"):
        connected(tmp_path, text)


def test_an_answer_that_unpacks_to_very_much_is_cut(tmp_path):
    bomb = base64.b64encode(zlib.compress(b"a" * (64 << 20)))
    (name,) = connected(tmp_path, answer(bomb))
    assert len(name) == 1 << 20


def test_what_a_tool_prints_instead_is_shown_without_values_of_the_environment(tmp_path):
    script = 'echo "export: $DATABASE_URL"; exit 1'
    node = Node(
        "app@10.0.0.7",
        Secret("c00kie"),
        env={"PATH": os.environ["PATH"], "DATABASE_URL": "ecto://user:s3cret-password@db/x"},
        run=tmp_path,
        by_tool=lambda _: ("sh", "-c", script),
    )
    with pytest.raises(RunAgentError, match=r"\(export: \$DATABASE_URL\)") as caught:
        asyncio.run(node.connected())
    assert "s3cret" not in str(caught.value)
