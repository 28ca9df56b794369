"""Installs by the scripts of relx and Distillery, on real nodes."""

import asyncio
import contextlib
import http.client
import os
import shutil
import subprocess
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from run_agent import turns
from run_agent.errors import RunAgentError
from run_agent.model import Secret
from run_agent.node import Node
from run_agent.release import Kind
from run_agent.release.erlang_term import Term
from support import by_hand, slugs, upgrade_slugs
from support.by_hand import Started
from support.wait import until
from upgrade import on_node, os_vars, releases, script
from upgrade.model import Change

KINDS = {
    "relx": Kind.RELX,
    "distillery1": Kind.DISTILLERY_1,
    "distillery2": Kind.DISTILLERY_2,
}

INSTALL_SECONDS = 60.0


@dataclass
class Upgrading:
    """A release that runs, with what a change of it needs."""

    hello: Started
    run: Path
    told: list[str]

    @property
    def tree(self) -> Path:
        return self.hello.tree.resolve()

    def change(self, **env: str) -> Change:
        before = self.hello.env
        [erl_call] = self.tree.glob("erts-*/bin/erl_call")
        node = Node(
            before["RELEASE_NODE"], Secret(before["RELEASE_COOKIE"]), before, self.run, erl_call
        )
        after = {name: value for name, value in (before | env).items() if name != "SECRET_KEY_BASE"}
        kind = KINDS[self.hello.kind]
        return Change(
            node, self.run, self.tree, kind, "hello", "0.1.0", "0.2.0", after, dict(before)
        )

    def place(self, variant: str = "good") -> None:
        """Put the files of 0.2.0 beside the running ones, and make them known to the node."""
        folder = self.run / f"slug-{variant}"
        new = slugs.unpack(upgrade_slugs.slug(self.hello.kind, "0.2.0", variant), folder)
        for path in (*new.glob("lib/*"), new / "releases" / "0.2.0", *new.glob("bin/hello-*")):
            place = self.tree / path.relative_to(new)
            if not place.exists():  # a library that is written over crashes the VM
                shutil.copytree(path, place) if path.is_dir() else shutil.copy2(path, place)
        rel = self.tree / "releases" / "0.2.0" / "hello.rel"
        asyncio.run(releases.set_unpacked(self.change().node, self.run, rel))

    def install(self, change: Change, *, down: bool = False) -> None:
        asyncio.run(
            script.install(change, deadline=INSTALL_SECONDS, tell=self.told.append, down=down)
        )

    def serves(self, version: str) -> bool:
        with contextlib.suppress(OSError, http.client.HTTPException):
            return f"version={version} ".encode() in self.hello.get("/")[1]
        return False

    def greets(self, greeting: str) -> bool:
        """Tell what is configured; later versions say more in the same line."""
        return f" greeting={greeting} " in self.hello.get("/")[1].decode().replace("\n", " ")

    def status(self, version: str) -> str | None:
        serving = asyncio.run(releases.serving(self.change().node))
        return serving.status_of(version)

    def files(self) -> dict[str, bytes]:
        """Return what the scripts could have touched, less what release_handler writes."""
        folders = ("bin", "releases", "var")
        found = {
            str(path.relative_to(self.tree)): path.read_bytes()
            for folder in folders
            for path in (self.tree / folder).rglob("*")
            if path.is_file()
        }
        ours = ("releases/RELEASES", "releases/start_erl.data", "var/start_erl.data")
        return {name: content for name, content in found.items() if name not in ours}


@pytest.fixture(params=KINDS)
def upgrading(request, tmp_path, environment):
    tree = by_hand.app(request.param, tmp_path)
    run = tmp_path / "run"
    run.mkdir()
    with by_hand.started(request.param, tree, environment) as hello:
        yield Upgrading(hello, run, [])


def back(change: Change) -> Change:
    return replace(
        change,
        from_version=change.to_version,
        to_version=change.from_version,
        env=change.env_before,
        env_before=change.env,
    )


