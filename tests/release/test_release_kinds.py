"""Each kind of release, built by its tool: what it is, how it starts, how its node is asked."""

import asyncio
import contextlib
import os
import signal
import subprocess
import time
from pathlib import Path
from random import Random

import psutil
import pytest

from run_agent import settings
from run_agent.errors import RunAgentError
from run_agent.model import Deploy, Secret
from run_agent.node import Node
from run_agent.release import (
    Kind,
    environment,
    erlang_term,
    identify,
    identity,
    releases_file,
    start,
)
from run_agent.release.erlang_term import Atom
from support import slugs
from support.need import need

KINDS = {
    "mix": Kind.MIX,
    "relx": Kind.RELX,
    "distillery1": Kind.DISTILLERY_1,
    "distillery2": Kind.DISTILLERY_2,
}

UP_SECONDS = 60.0
"""How long a release may take until its node has booted, next to a few others on two cores."""

STOP_SECONDS = 30.0

QUICK_SECONDS = 4.0
"""An answer that takes longer was not refused, but waited for: 5 s are the least of that."""

ERLANG_SECONDS = 60.0

OTP = Path("/usr/lib/erlang")

need(OTP.is_dir(), "Erlang/OTP is not installed")


@pytest.fixture
def tree(request, tmp_path):
    """Return the unpacked slug of the kind that the test names."""
    return slugs.unpack(slugs.slug(request.param, "0.1.0"), tmp_path / "slug")


of_every_kind = pytest.mark.parametrize("tree", KINDS, indirect=True)


class Replica:
    """A release with its identity and environment, as a boot puts them together."""

    def __init__(self, tree, root, environ):
        self.environ = {
            "RUN_AGENT_ROOT": str(root),
            "CONTROLLER_URL": "none",
            "MY_POD_IP": "127.0.0.1",
            "PATH": os.environ["PATH"],
        } | environ
        self.settings = settings.load(self.environ)
        self.release = identify(tree, "hello")
        self.identity = identity.establish("my-app", self.settings)
        self.settings.layout.app.symlink_to(tree)
        self.env = asyncio.run(
            environment.build(
                self.environ,
                settings=self.settings,
                identity=self.identity,
                deploy=Deploy("https://host/slug", "hello"),
                release=self.release,
            )
        )

    def node(self, *, by_tool=False, cookie=None):
        return Node(
            self.identity.node,
            cookie or self.identity.cookie,
            env=self.env,
            run=self.settings.layout.run,
            erl_call=None if by_tool else self.release.erl_call,
            by_tool=self.release.evaluate,
        )

    @contextlib.contextmanager
    def started(self):
        """Run the release until the end of the block; it must then stop in order."""
        argv = start.choose(self.release, self.settings.layout.app).argv
        log = self.settings.layout.root / "release.log"
        with log.open("wb") as output:
            vm = subprocess.Popen(
                argv,
                env=self.env,
                cwd=self.settings.layout.app,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                process_group=0,
            )
        try:
            asyncio.run(self.until_up(vm, log))
            yield vm
            vm.send_signal(signal.SIGTERM)
            assert vm.wait(STOP_SECONDS) == 0, log.read_text()
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(vm.pid, signal.SIGKILL)
            vm.wait(STOP_SECONDS)

    async def until_up(self, vm, log):
        node = self.node()
        async with asyncio.timeout(UP_SECONDS):
            while not await node.runs("hello"):
                assert vm.poll() is None, log.read_text()
                await asyncio.sleep(0.05)


@pytest.fixture
def replica(tree, tmp_path, epmd):
    return Replica(tree, tmp_path, epmd | {"HELLO_PORT": "none"})


def timed(awaitable):
    started = time.monotonic()
    value = asyncio.run(awaitable)
    return value, time.monotonic() - started


@of_every_kind
def test_the_kind_is_told_by_the_files(tree, request):
    kind = KINDS[request.node.callspec.params["tree"]]
    release = identify(tree, "hello")
    assert (release.kind, release.version) == (kind, "0.1.0")
    assert release.erts == max(tree.glob("erts-*"))
    assert release.epmd == release.erts / "bin/epmd"
    assert release.erl_call == release.erts / "bin/erl_call"
    assert os.access(release.script, os.X_OK)


