"""A release in an image whose tree cannot be written: its script writes into the run folder."""

import json
import os
import runpy
import shutil
import signal
import tempfile
from pathlib import Path

import pytest

from support import slugs, upgrade_slugs
from support.need import need
from support.platform import ask
from support.replica import AS_NOBODY, NOBODY, RUN_AGENT
from support.terminal import on_terminal
from support.upgrading import change
from support.wait import until

NODE_SECONDS = 120.0
"""How long a node may take to boot beside others on two cores; that of mix boots twice here."""

SETTINGS = {"CONTROLLER_URL": "none", "SECRET_KEY_BASE": "x" * 64, "GREETING": "Grüße"}

VARIABLE = {"mix": "RELEASE_TMP", "relx": "RELX_OUT_FILE_PATH"}

PID = {"mix": "System.pid()", "relx": "os:getpid()"}
ADDITION = {"mix": ("rpc", "IO.puts(1 + 41)"), "relx": ("eval", "1 + 41.")}
PROMPT = {"mix": r"iex\(hello@127\.0\.0\.1\)\d+> ", "relx": r"\(hello@127\.0\.0\.1\)\d+> "}


@pytest.fixture(scope="session")
def reboots(tmp_path_factory):
    """Build a release of mix that, once configured, starts anew from a file that it has written."""
    need(shutil.which("mix"), "no mix on the PATH (`make system` installs it)")
    folder = tmp_path_factory.mktemp("reboots")
    source = shutil.copytree(slugs.EXAMPLE / "mix", folder / "source")
    usual = "include_executables_for: [:unix]"
    options = (source / "mix.exs").read_text()
    assert usual in options
    options = options.replace(usual, f"{usual}, reboot_system_after_config: true")
    (source / "mix.exs").write_text(options)
    run = runpy.run_path(str(slugs.EXAMPLE / "build.py"))["_run"]
    run(("mix", "release", "--quiet"), source, folder)
    return source / "_build" / "prod" / "rel" / "hello"


@pytest.fixture
def release(kind, root, request):
    """Put the release at /app, and return its tree."""
    if kind == "mix":
        return shutil.copytree(request.getfixturevalue("reboots"), root / "app", symlinks=True)
    return slugs.unpack(slugs.slug(kind), root / "app")


@pytest.fixture
def root():
    """Give a root in which an ordinary user owns what run-agent writes into."""
    need(os.geteuid() == 0, "root, to be somebody else")
    with tempfile.TemporaryDirectory(prefix="run-agent-") as name:  # pytest's are for root alone
        root = Path(name)
        root.chmod(0o755)
        for folder in (root / "run" / "run-agent", root / "var" / "lib" / "run-agent"):
            folder.mkdir(parents=True)
            os.chown(folder, NOBODY, NOBODY)
        yield root


@pytest.fixture(params=["mix", "relx"])
def kind(request):
    return request.param


@pytest.fixture
def boot(root, platform):
    """Boot what lies in the root, as an ordinary user; it has ended before the root goes."""

    def boot(*command, settings=None, **options):
        return platform.boot(
            *command, root=root, settings=SETTINGS | (settings or {}), wrapper=AS_NOBODY, **options
        )

    return boot


@pytest.fixture
def image(root, release, read_only):
    """Return a root with the release at /app, as in a read-only image."""
    read_only(release)
    return root


def verb(replica, *arguments):
    """Return what a verb prints that its account runs."""
    done = replica.verb(*arguments, wrapper=AS_NOBODY)
    assert done.returncode == 0, done
    return done.stdout.strip().splitlines()[-1]


