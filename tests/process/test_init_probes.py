"""The probes' port: plain HTTP, answered whatever else is connected, asked or sent there."""

import os
import signal
import socket
import time

import psutil
import pytest

from entrypoint.init import probes
from support.replica import cpu_seconds
from support.wait import holds, until

MANY = 200
PLACES = probes.CONNECTIONS

CLIENT_SECONDS = 15.0
"""More than a client is given to say what it wants."""


@pytest.fixture
def replica(boot):
    return boot("sleep", "600").until_ready()


def connect(replica):
    return socket.create_connection(("127.0.0.1", replica.port), timeout=CLIENT_SECONDS)


def connections_of(replica):
    """List PID 1's TCP sockets: the one that listens, and those that are being answered."""
    return psutil.Process(replica.pid).net_connections("tcp")


def ask(replica, request, *, half_closed=False):
    """Send raw bytes and return the status, the head and the body of the answer."""
    with connect(replica) as connection:
        connection.sendall(request)
        if half_closed:
            connection.shutdown(socket.SHUT_WR)
        answer = b""
        while received := connection.recv(65536):
            answer += received
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split()[1]) if head else None, head.decode().lower(), body


STATUS = {
    b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n": 200,
    b"GET /livez HTTP/1.0\r\n\r\n": 200,
    b"GET /livez?verbose=1 HTTP/1.1\r\n\r\n": 200,
    b"GET /livez HTTP/1.1\n\n": 200,
    b"GET /readyz HTTP/1.1\r\n\r\n": 200,
    b"GET / HTTP/1.1\r\n\r\n": 404,
    b"GET /livez/ HTTP/1.1\r\n\r\n": 404,
    b"GET /../livez HTTP/1.1\r\n\r\n": 404,
    b"GET /\xff\xfe HTTP/1.1\r\n\r\n": 404,
    b"POST /livez HTTP/1.1\r\nContent-Length: 2\r\n\r\nhi": 405,
    b"DELETE /readyz HTTP/1.1\r\n\r\n": 405,
    b"GET /livez\r\n\r\n": 400,
    b"GET /livez HTTP/2.0\r\n\r\n": 400,
    b"\r\n\r\n": 400,
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\n\n": 400,
    b"x" * 8200: 400,
}


def test_every_request_gets_its_status(ordinary):
    assert {request: ask(ordinary, request)[0] for request in STATUS} == STATUS


def test_a_request_without_an_end_is_cut_off(ordinary):
    endless = b"A: b\r\n" * 1_000_000
    with connect(ordinary) as connection, pytest.raises(ConnectionError):
        connection.sendall(endless)
    assert ordinary.get("/livez").status == 200


@pytest.fixture
def ordinary(start):
    return start("sleep", "600").until_ready()


def test_head_is_get_without_the_body(ordinary):
    _, head, body = ask(ordinary, b"GET /readyz HTTP/1.1\r\n\r\n")
    assert ask(ordinary, b"HEAD /readyz HTTP/1.1\r\n\r\n") == (200, head, b"")
    assert f"content-length: {len(body)}" in head
    assert "content-type: application/json" in head
    assert "cache-control: no-store" in head


def test_one_that_has_closed_its_side_is_still_answered(ordinary):
    assert ask(ordinary, b"GET /livez HTTP/1.1\r\n\r\n", half_closed=True)[0] == 200
    assert ask(ordinary, b"GET /livez HT", half_closed=True)[0] == 400
    assert ask(ordinary, b"", half_closed=True)[0] == 400


def test_a_request_may_come_byte_by_byte(ordinary):
    with connect(ordinary) as connection:
        for byte in b"GET /livez HTTP/1.1\r\n\r\n":
            connection.send(bytes([byte]))
        assert connection.recv(65536).startswith(b"HTTP/1.1 200 ")


def test_it_is_answered_over_ipv6_as_well(ordinary):
    try:
        connection = socket.create_connection(("::1", ordinary.port), timeout=CLIENT_SECONDS)
    except OSError as error:
        pytest.skip(f"no IPv6 here ({error})")
    with connection:
        connection.sendall(b"GET /livez HTTP/1.1\r\n\r\n")
        assert connection.recv(65536).startswith(b"HTTP/1.1 200 ")


def test_silent_clients_by_the_hundred_keep_no_probe_waiting(replica):
    silent = [connect(replica) for _ in range(MANY)]
    try:
        for connection in silent[::2]:
            connection.send(b"GET /livez HTTP/1.1\r\nA:")
        slowest = 0.0
        for path in ("/livez", "/readyz") * 20:
            began = time.monotonic()
            assert replica.get(path).status == 200
            slowest = max(slowest, time.monotonic() - began)
        assert slowest < 1
        assert len(connections_of(replica)) <= 1 + PLACES
    finally:
        for connection in silent:
            connection.close()


def test_silent_clients_are_given_up_in_the_end(ordinary):
    with connect(ordinary) as connection:
        assert connection.recv(1) == b"", "closed without a word"


def test_clients_that_speak_just_when_they_are_given_up_harm_nothing(start):
    """In one turn of the loop: one connection too many, and words from the one that goes."""
    replica = start("sleep", "600").until_ready()
    for words in (b"GET /livez HTTP/1.1\r\n\r\n", b"x"):
        clients = [connect(replica) for _ in range(PLACES)]
        until(lambda: len(connections_of(replica)) == 1 + PLACES, "all of them are accepted")
        os.kill(replica.pid, signal.SIGSTOP)
        until(lambda: psutil.Process(replica.pid).status() == "stopped", "it stands still")
        clients += [connect(replica) for _ in range(8)]
        for client in clients:
            client.send(words)
        os.kill(replica.pid, signal.SIGCONT)
        assert replica.get("/livez").status == 200
        for client in clients:
            client.close()


def test_clients_that_reset_harm_nothing(ordinary):
    linger_for_nothing = b"\1\0\0\0\0\0\0\0"
    for _ in range(MANY):
        with connect(ordinary) as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger_for_nothing)
            connection.send(b"GET /readyz HTTP/1.1\r\n\r\n")
    assert ordinary.get("/livez").status == 200
    before = cpu_seconds(ordinary.pid)
    holds(lambda: cpu_seconds(ordinary.pid) - before < 0.1, "it spins", 0.3)


def test_a_port_that_is_taken_is_named_with_what_to_do(boot, ports):
    port = ports.free()
    with socket.create_server(("", port)):
        replica = boot("sleep", "600", settings={"HEALTH_PORT": str(port)})
        assert replica.wait() == os.EX_CONFIG
    (line,) = replica.events()
    assert line["message"].startswith(f"cannot listen on port {port} for probes (Address already")
    assert line["message"].endswith("free it, or set HEALTH_PORT to another port or none")


def test_none_opens_no_port(start):
    replica = start("sleep", "600", settings={"HEALTH_PORT": "none"})
    assert replica.release_pid
    assert connections_of(replica) == []
