"""The keys from a real controller, faults included, and what `run-agent keys refresh` says."""

import asyncio
import json
import re
import shutil
import socket
import subprocess
from concurrent.futures import ThreadPoolExecutor

import pytest

from entrypoint import control
from entrypoint.commands import keys as command
from run_agent import controller, settings
from run_agent.controller.http import HttpController
from run_agent.errors import RunAgentError
from run_agent.model import Layout, Secret
from run_agent.patience import Pace
from run_agent.ssh import authorized_keys, keys, public_key
from run_agent.ssh.kept import Kept, load, save
from support.controller_server import ControllerServer
from support.need import need
from support.ssh import make_key
from support.wait import until

ONE_TRY = Pace(shortest_try=keys.ASK_SECONDS)
DEADLINE_SECONDS = 20.0
ED25519, OTHER = (
    f"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAI{letter * 42}{letter} {name}"
    for letter, name in {"A": "me", "B": "you"}.items()
)


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch):
    """Ask the server itself, whatever proxy this machine uses."""
    monkeypatch.setenv("NO_PROXY", "*")


@pytest.fixture(name="server")
def a_server():
    with ControllerServer(app="hello", key="k", ssh_keys=[ED25519, OTHER], etags=True) as server:
        yield server


class Agent:
    """What the agent does with its keys, on `root`; a second one is its successor."""

    def __init__(self, root, url, *, period=60.0):
        self.layout = Layout(root)
        self.changes = []
        options = settings.load({"CONTROLLER_URL": url, "APP_KEY": "k"}, app="hello")
        there = HttpController(url, "hello", Secret("k"), pace=ONE_TRY)
        self.keeper = keys.Keeper(
            self.layout, "hello", keys.source(options, there),
            period=period, on_change=self.on_change, on_state=lambda: None,
        )  # fmt: skip

    def on_change(self, latest):
        """Read the list, as the daemon does."""
        self.changes.append(authorized_keys.read(latest.lines))

    def refresh(self):
        return asyncio.run(self.keeper.refresh())

    def fails(self):
        with pytest.raises(RunAgentError) as caught:
            self.refresh()
        assert str(caught.value).startswith("cannot ")
        return str(caught.value)

    @property
    def comments(self):
        return [key.comment for key in self.changes[-1].keys]


@pytest.fixture(name="agent")
def an_agent(tmp_path, server):
    agent = Agent(tmp_path, server.url)
    assert agent.refresh()["keys"] == 2
    return agent


def test_a_change_reaches_the_daemon_and_nothing_else_does(server, agent):
    agent.refresh()
    assert server.requests[-1].headers["If-None-Match"]
    assert len(agent.changes) == 1
    server.ssh_keys = [ED25519]
    agent.refresh()
    assert agent.comments == ["me"]
    assert len(agent.changes) == 2


def test_an_empty_list_is_obeyed(server, agent):
    server.ssh_keys = []
    assert agent.refresh()["keys"] == 0
    assert agent.comments == []


def test_a_successor_has_the_lines_before_it_is_told_that_nothing_changed(tmp_path, server, agent):
    heir = Agent(tmp_path, server.url)
    assert heir.keeper.state()["keys"] == 2
    server.fault("ssh_keys", "status", 304, times=1)  # not that it had asked whether
    assert "304" in heir.fails()
    heir.refresh()
    assert "If-None-Match" not in server.requests[-1].headers
    assert heir.comments == ["me", "you"]


def test_a_successor_of_another_app_asks_anew(tmp_path, server, agent):
    kept = load(agent.layout, "hello")
    save(agent.layout, Kept("other", kept.fetched_at, kept.lines))
    heir = Agent(tmp_path, server.url)
    assert heir.keeper.state()["keys"] == 0
    assert heir.refresh()["keys"] == 2


FIVE_MB = b'{"data": ["' + b"x" * 5_000_000 + b'"]}'


