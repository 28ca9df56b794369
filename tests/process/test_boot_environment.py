"""What the release sees: CONTRACTS 3, name by name and byte for byte; and who sees no secret."""

import os
from contextlib import suppress
from pathlib import Path

import pytest

from support import small_slugs, tarballs
from support.http_server import Answer
from support.platform import APP_KEY, SIGNATURE, until_kept
from support.wait import until

BASHS_OWN = {"_", "SHLVL", "PWD", "OLDPWD"}

UNUSUAL = {
    "NEWLINES": "a\nb\r\n\n",
    "QUOTES": 'it\'s "quoted" \\ and `back`',
    "DOLLARS": "$HOME ${PATH} $(id) %s",
    "UNICODE": "Grüße, žluťoučký, 日本 😀 \u200b",
    "CONTROL": "\x01\x1b[31m\x7f\t",
    "SPACES": "  two  ",
    "EMPTY": "",
    "LARGE": "x" * 100_000,
    "lower-case.and-dots": "kept",
}

NODE = ("MY_NODE_NAME", "RELEASE_NODE")
COOKIE = ("MY_COOKIE", "RELEASE_COOKIE", "ERLANG_COOKIE")


@pytest.fixture
def boot(platform):
    """Boot a slug with such a config and such members."""

    def boot(*members, config=None, settings=None):
        platform.deploy(small_slugs.serving(*members), config=config or {})
        return platform.boot(settings=settings).until_ready()

    return boot


def environ(replica) -> dict[str, str]:
    """Return what the kernel gave to the release."""
    raw = Path(f"/proc/{replica.release_pid}/environ").read_bytes()
    env = parsed(raw)
    return {name: value for name, value in env.items() if name not in BASHS_OWN}


def parsed(raw: bytes) -> dict[str, str]:
    pairs = (item.partition(b"=") for item in raw.rstrip(b"\0").split(b"\0"))
    return {os.fsdecode(name): os.fsdecode(value) for name, _, value in pairs}


def shell_environ(replica) -> dict[str, str]:
    """Return what a command sees: the release's environment, with the release's bin at hand."""
    seen = parsed(replica.verb("shell", "--", "env", "-0", text=False).stdout)
    assert seen["PATH"].endswith(f":{replica.root}/app/bin")
    return seen | {"PATH": seen["PATH"].removesuffix(f":{replica.root}/app/bin")}


def test_the_release_sees_these_variables_and_no_others(boot):
    settings = {
        "LOGPLEX_TOKEN": "a token", "READY_CHECK": "port", "LOG_FORMAT": "json", "RESTART": "never",
        "KUBERNETES_SERVICE_HOST": "10.0.0.1", "HOSTNAME": "pod-a", "LANG": "C",
    }  # fmt: skip
    replica = boot(config={"GREETING": "hi"}, settings=settings)
    seen = environ(replica)
    cookie, key_base = seen["ERLANG_COOKIE"], seen["SECRET_KEY_BASE"]
    app = replica.root / "app"
    assert seen == {
        "PATH": f"{replica.root}/run/run-agent/bin:{replica.environ['PATH']}",
        "RUN_AGENT_ROOT": str(replica.root),
        "KUBERNETES_SERVICE_HOST": "10.0.0.1",
        "HOSTNAME": "pod-a",
        "LANG": "C",
        "MY_POD_IP": "127.0.0.1",
        "PORT": replica.environ["PORT"],
        "LIBCLUSTER_KUBERNETES_SELECTOR": "repo=hello",
        "LIBCLUSTER_KUBERNETES_NODE_BASENAME": "hello",
        "RELEASE_DISTRIBUTION": "name",
        "APP_NAME": "hello",
        "GIGALIXIR_APP_NAME": "hello",
        "GIGALIXIR_COMMAND": "",
        "SECRET_KEY_BASE": key_base,
        "HOME": str(app),
        "LC_ALL": seen["LC_ALL"],
        "GREETING": "hi",
    } | dict.fromkeys(NODE, "hello@127.0.0.1") | dict.fromkeys(COOKIE, cookie)
    assert (len(cookie), len(key_base)) == (64, 96)
    assert seen["LC_ALL"] in {"C.UTF-8", "en_US.UTF-8"}


def test_all_replicas_of_an_app_agree_on_its_secrets_and_other_apps_do_not(platform):
    platform.deploy(small_slugs.serving())
    one, other = (environ(platform.boot().until_ready()) for _ in range(2))
    secrets = ("ERLANG_COOKIE", "SECRET_KEY_BASE")
    assert [one[name] for name in secrets] == [other[name] for name in secrets]
    platform.controller.key = "another key"
    another = environ(platform.boot(settings={"APP_KEY": "another key"}).until_ready())
    assert not {one[name] for name in secrets} & {another[name] for name in secrets}


def test_config_values_arrive_byte_for_byte(boot):
    replica = boot(config=UNUSUAL)
    seen = environ(replica)
    assert {name: seen[name] for name in UNUSUAL} == UNUSUAL


