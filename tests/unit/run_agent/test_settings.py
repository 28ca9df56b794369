"""The settings: defaults, forms, and one message for all that is wrong."""

from pathlib import Path

import pytest

from run_agent import settings
from run_agent.errors import SettingsError
from run_agent.settings import ReadyCheck

KEY = {"APP_KEY": "k"}


def problems(environ, **options) -> list[str]:
    with pytest.raises(SettingsError) as caught:
        settings.load(environ, **options)
    assert str(caught.value).startswith("cannot start with these settings:")
    assert caught.value.exit_code == 78
    return list(caught.value.problems)


def test_the_defaults():
    found = settings.load(KEY)
    assert found.root == Path("/")
    assert found.controller_url == "https://api.gigalixir.com"
    assert (found.port, found.health_port) == (4000, 9000)
    assert (found.drain_seconds, found.grace_seconds) == (5.0, 25.0)
    assert found.ready_check == ReadyCheck("port")
    assert (found.restart, found.log_format) == ("never", "json")
    assert (found.slug_max_members, found.slug_max_bytes) == (1_000_000, 16 << 30)


def test_an_empty_variable_counts_as_absent():
    assert settings.load(KEY | {"PORT": "", "MY_POD_IP": ""}).port == 4000


@pytest.mark.parametrize(
    ("name", "value", "field", "parsed"),
    [
        ("HEALTH_PORT", "none", "health_port", None),
        ("READY_CHECK", "http:/up?x=1", "ready_check", ReadyCheck("http", "/up?x=1")),
        ("READY_CHECK", "node", "ready_check", ReadyCheck("node")),
        ("CONTROLLER_URL", "http://127.0.0.1:8080/", "controller_url", "http://127.0.0.1:8080"),
        ("CONTROLLER_URL", "file:///srv/x", "controller_url", "file:///srv/x"),
        ("SLUG_MAX_BYTES", "512Mi", "slug_max_bytes", 512 << 20),
        ("GRACE_SECONDS", "7.5", "grace_seconds", 7.5),
    ],
)
def test_forms_that_are_understood(name, value, field, parsed):
    assert getattr(settings.load(KEY | {name: value}), field) == parsed


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PORT", "0"), ("PORT", "65536"), ("PORT", "4000 "), ("HEALTH_PORT", "off"),
        ("CONTROLLER_URL", "ftp://x"), ("CONTROLLER_URL", "https://"),
        ("CONTROLLER_URL", "file://host/x"), ("RUN_AGENT_ROOT", "relative"),
        ("DRAIN_SECONDS", "nan"), ("GRACE_SECONDS", "-1"), ("GRACE_SECONDS", "1e9"),
        ("READY_CHECK", "http:up"), ("READY_CHECK", "always"), ("RESTART", "yes"),
        ("LOG_FORMAT", "xml"), ("SLUG_MAX_BYTES", "1G"), ("SLUG_MAX_MEMBERS", "0"),
    ],
)  # fmt: skip
def test_forms_that_are_not(name, value):
    (problem,) = problems(KEY | {name: value})
    assert problem.startswith(f"{name}={value!r} must be ")


def test_all_problems_are_told_at_once():
    found = problems({"PORT": "x", "RESTART": "maybe"}, app="no/app")
    assert [line.split("=")[0].split()[0] for line in found] == [
        "PORT",
        "RESTART",
        "the",
        "APP_KEY",
    ]


def test_a_key_is_wanted_by_http_controllers_only():
    assert "APP_KEY is missing" in problems({})[0]
    assert settings.load({"CONTROLLER_URL": "none"}).app_key is None
    assert settings.load({}, needs_controller=False).app_key is None


def test_without_a_controller_there_is_nobody_to_follow():
    none = {"CONTROLLER_URL": "none", "FOLLOW": "hot"}
    (problem,) = problems(none)
    assert problem.startswith("FOLLOW=hot has nobody to follow with CONTROLLER_URL=none; set ")
    assert settings.load(none, needs_controller=False).follow == "hot"
    assert settings.load(KEY | {"FOLLOW": "hot"}).follow == "hot"


@pytest.mark.parametrize(("drain", "accepted"), [("20", True), ("21", False), ("0", True)])
def test_a_drain_leaves_the_release_time_to_stop(drain, accepted):
    environ = KEY | {"DRAIN_SECONDS": drain}
    if accepted:
        assert settings.load(environ).drain_seconds == float(drain)
    else:
        assert "at most 80% of GRACE_SECONDS=25" in problems(environ)[0]


def test_a_secret_is_never_shown():
    found = settings.load(KEY | {"ERLANG_COOKIE": "s3cr3t", "SLUG_URL": "https://x/?sig=s3cr3t"})
    assert "s3cr3t" not in repr(found)
    assert found.erlang_cookie is not None
    assert found.erlang_cookie.reveal() == "s3cr3t"


def test_a_controller_s_url_holds_no_credential_and_none_is_echoed():
    for url in ("https://u:s3cr3t@host", "https://host/?token=s3cr3t"):
        (problem,) = problems(KEY | {"CONTROLLER_URL": url})
        assert problem.startswith("CONTROLLER_URL must hold no user, query or fragment")
        assert "s3cr3t" not in problem


def test_the_node_s_name_and_cookie_are_judged_with_all_the_others():
    found = problems(KEY | {"ERLANG_COOKIE": "s3 cr3t", "MY_POD_IP": "x y", "PORT": "0"})
    assert {line.split("=")[0].split()[0] for line in found} == {
        "ERLANG_COOKIE", "MY_POD_IP", "PORT",
    }  # fmt: skip
    assert "s3 cr3t" not in "".join(found)


def test_the_probes_need_a_port_of_their_own():
    (problem,) = problems(KEY | {"PORT": "9000"})
    assert "HEALTH_PORT=9000 is the app's PORT as well" in problem


@pytest.mark.parametrize(
    ("text", "port"),
    [("4000", 4000), ("004000", 4000), ("65535", 65535), ("0", None), ("65536", None), ("", None),
     ("-1", None), ("4000.0", None), ("9" * 5000, None)],
)  # fmt: skip
def test_a_port_number(text, port):
    assert settings.port_number(text) == port