def test_it_boots_answers_and_starts_again_in_place(boot, image, kind):
    replica = boot(settings={"RESTART": "on-failure"})
    assert ask(replica.until_ready(NODE_SECONDS), "/")[0] == 200
    written = image / "run" / "run-agent" / "release-tmp"
    assert written.stat().st_mode & 0o777 == 0o700
    assert verb(replica, "shell", "--", "printenv", VARIABLE[kind]) == str(written)
    assert list(written.glob("*.config"))

    script, before = ADDITION[kind], verb(replica, "distillery_eval", PID[kind])
    assert verb(replica, "run", "bin/hello", *script) == "42"
    console = (*AS_NOBODY, *RUN_AGENT, "remote_console")
    with on_terminal(console, env=replica.environ) as shown:
        shown.until_shown(PROMPT[kind], NODE_SECONDS)

    os.kill(replica.release_pid, signal.SIGKILL)
    until(lambda: len(replica.events("release started")) == 2, lambda: replica.log, NODE_SECONDS)
    assert verb(replica.until_ready(NODE_SECONDS), "distillery_eval", PID[kind]) != before
    assert replica.term().wait() == 0


@pytest.mark.parametrize("kind", ["distillery1", "distillery2"], indirect=True)
def test_the_scripts_of_distillery_write_elsewhere_as_well(boot, image):
    replica = boot().until_ready(NODE_SECONDS)
    assert list((image / "run" / "run-agent" / "release-tmp").iterdir())
    assert verb(replica, "shell", "--", "sh", "-c", "echo $RELEASE_MUTABLE_DIR").endswith("tmp")
    assert replica.term().wait() == 0


def test_a_job_s_eval(boot, image, kind):
    """That of relx asks a node that runs, and there is none: it says so, and nothing of files."""
    words, settings = ("job", "--app", "hello", "--"), {"HEALTH_PORT": ""}
    expression = {"mix": "IO.puts(1 + 41)", "relx": "1 + 41."}[kind]
    job = boot("bin/hello", "eval", expression, verb=words, settings=settings)
    code = job.wait(NODE_SECONDS)
    expected = {"mix": (0, "42\n"), "relx": (1, "Node is not running!\n")}
    assert (code, job.stdout) == expected[kind], job.log


@pytest.mark.parametrize("kind", ["relx"], indirect=True)
def test_what_an_earlier_run_has_written_goes(boot, image):
    """The run folder may be a volume that stays, and what lies there holds the configuration."""
    written = image / "run" / "run-agent" / "release-tmp"
    written.mkdir()
    os.chown(written, NOBODY, NOBODY)
    (written / "earlier.config").write_text("secret")
    boot().until_ready(NODE_SECONDS)
    assert not (written / "earlier.config").exists()


@pytest.mark.parametrize("kind", ["relx"], indirect=True)
def test_the_user_s_own_folder_wins(boot, image, kind):
    own = image / "own"
    own.mkdir()
    os.chown(own, NOBODY, NOBODY)
    boot(settings={VARIABLE[kind]: str(own)}).until_ready(NODE_SECONDS)
    assert (own / "sys.config").exists()
    assert not (image / "run" / "run-agent" / "release-tmp").exists()


@pytest.mark.parametrize("kind", ["relx"], indirect=True)
@pytest.mark.usefixtures("release")
def test_a_tree_of_another_user_is_one_that_cannot_be_written(boot, kind):
    replica = boot().until_ready(NODE_SECONDS)
    assert verb(replica, "run", "bin/hello", *ADDITION[kind]) == "42"


@pytest.mark.parametrize("kind", ["relx"], indirect=True)
def test_a_release_that_can_be_written_sees_nothing_of_it(boot, release, kind):
    for path in (release, *release.rglob("*")):
        os.chown(path, NOBODY, NOBODY, follow_symlinks=False)
    replica = boot().until_ready(NODE_SECONDS)
    kept = json.loads((replica.root / "run" / "run-agent" / "environment.json").read_text())
    assert VARIABLE[kind] not in kept["env"]
    assert (release / "releases" / "0.1.0" / "sys.config.orig").exists()
    assert not (replica.root / "run" / "run-agent" / "release-tmp").exists()


@pytest.mark.parametrize("kind", ["relx"], indirect=True)
def test_a_hot_upgrade_needs_a_tree_that_can_be_written(boot, image, kind):
    replica = boot().until_ready(NODE_SECONDS)
    slug = upgrade_slugs.slug(kind, "0.2.0").as_uri()
    ended = change(replica, "upgrade", "--slug", slug)
    assert ended.verdict == (10, "refused", "0.1.0"), ended
    assert f"would go into {image}/app/releases, which is read-only" in ended.outcome["message"]