@pytest.mark.parametrize(
    ("fault", "why"),
    [
        (("status", 500), "500"),
        (("status", 404), "404"),
        (("status", 401), "401"),
        (("html",), "web page"),
        (("cut",), "cut"),
        (("cut_chunked",), "cut"),
        (("cut_unframed",), "cut"),
        (("reset",), "reach"),
        (("huge",), "over 4 MiB"),
        (("body", FIVE_MB), "over 4 MiB"),
        (("latin1",), "not UTF-8"),
        (("body", b'{"data": {"keys": []}}'), "not a list of keys"),
        (("body", b'{"data": [1]}'), "key 1"),
        (("body", b'{"keys": []}'), "data is missing"),
        (("body", b'{"data": ["<html>", "<body>please log in</body>"]}'), "form of a key"),
        (("body", b'{"data": ["maintenance"]}'), "form of a key"),
    ],
)  # fmt: skip
def test_any_failure_keeps_the_last_good_list(server, agent, fault, why):
    before = load(agent.layout, "hello")
    server.fault("ssh_keys", *fault)
    problem = agent.fails()
    assert why in problem
    assert re.search(r"the last good list \(2 keys, \d+ s old\) stays", problem)
    assert agent.keeper.state()["problem"] in problem
    assert load(agent.layout, "hello") == before
    assert len(agent.changes) == 1
    server.heal()
    assert agent.refresh()["problem"] is None
    assert agent.comments == ["me", "you"]


def test_an_outage_ends_by_itself(server, agent):
    server.refuse()
    assert "refused" in agent.fails()
    server.ssh_keys = [OTHER]
    server.accept()
    agent.refresh()
    assert agent.comments == ["you"]


def test_keys_that_are_not_let_in_are_rejected_and_the_others_work(tmp_path, server):
    made = tmp_path / "keys"
    weak = make_key(made, "weak", "rsa", "-b", "1024")
    good = make_key(made, "good", "rsa", "-b", "2048")
    server.ssh_keys = [
        weak.line,
        f"permitopen=localhost {good.line}",
        f'restrict,command="date" {good.line}',
        "ssh-newer-99 AAAADHNzaC1uZXdlci05OQ== later",
    ]
    agent = Agent(tmp_path, server.url)
    assert agent.refresh()["rejected_lines"] == [
        "line 1 (weak): an RSA key of 1024 bits; 2048 at least, or use ed25519",
        "line 2 (good): option 'permitopen' cannot be read: want NAME or NAME=\"VALUE\"",
        "line 4 (later): unknown key type 'ssh-newer-99'; use ed25519",
    ]
    (key,) = agent.changes[-1].keys
    assert (key.command, key.allows_terminal) == ("date", False)


def test_a_list_with_nothing_but_refused_keys_lets_nobody_in(tmp_path, server, agent):
    server.ssh_keys = [make_key(tmp_path / "keys", "weak", "rsa", "-b", "1024").line]
    assert agent.refresh()["keys"] == 0
    assert agent.comments == []


def test_the_keeper_goes_on_by_itself(tmp_path, server):
    agent = Agent(tmp_path, server.url, period=1.0)

    async def live():
        task = asyncio.create_task(agent.keeper.run())
        await asyncio.to_thread(until, lambda: agent.changes, "the first list")
        server.fault("ssh_keys", "status", 500, times=1)
        server.ssh_keys = [OTHER]
        await asyncio.to_thread(until, lambda: len(agent.changes) > 1, "the next list")
        task.cancel()

    asyncio.run(live())
    assert agent.comments == ["you"]


# -- a folder, and a file


def test_a_folder_or_a_file_stands_in_for_the_controller(tmp_path):
    folder = tmp_path / "there"
    folder.mkdir()
    options = settings.load({"CONTROLLER_URL": folder.as_uri()}, app="hello")
    fetch = keys.source(options, controller.connect(options, "hello"))
    assert fetch().lines == ()
    (folder / "ssh_keys").write_text(f"{ED25519}\n# nobody else\n")
    assert fetch().lines == (ED25519, "# nobody else")
    options = settings.load({"CONTROLLER_URL": "none", "SSH_KEYS_FILE": str(folder / "ssh_keys")})
    assert keys.source(options, None)().lines == (ED25519, "# nobody else")


# -- fingerprints