@of_every_kind
def test_a_release_starts_with_its_name_and_its_node_answers(replica):
    node = replica.node()
    answer, seconds = timed(node.ping())
    assert not answer
    assert seconds < QUICK_SECONDS
    with replica.started():
        assert asyncio.run(node.ping())
        assert asyncio.run(node.runs("sasl"))
        # Loaded and not started, as an application is whose start has not come yet.
        load = 'ok = application:load({application, later, [{vsn, "1"}]}), ok'
        assert asyncio.run(node.evaluate(load)) == "ok"
        assert not asyncio.run(node.runs("later"))
        # A release need not have an application of its own name.
        assert asyncio.run(node.runs("no_application"))
        cookie = replica.identity.cookie.reveal()
        seen = asyncio.run(node.evaluate("{node(), erlang:get_cookie()}"))
        assert seen in {
            f"{{'{replica.identity.node}',{cookie}}}",
            f"{{'{replica.identity.node}','{cookie}'}}",
        }
    answer, seconds = timed(node.ping())
    assert not answer
    assert seconds < QUICK_SECONDS


@of_every_kind
def test_without_erl_call_the_tools_own_script_is_asked(replica):
    node = replica.node(by_tool=True)
    assert not asyncio.run(node.ping())
    with replica.started():
        assert asyncio.run(node.ping())
        assert asyncio.run(node.runs("hello"))
        odd = '{node(), "\\x{fc}\\"\\n", <<"$HOME \\\\">>, lists:seq(1, 300)}'
        direct = replica.node().evaluate(odd)
        assert asyncio.run(node.evaluate(odd)) == asyncio.run(direct)
        with pytest.raises(RunAgentError, match=r"cannot evaluate .*\{error,oops\}") as caught:
            asyncio.run(node.evaluate("error(oops)"))
        assert caught.value.exit_code == os.EX_SOFTWARE


@pytest.mark.parametrize("tree", ["mix"], indirect=True)
def test_what_goes_wrong_on_the_node_is_said(replica):
    node = replica.node()
    with replica.started():
        wrong = replica.node(cookie=Secret("wrong"))
        answer, seconds = timed(wrong.ping())
        assert not answer
        assert seconds < QUICK_SECONDS
        with pytest.raises(RunAgentError, match="cannot reach the node") as caught:
            asyncio.run(wrong.evaluate("node()"))
        assert caught.value.exit_code == os.EX_UNAVAILABLE
        for erlang, reason in [("1 +", "syntax error|badmatch"), ("exit(x)", "{exit,x}")]:
            with pytest.raises(RunAgentError, match=reason):
                asyncio.run(node.evaluate(erlang))
        with pytest.raises(RunAgentError, match="ask for less"):
            asyncio.run(node.evaluate("lists:seq(100000, 120000)"))
        with pytest.raises(RunAgentError, match=r"longer than 0\.5 s") as caught:
            asyncio.run(node.evaluate("timer:sleep(60000)", deadline=0.5))
        assert caught.value.exit_code == os.EX_TEMPFAIL


@pytest.mark.parametrize("tree", ["mix"], indirect=True)
def test_many_may_ask_at_once(replica):
    node = replica.node()

    async def ask(number):
        return await node.evaluate(f"timer:sleep(100), {number}")

    async def all_at_once():
        return await asyncio.gather(*map(ask, range(32)))

    with replica.started():
        assert asyncio.run(all_at_once()) == [str(number) for number in range(32)]


@pytest.mark.parametrize("tree", ["mix"], indirect=True)
def test_no_argv_and_no_environment_of_ours_holds_the_cookie(replica):
    cookie = replica.identity.cookie.reveal()

    async def watch():
        asked = asyncio.create_task(replica.node().evaluate("timer:sleep(1000), done"))
        while not (children := set(psutil.Process().children()) - before):
            assert not asked.done()
            await asyncio.sleep(0.01)
        (child,) = children
        while "-name" not in (argv := child.cmdline()):  # not exec'ed yet
            assert not asked.done()
            await asyncio.sleep(0.01)
        assert cookie not in " ".join(argv)
        assert cookie not in " ".join(child.environ().values())
        assert await asked == "done"

    with replica.started():
        before = set(psutil.Process().children())
        asyncio.run(watch())
    kept = replica.settings.layout.run / "erl_call/.erlang.cookie"
    assert kept.read_text() == cookie
    assert kept.stat().st_mode & 0o777 == 0o400
    assert kept.parent.stat().st_mode & 0o777 == 0o700