def test_bytes_of_the_container_that_are_no_text_arrive_too(boot):
    replica = boot(settings={"BYTES": os.fsdecode(b"\xff\xfe=\xc3")})
    assert os.fsencode(environ(replica)["BYTES"]) == b"\xff\xfe=\xc3"
    assert shell_environ(replica) == environ(replica)


def test_shell_has_the_release_s_environment(boot):
    replica = boot(config=UNUSUAL)
    assert shell_environ(replica) == environ(replica)


def test_the_user_s_values_win_over_ours_but_for_node_and_cookie(boot, ports):
    theirs = {
        "PORT": str(ports.free()), "SECRET_KEY_BASE": "mine", "HOME": "/tmp", "LC_ALL": "C",
        "APP_NAME": "other", "MY_POD_IP": "10.0.0.9", "RELEASE_DISTRIBUTION": "sname",
        "HOST_INDEX": "99", "LIBCLUSTER_KUBERNETES_SELECTOR": "x=y", "GIGALIXIR_COMMAND": "z",
    }  # fmt: skip
    replica = boot(config=theirs | dict.fromkeys(NODE + COOKIE, "evil@example.org"))
    seen = environ(replica)
    assert {name: seen[name] for name in theirs} == theirs
    assert {seen[name] for name in NODE} == {"hello@127.0.0.1"}
    assert {seen[name] for name in COOKIE} == {seen["ERLANG_COOKIE"]} != {"evil@example.org"}


def test_profile_d_has_the_last_word_but_for_node_and_cookie(boot):
    script = "export COLOUR=$COLOUR/blue RELEASE_COOKIE=evil RELEASE_NODE=evil; unset GREETING\n"
    members = [
        tarballs.file(".profile.d/b.sh", script.encode()),
        tarballs.file(".profile.d/a.sh", b"export COLOUR=red\n"),
    ]
    replica = boot(*members, config={"COLOUR": "green", "GREETING": "hi"})
    seen = environ(replica)
    assert seen["COLOUR"] == "red/blue"
    assert "GREETING" not in seen
    assert seen["RELEASE_NODE"] == "hello@127.0.0.1"
    assert seen["RELEASE_COOKIE"] == seen["ERLANG_COOKIE"] != "evil"
    assert shell_environ(replica) == seen


def test_a_failing_profile_d_script_ends_the_boot_with_its_output(platform):
    script = tarballs.file(".profile.d/x.sh", b"echo 'no such thing' >&2; exit 3\n")
    platform.deploy(small_slugs.serving(script))
    replica = platform.boot()
    assert replica.wait() == os.EX_DATAERR
    (error,) = replica.events("cannot source the slug's .profile.d/x.sh")
    assert "exit code 3" in error["message"]
    assert "no such thing" in error["message"]


def test_a_given_cookie_is_used_and_the_saved_environment_is_private(boot):
    replica = boot(settings={"ERLANG_COOKIE": "given-cookie"})
    assert environ(replica)["RELEASE_COOKIE"] == "given-cookie"
    run = replica.root / "run" / "run-agent"
    assert (run / "environment.json").stat().st_mode & 0o777 == 0o600
    assert run.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("value", ["a\0b", "x" * (128 << 10), ["list"]], ids=["nul", "big", "list"])
def test_a_value_that_no_process_can_be_given_is_refused_by_name(platform, value):
    platform.deploy(small_slugs.serving(), config={"FINE": "secret-value", "ODD": value})
    replica = platform.boot()
    assert replica.wait() == os.EX_UNAVAILABLE
    (error,) = [event for event in replica.events() if event["severity"] == "ERROR"]
    assert "config 'ODD'" in error["message"]
    assert "secret-value" not in replica.log
    assert len(replica.log) < 2000


def test_no_secret_is_in_a_log_line_or_an_argv_at_any_time_of_a_boot(platform):
    digest = platform.deploy(
        small_slugs.serving(*small_slugs.ballast(1 << 20)), config={"TOKEN": "config-secret"}
    )
    slug = "/slugs/hello-41.tar.gz"
    platform.storage.plan(slug, Answer(status=503), Answer(slowly=True, cut_after=1 << 18))
    replica = platform.boot()
    seen: set[str] = set()

    def look() -> bool:
        for process in replica.alive():
            with suppress(OSError):  # it has ended
                seen.add(Path(f"/proc/{process.pid}/cmdline").read_text())
        return replica.is_ready()

    until(look, "it is not ready")
    cookie = environ(replica)["ERLANG_COOKIE"]
    assert any("run_agent.slug.worker" in argv for argv in seen)
    for text in [*seen, replica.log, replica.verb("status", "--json").stdout]:
        for secret in APP_KEY, SIGNATURE, "config-secret", cookie:
            assert secret not in text
    until_kept(replica, digest)  # or files come and go while they are listed
    secret_files = [path for path in replica.root.rglob("*") if holds_secret(path, cookie)]
    assert {path.name for path in secret_files} <= {"environment.json"}
    assert all(path.stat().st_mode & 0o77 == 0 for path in secret_files)


def holds_secret(path: Path, secret: str) -> bool:
    return path.is_file() and not path.is_symlink() and secret in path.read_text(errors="replace")