@pytest.mark.parametrize(
    ("kind", "bits"),
    [
        ("ed25519", 256),
        *(("ecdsa", bits) for bits in (256, 384, 521)),
        ("rsa", 2048),
        ("rsa", 3072),
    ],
)
def test_a_fingerprint_is_what_ssh_keygen_prints(tmp_path, kind, bits):
    made = make_key(tmp_path, "mine", kind, "-b", str(bits))
    found = authorized_keys.parse(f'from="192.0.2.1",no-pty {made.line}')
    assert found.fingerprint == made.fingerprint
    assert found.comment == "mine"


def test_security_keys_are_read_as_ssh_keygen_reads_them(tmp_path):
    point = public_key.decode(make_key(tmp_path, "p", "ecdsa", "-b", "256").line.split()[1])[-65:]
    parts = {
        "sk-ssh-ed25519@openssh.com": [bytes(range(32)), b"ssh:"],
        "sk-ecdsa-sha2-nistp256@openssh.com": [b"nistp256", point, b"ssh:work"],
    }
    for kind, fields in parts.items():
        blob = b"".join(len(part).to_bytes(4, "big") + part for part in [kind.encode(), *fields])
        line = f"{kind} {public_key.base64.b64encode(blob).decode()} sk"
        assert authorized_keys.parse(line).fingerprint == _fingerprint(tmp_path / "sk.pub", line)


def test_what_ssh_keygen_cannot_read_is_rejected_here(tmp_path):
    need(shutil.which("ssh-keygen"), "OpenSSH's client")
    kind, text, _ = ED25519.split()
    for line in (f"{kind} {text[:-4]}", f"{kind} {text[:20]}", f"ssh-rsa {text}", f"{kind} AAAA"):
        assert _fingerprint(tmp_path / "bad.pub", line) is None
        assert authorized_keys.read([line]).keys == ()


def _fingerprint(path, line):
    path.write_text(f"{line}\n")
    done = subprocess.run(
        ["ssh-keygen", "-l", "-f", path],
        capture_output=True, text=True, timeout=DEADLINE_SECONDS, check=False,
    )  # fmt: skip
    return done.stdout.split()[1] if done.returncode == 0 else None


# -- run-agent keys refresh


@pytest.fixture(name="refresh")
def a_refresh(agent, capsys):
    """Run the verb against a control socket where this agent answers."""

    def refresh(*arguments):
        agent.layout.run.mkdir(parents=True, exist_ok=True)
        agent.layout.control_socket.unlink(missing_ok=True)
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(agent.layout.control_socket))
        listener.listen()

        async def answer(_arguments, _tell):
            return control.Answer(await agent.keeper.refresh())

        async def served():
            environ = {"RUN_AGENT_ROOT": str(agent.layout.root)}
            with ThreadPoolExecutor(1) as cli:
                async with control.serve(listener, {"keys-refresh": answer}):
                    loop = asyncio.get_running_loop()
                    return await loop.run_in_executor(
                        cli, command.main, ["refresh", *arguments], environ
                    )

        with listener:
            assert asyncio.run(served()) == 0
        return capsys.readouterr().out

    return refresh


def test_the_verb_says_what_is_in_force_now(server, refresh):
    assert refresh() == "2 keys, fetched now\n"
    server.ssh_keys = [ED25519, f"frob {OTHER}"]
    assert (
        refresh() == "1 key (1 line rejected: line 2 (you): unknown option 'frob'), fetched now\n"
    )
    answer = json.loads(refresh("--json"))
    assert (answer["keys"], answer["rejected"], answer["problem"]) == (1, 1, None)


def test_the_verb_fails_where_the_keys_cannot_be_fetched(server, refresh):
    server.fault("ssh_keys", "status", 401)
    with pytest.raises(
        RunAgentError, match=r"401.*the last good list \(2 keys, .* stays"
    ) as caught:
        refresh()
    assert caught.value.exit_code == 77


@pytest.mark.parametrize(("arguments", "code"), [(["--help"], 0), ([], 64), (["forget"], 64)])
def test_the_verb_teaches_its_use(capsys, arguments, code):
    with pytest.raises(SystemExit) as caught:
        command.main(arguments, {})
    assert caught.value.code == code
    printed = capsys.readouterr()
    assert "refresh" in printed.out + printed.err