def test_up_and_down_with_another_environment(upgrading):
    hello = upgrading.hello
    upgrading.place()
    before = upgrading.files()
    change = upgrading.change(GREETING="Servus & Grüß", NEW="new")
    upgrading.install(change)
    assert upgrading.serves("0.2.0")
    assert upgrading.greets("Servus & Grüß")
    assert hello.get("/env/NEW") == (200, b"new")
    assert hello.get("/env/SECRET_KEY_BASE")[0] == 404
    current = "current" if hello.kind == "relx" else "permanent"
    assert upgrading.status("0.2.0") == current
    assert changed(before, upgrading.files()) <= {"var/sys.config"}
    assert not (upgrading.tree / "var" / "start_erl.data").exists()
    upgrading.install(back(change), down=True)
    assert upgrading.serves("0.1.0")
    assert upgrading.greets("Grüße")
    assert hello.get("/env/NEW")[0] == 404
    assert hello.get("/env/SECRET_KEY_BASE") == (200, b"0123456789")
    assert changed(before, upgrading.files()) <= {"var/sys.config"}
    assert not any("configur" in step or "into force" in step for step in upgrading.told)


def changed(before: dict[str, bytes], after: dict[str, bytes]) -> set[str]:
    names = before.keys() | after.keys()
    return {name for name in names if before.get(name) != after.get(name)}


def test_after_a_failure_nothing_is_left_and_a_corrected_build_goes_in(upgrading):
    hello = upgrading.hello
    upgrading.place("no_relup")
    before = upgrading.files()
    change = upgrading.change(GREETING="Servus")
    with pytest.raises(RunAgentError, match=r"cannot install 0\.2\.0 .*relup.*0\.1\.0 serves"):
        upgrading.install(change)
    assert upgrading.serves("0.1.0")
    assert hello.get("/env/GREETING") == (200, "Grüße".encode())
    assert changed(before, upgrading.files()) == set()
    assert upgrading.status("0.2.0") == "unpacked"
    asyncio.run(releases.remove(change.node, upgrading.run, "0.2.0"))
    shutil.rmtree(upgrading.tree / "releases" / "0.2.0", ignore_errors=True)
    upgrading.place("fixed")
    upgrading.install(change)
    assert upgrading.serves("0.2.0")


def test_a_node_that_reboots_itself_has_its_own_configuration_again(upgrading):
    upgrading.place("raising")
    before = upgrading.files()
    with upgrading.hello.connect_line(), pytest.raises(RunAgentError, match="cannot install"):
        upgrading.install(upgrading.change(GREETING="Servus"))
    until(lambda: upgrading.serves("0.1.0"), "the old version does not serve again")
    assert changed(before, upgrading.files()) == set()
    assert upgrading.greets("Grüße")
    assert upgrading.hello.get("/env/SECRET_KEY_BASE") == (200, b"0123456789")


@pytest.mark.parametrize("upgrading", ["relx"], indirect=True)
@pytest.mark.parametrize("kept", [False, True])
def test_a_node_that_restarts_itself_boots_in_the_old_environment_unless_the_new_is_kept(
    upgrading, reserved, kept
):
    node, hello = upgrading.change().node, upgrading.hello
    new_port = str(reserved.free())

    def call(function: str, *arguments: Term) -> Term:
        program = "run_agent_environment"
        return asyncio.run(on_node.call(node, upgrading.run, program, function, *arguments))

    before = call("put_for_now", [("PORT", new_port), ("NEW", "Grüße")], ["GREETING"], 60_000)
    assert before == ([("PORT", hello.env["PORT"]), ("GREETING", "Grüße")], ["NEW"])
    if kept:
        call("keep")
        hello.env["PORT"] = new_port
    assert asyncio.run(node.evaluate("init:restart()")) == "ok"
    status = 200 if kept else 404  # it was 200 before the restart
    until(lambda: answers(hello, "/env/NEW") == status, "it does not listen where it should")
    assert answers(hello, "/env/GREETING") == (404 if kept else 200)


def answers(hello: Started, path: str) -> int | None:
    with contextlib.suppress(OSError, http.client.HTTPException):
        return hello.get(path)[0]
    return None


