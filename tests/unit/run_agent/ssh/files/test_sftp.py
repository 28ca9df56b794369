"""SFTP packet by packet."""

import errno
import os
import struct
from pathlib import Path

import pytest

from run_agent.ssh.files import sftp
from run_agent.ssh.files.ledger import Ledger
from run_agent.ssh.files.opened import LONGEST_READ
from run_agent.ssh.files.sftp_client import MOST_HANDLES, Client
from run_agent.ssh.files.sftp_packet import LONGEST_PACKET, Malformed, string, uint32, uint64

NO_ATTRIBUTES = uint32(0)
STATUS, HANDLE, DATA = 101, 102, 103
OK, EOF, NO_SUCH_FILE, DENIED, FAILURE, BAD_MESSAGE, UNSUPPORTED = 0, 1, 2, 3, 4, 5, 8


@pytest.fixture
def client(tmp_path):
    with Path(os.devnull).open("wb") as nowhere:
        client = Client(bytes(tmp_path), b"/home/me", Ledger(nowhere.fileno()))
        yield client
        client.close()


def ask(client, kind, *parts):
    """Send a request; return the answer's kind and what follows its number."""
    packet = bytes([kind]) + uint32(7) + b"".join(parts)
    answer = b"".join(sftp.answer(client, memoryview(packet)))
    length, kind, number = struct.unpack_from(">IBI", answer)
    assert (length, number) == (len(answer) - 4, 7)
    return kind, answer[9:]


def code(answer):
    kind, content = answer
    assert kind == STATUS
    return int.from_bytes(content[:4], "big")


def open_file(client, path, flags):
    kind, content = ask(client, 3, string(path), uint32(flags), NO_ATTRIBUTES)
    assert kind == HANDLE, content
    return content


def test_version_3_with_openssh_s_extensions():
    told = b"".join(sftp.answer(None, memoryview(b"\1" + uint32(6))))
    assert told[4:9] == b"\2" + uint32(3)
    for name in (b"posix-rename", b"statvfs", b"fstatvfs", b"hardlink", b"fsync", b"lsetstat",
                 b"limits", b"expand-path"):  # fmt: skip
        assert string(name + b"@openssh.com") in told
    assert string(b"copy-data") in told


def test_a_file_is_written_and_read_at_any_offset(client, tmp_path):
    handle = open_file(client, b"f", 2 | 8)
    assert code(ask(client, 6, handle, uint64(5 << 30), string(b"end"))) == OK
    assert code(ask(client, 4, handle)) == OK
    assert (tmp_path / "f").stat().st_size == (5 << 30) + 3
    handle = open_file(client, b"f", 1)
    assert ask(client, 5, handle, uint64(5 << 30), uint32(100)) == (DATA, string(b"end"))
    assert code(ask(client, 5, handle, uint64(6 << 30), uint32(100))) == EOF


def test_a_read_of_everything_takes_bounded_memory(client, tmp_path):
    (tmp_path / "f").write_bytes(bytes(LONGEST_READ * 2))
    handle = open_file(client, b"f", 1)
    _, content = ask(client, 5, handle, uint64(0), uint32(0xFFFFFFFF))
    assert len(content) == 4 + LONGEST_READ


@pytest.mark.parametrize(
    ("number", "answered"),
    [
        (errno.ENOENT, NO_SUCH_FILE),
        (errno.EACCES, DENIED),
        (errno.EPERM, DENIED),
        (errno.ENOSPC, FAILURE),
        (errno.EDQUOT, FAILURE),
    ],
)
def test_an_error_has_its_code_and_the_system_s_words(number, answered):
    kind, parts = sftp._refusal(OSError(number, os.strerror(number)))
    assert code((kind, b"".join(parts))) == answered
    assert string(os.strerror(number).encode()) in parts


def test_rename_does_not_go_over_something_but_posix_rename_does(client, tmp_path):
    (tmp_path / "a").write_text("a")
    (tmp_path / "b").write_text("b")
    assert code(ask(client, 18, string(b"a"), string(b"b"))) == FAILURE
    assert (tmp_path / "b").read_text() == "b"
    over = (200, string(b"posix-rename@openssh.com"), string(b"a"), string(b"b"))
    assert code(ask(client, *over)) == OK
    assert (tmp_path / "b").read_text() == "a"


@pytest.mark.parametrize("link_first", [True, False])
def test_a_link_is_made_whichever_path_comes_first(client, tmp_path, link_first):
    client.link_first = link_first
    paths = (b"link", b"../target") if link_first else (b"../target", b"link")
    assert code(ask(client, 20, *map(string, paths))) == OK
    assert (tmp_path / "link").readlink() == Path("../target")


