"""A folder as the controller, and which controller a URL stands for."""

import json
import os

import pytest

from run_agent import controller, settings
from run_agent.controller.directory import FILE_LIMIT_BYTES, DirectoryController
from run_agent.errors import SettingsError, UnavailableError

LEAST = {"slug_url": "slug.tar.gz", "customer_app_name": "hello"}


@pytest.fixture(name="folder")
def a_folder(tmp_path):
    """Return a folder with a name that a URL must quote."""
    folder = tmp_path / "a folder"
    folder.mkdir()
    return folder


def connected(folder):
    loaded = settings.load({"CONTROLLER_URL": folder.as_uri()}, app="hello")
    return controller.connect(loaded, "hello")


def refusal(call, *arguments):
    with pytest.raises(UnavailableError) as caught:
        call(*arguments)
    message = str(caught.value)
    assert message.startswith("cannot ")
    return message


@pytest.mark.parametrize("wrapped", [False, True])
def test_the_deploy_is_in_release_json(folder, wrapped):
    (folder / "release.json").write_text(json.dumps({"data": LEAST} if wrapped else LEAST))
    deploy = connected(folder).current_deploy(0)
    assert deploy.app_name == "hello"
    assert deploy.slug_url == (folder / "slug.tar.gz").as_uri()


def test_a_change_is_picked_up(folder):
    there = connected(folder)
    for version in ["1", "2"]:
        (folder / "release.json").write_text(json.dumps(LEAST | {"version": version}))
        assert there.current_deploy(0).version == version


@pytest.mark.parametrize("text", ["", "{", json.dumps(LEAST)[:-1], "<html>"])
def test_a_half_written_release_json_is_called_so(folder, text):
    (folder / "release.json").write_text(text)
    message = refusal(connected(folder).current_deploy, 0)
    assert str(folder / "release.json") in message
    assert "half-written" in message


def test_what_is_missing_in_release_json_is_named(folder):
    (folder / "release.json").write_text('{"data": {"version": 1}}')
    message = refusal(connected(folder).current_deploy, 0)
    assert str(folder / "release.json") in message
    assert "slug_url is missing; customer_app_name is missing" in message


def test_no_release_json(folder):
    assert "no such file" in refusal(connected(folder).current_deploy, 0)


@pytest.mark.parametrize("name", ["release.json", "ssh_keys"])
def test_what_is_no_file_is_not_waited_for(folder, name):
    os.mkfifo(folder / name)
    there = connected(folder)
    call = there.ssh_keys if name == "ssh_keys" else there.current_deploy
    assert "not a file" in refusal(call, 0)
    (folder / name).unlink()
    (folder / name).mkdir()
    assert str(folder / name) in refusal(call, 0)


@pytest.mark.parametrize("name", ["release.json", "ssh_keys"])
def test_a_file_over_4_mib_is_refused(folder, name):
    with (folder / name).open("wb") as file:
        file.truncate(FILE_LIMIT_BYTES + 1)
    there = connected(folder)
    call = there.ssh_keys if name == "ssh_keys" else there.current_deploy
    assert "over 4 MiB" in refusal(call, 0)


def test_keys_are_the_lines_of_ssh_keys(folder):
    (folder / "ssh_keys").write_text("# ours\n\nssh-ed25519 AAAA me\r\n  ssh-rsa BBBB é\n")
    lines = connected(folder).ssh_keys(0).lines
    assert lines == ("# ours", "ssh-ed25519 AAAA me", "ssh-rsa BBBB é")


def test_without_ssh_keys_there_are_none(folder):
    assert connected(folder).ssh_keys(0).lines == ()


def test_a_folder_that_is_not_there_says_nothing_about_keys(folder):
    assert "no such folder" in refusal(DirectoryController(folder / "gone").ssh_keys, 0)


def test_ssh_keys_that_are_not_utf_8(folder):
    (folder / "ssh_keys").write_bytes(b"ssh-ed25519 AAAA me\nssh-rsa BBBB M\xfcller\n")
    assert "line 2 is not UTF-8" in refusal(connected(folder).ssh_keys, 0)


def test_a_folder_assigns_no_index_and_knows_no_migration(folder):
    assert connected(folder).host_index("replica-1", 0) is None
    assert connected(folder).migrate_expression("hello", 0) is None


def test_none_is_no_controller():
    loaded = settings.load({"CONTROLLER_URL": "none"}, app="hello")
    with pytest.raises(SettingsError, match="names no controller"):
        controller.connect(loaded, "hello")


def test_an_http_controller_wants_a_key():
    environ = {"CONTROLLER_URL": "https://controller.example"}
    loaded = settings.load(environ, app="hello", needs_controller=False)
    with pytest.raises(SettingsError, match="APP_KEY is missing"):
        controller.connect(loaded, "hello")