@pytest.mark.parametrize("upgrading", ["relx"], indirect=True)
def test_what_a_script_says_is_not_believed(upgrading):
    upgrading.place()
    program = upgrading.tree / "bin" / "hello-0.1.0"
    real = program.rename(program.with_name("real"))
    change = upgrading.change()
    wrap(program, "echo Made release permanent; exit 0")
    with pytest.raises(RunAgentError, match=r"\(exit code 0: Made .* 0\.1\.0 serves"):
        upgrading.install(change)
    wrap(program, f'{real} "$@"; echo failed; exit 3')
    upgrading.install(change)
    assert upgrading.serves("0.2.0")


@pytest.mark.parametrize("upgrading", ["relx"], indirect=True)
def test_of_what_a_script_says_no_part_of_a_secret_is_shown(upgrading):
    upgrading.place()
    wrap(upgrading.tree / "bin" / "hello-0.1.0", 'echo "hello: no $DATABASE_URL" | tr /: " "')
    shown = r"\(exit code 0: hello no ecto me \$DATABASE_URL@db hello\)"
    with pytest.raises(RunAgentError, match=shown) as no:
        upgrading.install(upgrading.change(DATABASE_URL="ecto://me:passw0rd@db/hello"))
    assert "passw0rd" not in str(no.value)


def wrap(program: Path, command: str) -> None:
    program.write_text(f"#!/bin/sh\n{command}\n")
    program.chmod(0o755)


@pytest.mark.parametrize("upgrading", ["relx"], indirect=True)
def test_configuration_that_the_release_handler_misses_is_put_into_force(upgrading):
    upgrading.place()
    release = upgrading.tree / "releases" / "0.2.0"
    (release / "sys.config").rename(release / "sys.config.src")
    (release / "sys.config.src").write_text('[{hello, []}, "more.config"].')
    (release / "more.config").write_text('[{hello, [{greeting, "included"}]}].')
    upgrading.install(upgrading.change())
    assert upgrading.greets("included")
    assert "put into force, what the script had not: hello greeting" in upgrading.told
    assert not (release / "sys.config").exists()


@pytest.mark.parametrize("upgrading", ["distillery1"], indirect=True)
def test_the_script_waits_for_its_turn_and_nothing_changes_if_that_does_not_come(upgrading):
    upgrading.place()
    change = upgrading.change(GREETING="Servus")

    async def install_beside_another_call() -> None:
        async with turns.take(upgrading.run, "hello ping"):
            await script.install(change, deadline=0.3, tell=upgrading.told.append, down=False)

    with pytest.raises(RunAgentError, match="cannot run hello upgrade: another call") as caught:
        asyncio.run(install_beside_another_call())
    assert caught.value.exit_code == os.EX_TEMPFAIL
    assert upgrading.hello.get("/env/GREETING") == (200, "Grüße".encode())


@pytest.mark.parametrize(
    "text",
    [
        "${GREETING}, ${GREETING} and ${NO_SUCH}.\n",
        "${NO_SUCH:-a default} ${GREETING:-unused} ${EMPTY:-for nothing} ${NO_SUCH:-}\n",
        "nested ${OUTER}\n$GREETING ${ GREETING} $${GREETING}}\n",
        "${MARKS}\n",
    ],
)
def test_variables_are_replaced_as_the_script_of_relx_does(text, tmp_path):
    tree = by_hand.app("relx", tmp_path)
    script_text = (tree / "bin" / "hello").read_text()
    start = script_text.index("replace_os_vars() {")
    function = script_text[start : script_text.index("\n}\n", start) + 3]
    source, target = tmp_path / "in", tmp_path / "out"
    source.write_text(text)
    env = {
        "GREETING": "Grüße & more",
        "EMPTY": "",
        "OUTER": "<${GREETING}>",
        "MARKS": '"quoted" \\ 100% $1',
    }
    command = f"{function}\nreplace_os_vars {source} {target}"
    subprocess.run(
        ("sh", "-c", command), env=env | {"PATH": os.environ["PATH"]}, check=True, timeout=30
    )
    assert os_vars.replaced(text.encode(), env).decode() == target.read_text()
