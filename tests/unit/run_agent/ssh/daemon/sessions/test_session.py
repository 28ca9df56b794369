"""A session's end where telling it fails."""

import asyncio
from types import SimpleNamespace

from run_agent.ssh.authorized_keys import AuthorizedKey
from run_agent.ssh.daemon.sessions.session import Session
from run_agent.ssh.daemon.site import Login


class Channel:
    """An asyncssh channel that cannot tell how the command ended."""

    aborted = False

    def exit(self, code):
        raise ValueError(code)

    def abort(self):
        self.aborted = True


async def end_of_a_session(channel):
    login = Login(1, "root", AuthorizedKey("ssh-ed25519", b""), ("::1", 1), ("::1", 22))
    session = Session(None, login, 1, lambda: None)
    session._channel, session._closing = channel, SimpleNamespace(release=lambda: None)
    ended = asyncio.get_running_loop().create_future()
    session._child = SimpleNamespace(ended=ended, dismiss=lambda: None)
    ended.add_done_callback(lambda _: session._leader_ended())
    ended.set_result(0)
    await asyncio.sleep(0)


def test_a_client_does_not_wait_for_ever_where_its_end_cannot_be_told(caplog):
    channel = Channel()
    asyncio.run(end_of_a_session(channel))
    assert channel.aborted
    assert "cannot tell how a session ended: a bug" in caplog.text
