"""The agent of a real release is killed under load: nobody who talks to the release notices."""

import http.client
import os
import re
import signal
import threading
from contextlib import closing

import pytest

from support import slugs
from support.platform import until_kept
from support.wait import until

KILLS = 6
"""Each a second apart, as an agent that was ready is started again no sooner."""

AT_ONCE_SECONDS = 1.0
"""The longest that PID 1 waits before it starts such an agent again."""


class Load:
    """Requests to the app, on a connection that stays and on new ones, and probes, all the time."""

    def __init__(self, replica) -> None:
        self.done = threading.Event()
        self.answered, self.failed = 0, []
        port = int(replica.environ["PORT"])
        self._threads = [
            threading.Thread(target=self._ask_on_one_connection, args=(port, "/")),
            threading.Thread(target=self._ask_anew, args=(port, "/")),
            threading.Thread(target=self._ask_anew, args=(replica.port, "/readyz")),
            threading.Thread(target=self._ask_anew, args=(replica.port, "/livez")),
        ]

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self.done.set()
        for thread in self._threads:
            thread.join()

    def _ask_on_one_connection(self, port, path):
        with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=10)) as connection:
            connection.connect()
            socket = connection.sock
            while not self.done.wait(0.005):
                self._ask(connection, path)
                if connection.sock is not socket:
                    self.failed.append("the connection was cut")
                    return

    def _ask_anew(self, port, path):
        while not self.done.wait(0.01):
            with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=10)) as connection:
                self._ask(connection, path)

    def _ask(self, connection, path):
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            response.read()
            if response.status != 200:
                self.failed.append(f"{path} {response.status}")
        except OSError as error:
            self.failed.append(f"{path} {error!r}")
        self.answered += 1


@pytest.mark.parametrize("kind", ["mix"])
def test_killed_again_and_again_under_load(platform, kind):
    digest = platform.deploy(slugs.slug(kind).read_bytes())
    replica = until_kept(platform.boot().until_ready(60), digest)
    pid = replica.release_pid
    before = replica.get("/readyz").body
    with Load(replica) as load:
        for _ in range(KILLS):
            agent = replica.agent_pid
            os.kill(agent, signal.SIGKILL)
            back = until(lambda a=agent: {replica.agent()} - {a, None}, "no agent comes back")
            lines = replica.verb("status").stdout.splitlines()
            assert lines[0] == f"hello: ready since {before['since']}"
            assert lines[-1] == f"  agent    pid {back.pop()}"
    assert load.failed == []
    assert load.answered > 100
    waits = re.findall(r"starting it again in (\d+\.\d) s", replica.log)
    assert len(waits) == KILLS
    assert max(map(float, waits)) <= AT_ONCE_SECONDS
    assert (replica.release_pid, len(replica.events("release started"))) == (pid, 1)
    assert replica.get("/readyz").body | {"nodes": None} == before | {"nodes": None}
    assert replica.term().wait() == 0
