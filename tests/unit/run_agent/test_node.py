"""What a node is asked before any process starts; tests/release asks real ones."""

import asyncio
import os

import pytest

from run_agent.errors import RunAgentError
from run_agent.model import Secret
from run_agent.node import Node


def test_without_a_way_to_the_node_the_settings_are_wrong(tmp_path):
    node = Node("app@10.0.0.7", Secret("c00kie"), env={}, run=tmp_path)
    with pytest.raises(RunAgentError, match=r"neither erl_call nor .*READY_CHECK=port") as caught:
        asyncio.run(node.ping())
    assert caught.value.exit_code == os.EX_CONFIG


def test_a_run_folder_that_cannot_be_written_is_an_error(tmp_path):
    (tmp_path / "run").write_text("no folder")
    node = Node("app@10.0.0.7", Secret("c00kie"), {}, tmp_path / "run", erl_call=tmp_path)
    with pytest.raises(RunAgentError, match=r"cannot write .*mount a tmpfs") as caught:
        asyncio.run(node.ping())
    assert caught.value.exit_code == os.EX_IOERR


def test_neither_cookie_nor_environment_is_shown(tmp_path):
    node = Node("app@10.0.0.7", Secret("c00kie"), env={"TOKEN": "s3cret"}, run=tmp_path)
    assert "c00kie" not in repr(node)
    assert "s3cret" not in repr(node)