def consult(path):
    """Return the file's terms as the real Erlang reads and prints them."""
    return erlang('{ok, Terms} = file:consult(File), io:format("~tp", [Terms])', path)


def erlang(code, path):
    code = f"[File] = init:get_plain_arguments(), {code}, halt()."
    done = subprocess.run(
        ["erl", "-noinput", "-boot", "start_clean", "-eval", code, "-extra", str(path)],
        check=True,
        capture_output=True,
        timeout=ERLANG_SECONDS,
    )
    return done.stdout


CREATE = (
    "ok = release_handler:create_RELEASES([], filename:dirname(filename:dirname(File)), File, [])"
)


@of_every_kind
def test_our_releases_file_is_the_one_that_erlang_writes(tree):
    path = tree / "releases/RELEASES"
    path.unlink(missing_ok=True)
    assert releases_file.create_missing(identify(tree, "hello"))
    ours = consult(path)
    path.unlink()
    erlang(CREATE, tree / "releases/0.1.0/hello.rel")
    assert ours == consult(path)
    assert b"lib/hello-0.1.0" in ours


OTPS_OWN = sorted(OTP.glob("releases/*/*.rel"))


@pytest.mark.parametrize("rel", OTPS_OWN, ids=lambda path: path.stem)
def test_the_same_holds_for_erlangs_own_releases(rel, tmp_path):
    folder = tmp_path / "releases/25"
    folder.mkdir(parents=True)
    (tmp_path / "releases/start_erl.data").write_text("13 25")
    (folder / "otp.rel").write_bytes(rel.read_bytes())
    assert releases_file.create_missing(identify(tmp_path, "otp"))
    ours = consult(tmp_path / "releases/RELEASES")
    (tmp_path / "releases/RELEASES").unlink()
    erlang(CREATE, folder / "otp.rel")
    assert ours == consult(tmp_path / "releases/RELEASES")


def test_erlang_has_releases_of_its_own():
    assert OTPS_OWN


def random_text(random):
    alphabet = "ab_@01'\"\\ \n\t\0\x1b\x7f\xa0\xfc\u03c3😀~%${}[],."
    return "".join(random.choices(alphabet, k=random.choice((0, 1, 5, 120))))


def random_term(random, depth=0):
    kind = random.choice(("text", "atom", "integer", "tuple", "list")[: 3 if depth > 3 else 5])
    if kind == "text":
        return random_text(random)
    if kind == "atom":
        return Atom(random.choice(("a", "div", "maybe", "aB@1", random_text(random))))
    if kind == "integer":
        return random.randint(-(10**20), 10**20)
    elements = (random_term(random, depth + 1) for _ in range(random.randint(0, 4)))
    return tuple(elements) if kind == "tuple" else list(elements)


def as_erlang_sees(term):
    """Return a term with strings as lists of code points: such a list may be printed as either."""
    if isinstance(term, str):
        return [ord(character) for character in term]
    if isinstance(term, tuple | list):
        return type(term)(map(as_erlang_sees, term))
    return term


def test_terms_go_to_erlang_and_come_back(tmp_path):
    random = Random(2)
    terms = [random_term(random) for _ in range(1000)]
    path = tmp_path / "terms"
    path.write_text("".join(f"{erlang_term.render(term)}.\n" for term in terms))
    rewrite = (
        "{ok, Terms} = file:consult(File), "
        '[file:write_file(File ++ "." ++ Format, '
        'unicode:characters_to_binary([io_lib:format("~" ++ Format ++ ".~n", [T]) || T <- Terms]))'
        ' || Format <- ["tp", "tw"]]'
    )
    erlang(rewrite, path)
    for form in "tp", "tw":
        back = erlang_term.consult((tmp_path / f"terms.{form}").read_text())
        assert list(map(as_erlang_sees, back)) == list(map(as_erlang_sees, terms))