def test_tilde_is_the_home_of_the_release(client):
    ask_for = (200, string(b"expand-path@openssh.com"))
    assert string(b"/home/me/x") in ask(client, *ask_for, string(b"~/x"))[1]
    assert code(ask(client, *ask_for, string(b"~nobody-has-this-name/x"))) == NO_SUCH_FILE


def test_no_more_files_are_open_than_one_client_may_have(client, tmp_path):
    (tmp_path / "f").touch()
    handles = [open_file(client, b"f", 1) for _ in range(MOST_HANDLES)]
    assert code(ask(client, 3, string(b"f"), uint32(1), NO_ATTRIBUTES)) == FAILURE
    assert code(ask(client, 4, handles[0])) == OK
    open_file(client, b"f", 1)


def test_a_fifo_does_not_hold_up_the_session(client, tmp_path):
    os.mkfifo(tmp_path / "fifo")
    handle = open_file(client, b"fifo", 1)
    assert code(ask(client, 5, handle, uint64(0), uint32(10))) == FAILURE


def test_a_folder_with_names_that_are_no_text_is_listed(client, tmp_path):
    name = b"\xff\xfe;`rm`\n*"
    (tmp_path / os.fsdecode(name)).touch()
    _, handle = ask(client, 11, string(b"."))
    _, listed = ask(client, 12, handle)
    assert string(name) in listed
    assert code(ask(client, 12, handle)) == EOF


def test_a_file_is_not_copied_into_itself(client, tmp_path):
    (tmp_path / "f").write_bytes(b"x" * 10)
    handle = open_file(client, b"f", 1 | 2)
    numbers = (handle, uint64(0), uint64(0), handle, uint64(5))
    assert code(ask(client, 200, string(b"copy-data"), *numbers)) == FAILURE
    assert (tmp_path / "f").stat().st_size == 10


@pytest.mark.parametrize(
    ("kind", "content", "answered"),
    [
        (4, string(b"nobody's"), FAILURE),
        (5, b"", BAD_MESSAGE),
        (6, uint32(0xFFFFFFFF), BAD_MESSAGE),
        (3, string(b"nul\0") + uint32(1) + NO_ATTRIBUTES, FAILURE),
        (9, string(b"x") + uint32(0x80000000) + uint32(0xFFFFFFFF), BAD_MESSAGE),
        (99, b"", UNSUPPORTED),
        (200, string(b"no-such@example.org"), UNSUPPORTED),
    ],
)
def test_nonsense_is_answered(client, kind, content, answered):
    assert code(ask(client, kind, content)) == answered


def test_an_offset_beyond_every_file_is_answered(client, tmp_path):
    handle = open_file(client, b"f", 2 | 8)
    assert code(ask(client, 6, handle, uint64(2**64 - 1), string(b"x"))) == FAILURE


class Script:
    """A stream whose client sends this and no more."""

    def __init__(self, *chunks):
        self.chunks, self.sent = list(chunks), b""

    def receive(self):
        return self.chunks.pop(0) if self.chunks else b""

    def send(self, parts):
        self.sent += b"".join(parts)


def test_packets_may_come_in_pieces_and_many_at_once(client):
    hello = uint32(5) + b"\1" + uint32(3)
    ask_path = uint32(10) + b"\x10" + uint32(1) + string(b".")
    everything = hello + ask_path * 50
    pieces = Script(*(everything[at : at + 7] for at in range(0, len(everything), 7)))
    whole = Script(everything)
    assert sftp.serve(pieces, client) == sftp.serve(whole, client) == 0
    assert pieces.sent == whole.sent
    assert whole.sent.count(b"\x68" + uint32(1)) == 50


@pytest.mark.parametrize("length", [0, LONGEST_PACKET + 1, 0xFFFFFFFF])
def test_what_is_no_packet_ends_the_session_at_once(client, length):
    assert sftp.serve(Script(uint32(length) + b"x"), client) == 1


def test_a_request_without_a_number_is_malformed(client):
    with pytest.raises(Malformed):
        sftp.answer(client, memoryview(b"\3\0"))


def test_the_end_of_the_session_closes_what_was_open(client, tmp_path):
    before = len(list(Path("/proc/self/fd").iterdir()))
    (tmp_path / "f").touch()
    for _ in range(5):
        open_file(client, b"f", 1)
    ask(client, 11, string(b"."))
    client.close()
    assert len(list(Path("/proc/self/fd").iterdir())) == before
