"""The other ways to boot: a given slug, a folder as the controller, the image, a command."""

import json
import os
import subprocess
from pathlib import Path

import psutil
import pytest

from support import small_slugs
from support.need import need
from support.platform import SIGNATURE, current, trees, until_waits_for, volume
from support.replica import AS_NOBODY, NOBODY

NO_CONTROLLER = {"CONTROLLER_URL": "none"}


def image(root: Path) -> Path:
    """Put a release into the image, at ROOT/app."""
    app = root / "app"
    app.mkdir(parents=True)
    (app / "server.py").write_bytes(small_slugs.SERVER)
    (app / "Procfile").write_text(f"web: exec {small_slugs.PYTHON} server.py\n")
    return app


def refused(replica) -> str:
    """See the settings be refused, and return what was said."""
    assert replica.wait() == os.EX_CONFIG
    (error,) = replica.events("cannot start with these settings")
    return error["message"]


# -- bootstrap ------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", ["http", "file"])
def test_bootstrap_boots_a_given_slug_and_asks_no_controller(platform, tmp_path, scheme):
    slug = small_slugs.serving()
    digest = platform.deploy(slug)
    (tmp_path / "hello.tar.gz").write_bytes(slug)
    url = platform.controller.release["slug_url"]
    if scheme == "file":
        url = (tmp_path / "hello.tar.gz").as_uri()
    replica = platform.boot("hello", url, verb=("bootstrap",)).until_ready()
    assert current(replica.root) == digest
    assert platform.controller.count() == 0
    assert replica.get("/readyz").body["app"] == "hello"


def test_bootstrap_shows_the_signature_of_its_url_to_nobody(platform):
    platform.deploy(small_slugs.serving())
    url = platform.controller.release["slug_url"]
    replica = platform.boot("hello", url, verb=("bootstrap",)).until_ready()
    seen = [replica.log, replica.verb("shell", "--", "env").stdout, replica.verb("status").stdout]
    seen += [" ".join(process.cmdline()) for process in replica.alive()]
    assert not any(SIGNATURE in text for text in seen)


def test_bootstrap_may_start_another_command(platform):
    platform.deploy(small_slugs.running("exit 1"))
    command = ("bash", "-c", "echo $APP_NAME in $PWD; exec sleep 300")
    url = platform.controller.release["slug_url"]
    replica = platform.boot("hello", url, *command, verb=("bootstrap",))
    replica.until_printed(f"hello in {volume(replica.root)}/deploys/")


def test_bootstrap_takes_no_other_slug_than_the_given_one(platform):
    digest = platform.deploy(small_slugs.serving())
    url = platform.controller.release["slug_url"]
    replica = platform.boot("hello", url, verb=("bootstrap",)).until_ready()
    again = url.replace("hello-41", "missing")
    replica = platform.boot_again(replica, "hello", again, verb=("bootstrap",))
    assert replica.wait() == os.EX_NOPERM
    assert current(replica.root) == digest


# -- a folder as the controller -----------------------------------------------------------------


def test_a_folder_with_a_relative_slug_url_stands_in_for_a_controller(platform, tmp_path):
    folder = tmp_path / "with a space"
    (folder / "slugs").mkdir(parents=True)
    (folder / "slugs" / "hello 1.tar.gz").write_bytes(small_slugs.serving())
    deploy = {"slug_url": "slugs/hello 1.tar.gz", "customer_app_name": "hello", "version": "7"}
    (folder / "release.json").write_text(json.dumps(deploy))
    replica = platform.boot(settings={"CONTROLLER_URL": folder.as_uri()}).until_ready()
    assert replica.get("/readyz").body["deploy"] == "7"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "no such file"),
        ("{", "it is not JSON"),
        ('{"slug_url": "missing.tar.gz", "customer_app_name": "hello"}', "No such file"),
    ],
)
def test_a_folder_with_nothing_usable_is_named(platform, tmp_path, content, said):
    if content is not None:
        (tmp_path / "release.json").write_text(content)
    replica = platform.boot(settings={"CONTROLLER_URL": tmp_path.as_uri()})
    assert replica.wait() in {os.EX_UNAVAILABLE, os.EX_NOPERM}
    (error,) = [event for event in replica.events() if event["severity"] == "ERROR"]
    assert said in error["message"]
    assert str(tmp_path) in error["message"]


