"""The far side of scp, against a client that is a script."""

import os
from pathlib import Path

import pytest

from run_agent.ssh.files import scp, scp_command
from run_agent.ssh.files.ledger import Ledger


class Script:
    """A stream whose client sends this and no more."""

    def __init__(self, *chunks):
        self.chunks, self.sent = list(chunks), b""

    def receive(self):
        return self.chunks.pop(0) if self.chunks else b""

    def send(self, parts):
        self.sent += b"".join(parts)


@pytest.fixture
def run(tmp_path):
    with Path(os.devnull).open("wb") as nowhere:

        def run(command, *chunks):
            stream, ledger = Script(*chunks), Ledger(nowhere.fileno())
            asked = scp_command.parse(command)
            status = scp.serve(stream, asked, bytes(tmp_path), b"/", ledger)
            return status, stream.sent

        yield run


def test_a_file_is_received_with_the_mode_it_had(run, tmp_path):
    assert run("scp -t .", b"C0755 3 tool\n", b"ab", b"c\0") == (0, b"\0\0\0")
    assert (tmp_path / "tool").read_bytes() == b"abc"
    assert (tmp_path / "tool").stat().st_mode & 0o100


def test_a_shorter_file_replaces_a_longer_one(run, tmp_path):
    (tmp_path / "f").write_bytes(b"longer")
    assert run("scp -t f", b"C0644 1 x\n", b"y\0")[0] == 0
    assert (tmp_path / "f").read_bytes() == b"y"


def test_a_folder_is_received_with_times_and_modes(run, tmp_path):
    records = b"T5 0 6 0\nD0500 0 d\nT7 0 8 0\nC0444 1 f\nx\0E\n"
    assert run("scp -r -p -t .", records)[0] == 0
    folder, file = (tmp_path / "d").stat(), (tmp_path / "d" / "f").stat()
    assert (folder.st_mode & 0o777, int(folder.st_mtime)) == (0o500, 5)
    assert (file.st_mode & 0o777, int(file.st_mtime), int(file.st_atime)) == (0o444, 7, 8)


@pytest.mark.parametrize(
    "record",
    [
        b"C0644 1 ../x\n",
        b"C0644 1 ..\n",
        b"C0644 1 \n",
        b"C0999 1 x\n",
        b"C0644 -1 x\n",
        b"C0644 x x\n",
        b"D0755 0 d\n",
        b"T1 0 x 0\n",
        b"X\n",
        b"C" * 20_000,
    ],
)
def test_a_record_that_may_not_be_ends_everything(run, record, tmp_path):
    status, sent = run("scp -t .", record)
    assert status == 1
    assert b"\2scp: protocol error: " in sent
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_written_fails_alone(run, tmp_path):
    (tmp_path / "taken").mkdir()
    status, sent = run("scp -t .", b"C0644 1 taken\n", b"C0644 1 free\n", b"y\0")
    assert status == 1
    assert b"\1scp: " in sent
    assert b"Is a directory" in sent
    assert (tmp_path / "free").read_bytes() == b"y"


def test_a_client_cut_off_in_a_file_is_an_error(run):
    assert run("scp -t .", b"C0644 9 x\n", b"y")[0] == 1


def test_files_are_sent_with_mode_size_and_times(run, tmp_path):
    (tmp_path / "f").write_bytes(b"abc")
    (tmp_path / "f").chmod(0o640)
    os.utime(tmp_path / "f", (6, 5))
    assert run("scp -p -f f", b"\0" * 9) == (0, b"T5 0 6 0\nC0640 3 f\nabc\0")


def test_a_folder_is_sent_whole(run, tmp_path):
    (tmp_path / "d" / "e").mkdir(parents=True, mode=0o755)
    (tmp_path / "d" / "e" / "f").write_bytes(b"x")
    (tmp_path / "d" / "e" / "f").chmod(0o644)
    status, sent = run("scp -r -f d", b"\0" * 20)
    assert status == 0
    assert sent == b"D0755 0 d\nD0755 0 e\nC0644 1 f\nx\0E\nE\n"


def test_what_cannot_be_sent_is_said_and_the_rest_is_sent(run, tmp_path):
    (tmp_path / "f").write_bytes(b"x")
    (tmp_path / "d").mkdir()
    status, sent = run("scp -f missing d f", b"\0" * 9)
    assert status == 1
    assert b"\1scp: missing: No such file or directory\n" in sent
    assert b"\1scp: d: not a regular file\n" in sent
    assert sent.endswith(b"1 f\nx\0")


def test_a_name_cannot_end_a_record(run, tmp_path):
    (tmp_path / "a\nC0644 0 b").write_bytes(b"")
    _, sent = run("scp -f *", b"\0" * 9)
    assert sent.startswith(b"C0644 0 a\\^JC0644 0 b\n")
