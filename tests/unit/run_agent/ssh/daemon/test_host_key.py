"""The host key: made once, never replaced, and refused where it is not what it should be."""

import logging
import os

import asyncssh
import pytest

from run_agent import settings
from run_agent.errors import RunAgentError
from run_agent.model import Layout
from run_agent.ssh.daemon import host_key


def options(root, mounted=None):
    environ = {"RUN_AGENT_ROOT": str(root)} | ({"SSH_HOST_KEY": str(mounted)} if mounted else {})
    return settings.load(environ, app="hello", needs_controller=False)


def load(root, mounted=None):
    return host_key.load(options(root, mounted), Layout(root))


@pytest.fixture(name="mounted")
def _mounted(tmp_path):
    path = tmp_path / "secret" / "key"
    path.parent.mkdir()

    def mount(key, **how):
        path.write_bytes(key if isinstance(key, bytes) else key.export_private_key(**how))
        path.chmod(0o400)
        return path

    return mount


def test_a_key_is_made_once_and_kept(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    first = load(tmp_path)
    kept = Layout(tmp_path).host_key
    assert first.get_algorithm() == "ssh-ed25519"
    assert kept.stat().st_mode & 0o777 == 0o600
    assert load(tmp_path).public_data == first.public_data
    assert [first.get_fingerprint() in message for message in caplog.messages] == [True]


def test_of_two_that_make_one_at_once_both_get_the_same(tmp_path, monkeypatch):
    kept = Layout(tmp_path).host_key
    make, winners = asyncssh.generate_private_key, []

    def slow(*arguments, **how):
        if not winners:
            winners.append(None)
            winners[0] = load(tmp_path)  # somebody else, meanwhile
        return make(*arguments, **how)

    monkeypatch.setattr(asyncssh, "generate_private_key", slow)
    assert load(tmp_path).public_data == winners[0].public_data
    assert asyncssh.import_private_key(kept.read_bytes()).public_data == winners[0].public_data


@pytest.mark.parametrize(
    ("kind", "how"),
    [
        ("ssh-ed25519", {}),
        ("ecdsa-sha2-nistp256", {}),
        ("ecdsa-sha2-nistp384", {"format_name": "pkcs8-pem"}),
        ("ssh-rsa", {"format_name": "pkcs1-pem"}),
    ],
)
def test_a_mounted_key_is_used_and_none_is_made(tmp_path, mounted, kind, how):
    key = asyncssh.generate_private_key(kind)
    assert load(tmp_path, mounted(key, **how)).public_data == key.public_data
    assert not Layout(tmp_path).host_key.exists()


def test_a_mounted_key_that_anybody_can_read_is_used_with_a_warning(tmp_path, mounted, caplog):
    path = mounted(asyncssh.generate_private_key("ssh-ed25519"))
    load(tmp_path, path)
    assert caplog.messages == []
    path.chmod(0o644)
    load(tmp_path, path)
    assert ["anybody in the container can read" in message for message in caplog.messages] == [True]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "it is empty"),
        (b"-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n", "it is no private key"),
        (b"\xff\xfe\x00garbage", "it is no private key"),
        ("encrypted", "it is encrypted"),
        ("public", "it is the public half"),
        ("rsa-1024", "RSA with 1024 bits is too short"),
    ],
)
def test_a_mounted_key_that_cannot_be_used_is_said(tmp_path, mounted, content, reason):
    key = asyncssh.generate_private_key("ssh-ed25519")
    made = {
        "encrypted": lambda: key.export_private_key(passphrase="secret", rounds=50),
        "public": key.export_public_key,
        "rsa-1024": lambda: asyncssh.generate_private_key("ssh-rsa", key_size=1024)
        .export_private_key(),
    }  # fmt: skip
    path = mounted(made[content]() if isinstance(content, str) else content)
    with pytest.raises(RunAgentError, match="cannot use the host key") as refusal:
        load(tmp_path, path)
    assert refusal.value.exit_code == os.EX_CONFIG
    assert reason in str(refusal.value)
    assert "unset SSH_HOST_KEY" in str(refusal.value)


def test_a_mounted_key_that_is_missing_is_said(tmp_path):
    with pytest.raises(RunAgentError, match=r"/nowhere \(No such file or directory\)"):
        load(tmp_path, "/nowhere")


def test_a_kept_key_that_is_corrupt_is_never_replaced(tmp_path):
    kept = Layout(tmp_path).host_key
    kept.parent.mkdir(parents=True)
    kept.write_bytes(b"")
    with pytest.raises(RunAgentError, match="every client will warn") as refusal:
        load(tmp_path)
    assert refusal.value.exit_code == os.EX_CONFIG
    assert kept.read_bytes() == b""


def test_a_volume_that_cannot_be_written_is_said(tmp_path):
    volume = Layout(tmp_path).volume
    volume.parent.mkdir(parents=True)
    volume.write_text("a file in its place")
    with pytest.raises(RunAgentError, match="cannot keep a host key at") as refusal:
        load(tmp_path)
    assert refusal.value.exit_code == os.EX_IOERR