# -- the image's own release ----------------------------------------------------------------------


def test_without_a_controller_the_image_s_own_release_runs(platform, tmp_path):
    app = image(tmp_path / "root")
    replica = platform.boot(settings=NO_CONTROLLER, root=tmp_path / "root").until_ready()
    body = replica.get("/readyz").body
    assert body["deploy"] == "image"
    replica.until_said(f"serving hello as {body['node']}, port {replica.environ['PORT']}")
    assert Path(f"/proc/{replica.release_pid}/cwd").readlink() == app
    assert trees(replica.root) == set()
    assert not (app / "releases").exists()
    assert replica.term().wait() == 0


def test_without_a_controller_a_wrong_name_is_corrected_where_it_was_given(platform, tmp_path):
    script = tmp_path / "root" / "app" / "bin" / "other"
    script.parent.mkdir(parents=True)
    script.touch(mode=0o755)
    replica = platform.boot(settings=NO_CONTROLLER, root=tmp_path / "root")
    assert replica.wait() == os.EX_CONFIG
    assert replica.events("bin/hello is missing; its scripts are other: start it as `init other`")


def test_without_a_controller_and_without_a_release_it_says_what_to_copy(platform):
    said = refused(platform.boot(settings=NO_CONTROLLER))
    assert "/app, and there is none: copy it there when the image is built" in said


def test_without_a_controller_no_app_key_is_wanted_and_secrets_are_kept(platform, tmp_path):
    image(tmp_path / "root")
    settings = NO_CONTROLLER | {"APP_KEY": ""}
    replica = platform.boot(settings=settings, root=tmp_path / "root").until_ready()
    for name in "ERLANG_COOKIE", "SECRET_KEY_BASE":
        assert replica.events(f"{name} was not given: made one")
    ask = ("shell", "--", "printenv", "ERLANG_COOKIE", "SECRET_KEY_BASE")
    before = replica.verb(*ask).stdout
    replica = platform.boot_again(replica, settings=settings).until_ready()
    assert replica.verb(*ask).stdout == before != ""
    kept = [volume(replica.root) / name for name in ("cookie", "secret_key_base")]
    assert [path.stat().st_mode & 0o777 for path in kept] == [0o600, 0o600]


# -- the app folder -------------------------------------------------------------------------------


def test_a_real_app_folder_is_refused_and_the_fix_that_is_said_works(platform, tmp_path):
    platform.deploy(small_slugs.serving())
    app = image(tmp_path / "root")
    said = refused(platform.boot(root=tmp_path / "root"))
    assert f"{app} is a folder of its own" in said
    assert "CONTROLLER_URL=none" in said
    assert sorted(path.name for path in app.iterdir()) == ["Procfile", "server.py"]
    subprocess.run(["rm", "-r", app], check=True)
    run_fix(said, "ln -s ")
    platform.boot(root=tmp_path / "root").until_ready()


def test_a_link_to_elsewhere_is_refused_and_the_fix_that_is_said_works(platform, tmp_path):
    platform.deploy(small_slugs.serving())
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "app").symlink_to(tmp_path / "elsewhere")
    said = refused(platform.boot(root=tmp_path / "root"))
    assert f"is a link to {tmp_path}/elsewhere" in said
    run_fix(said, "ln -sfn ")
    platform.boot(root=tmp_path / "root").until_ready()
    assert list((tmp_path / "elsewhere").iterdir()) == []


def run_fix(said, start):
    command = f"{start}{said.partition(start)[2].partition(';')[0]}"
    subprocess.run(command, shell=True, check=True)


def test_the_link_that_an_image_ships_may_be_relative(platform, tmp_path):
    platform.deploy(small_slugs.serving())
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "app").symlink_to("var/lib/run-agent/current")
    replica = platform.boot(root=tmp_path / "root").until_ready()
    assert (replica.root / "app" / "server.py").is_file()


# -- other places and users -----------------------------------------------------------------------


def test_the_root_may_have_any_name(platform, tmp_path):
    platform.deploy(small_slugs.serving())
    replica = platform.boot(root=tmp_path / "a root's $HOME, Grüße").until_ready()
    assert replica.verb("shell", "--", "pwd", "-P").stdout.startswith(str(replica.root))
    assert replica.term().wait() == 0


def test_an_ordinary_user_boots_all_the_same(platform, tmp_path):
    need(os.geteuid() == 0, "root, to become another user")
    platform.deploy(small_slugs.serving())
    (tmp_path / "root").mkdir()
    os.chown(tmp_path / "root", NOBODY, NOBODY)
    replica = platform.boot(root=tmp_path / "root", wrapper=AS_NOBODY).until_ready()
    assert psutil.Process(replica.release_pid).uids().real == NOBODY
    assert (replica.root / "app" / "Procfile").stat().st_uid == NOBODY
    assert replica.verb("status", wrapper=AS_NOBODY).returncode == 0
    assert replica.term().wait() == 0


# -- a command ------------------------------------------------------------------------------------


def test_init_starts_a_given_command_in_the_slug_with_the_release_s_environment(platform):
    platform.deploy(small_slugs.running("exit 1"), config={"COLOUR": "red"})
    replica = platform.boot("bash", "-c", 'echo "$COLOUR, $GIGALIXIR_COMMAND"; cat Procfile')
    assert replica.wait() == 0
    assert (
        replica.stdout
        == 'red, bash -c echo "$COLOUR, $GIGALIXIR_COMMAND"; cat Procfile\nweb: exit 1\n'
    )


def test_exec_runs_a_command_as_it_is_and_where_it_is(platform):
    replica = platform.boot("pwd", verb=("exec", "--"))
    assert replica.wait() == 0
    assert replica.stdout == f"{replica.root}\n"
    assert platform.controller.count() == 0


def test_exec_is_ready_at_once_unless_it_is_told_to_look(platform):
    replica = platform.boot("sleep", "300", verb=("exec", "--")).until_ready()
    assert replica.get("/readyz").body["app"] == "exec"
    looking = platform.boot("sleep", "300", verb=("exec", "--"), settings={"READY_CHECK": "port"})
    until_waits_for(looking, f"the app to accept on port {looking.environ['PORT']}")
    assert looking.get("/readyz").status == 503


def test_shell_of_exec_has_its_environment_and_folder(platform):
    replica = platform.boot("sleep", "300", verb=("exec", "--"), settings={"A": "b"}).until_ready()
    assert replica.verb("shell", "--", "printenv", "A").stdout == "b\n"
    assert replica.verb("shell", "--", "pwd").stdout == f"{replica.root}\n"


def test_shell_resets_the_signals_that_python_ignores(platform):
    replica = platform.boot("sleep", "600", verb=("exec", "--")).until_ready()
    piped = 'yes | head -n 1; echo "${PIPESTATUS[@]}"'
    assert replica.verb("shell", "--", "bash", "-c", piped).stdout == "y\n141 0\n"


def test_what_an_ended_run_was_started_with_is_gone_at_the_next_start(platform):
    replica = platform.boot("sleep", "600", verb=("exec", "--")).until_ready()
    assert replica.term().wait() == 143
    platform.controller.fault("current", "hang")
    again = platform.boot(root=replica.root)
    until_waits_for(again, "the current deploy")
    done = again.verb("shell", "--", "true")
    assert (done.returncode, done.stdout) == (os.EX_UNAVAILABLE, "")
    assert "no release has been started here yet" in done.stderr
