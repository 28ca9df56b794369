"""The name and secrets of a node: given, derived, generated."""

import os
import re
import socket

import pytest

from run_agent import settings
from run_agent.errors import RunAgentError
from run_agent.model import Secret
from run_agent.release import identity


def establish(root, **environ):
    loaded = settings.load(
        {"RUN_AGENT_ROOT": str(root), "CONTROLLER_URL": "none", "MY_POD_IP": "10.0.0.7"} | environ
    )
    return identity.establish("app", loaded)


A_1 = "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865"
A_2 = (
    "b11e398dc80327a1c8e7f78c596a49344f012eda2d4efad8a050cc4c19afa97c59045a99cac7827271cb41c65e59"
    "0e09da3275600c2f09b8367793a9aca3db71cc30c58179ec3e87c14c01d5c1f3434f1d87"
)
A_3 = "8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d9d201395faa4b61a96c8"


@pytest.mark.parametrize(
    ("key", "salt", "info", "output"),
    [
        (b"\x0b" * 22, bytes(range(13)), bytes(range(0xF0, 0xFA)), A_1),
        (bytes(range(0x50)), bytes(range(0x60, 0xB0)), bytes(range(0xB0, 0x100)), A_2),
        (b"\x0b" * 22, b"", b"", A_3),
    ],
    ids=["A.1", "A.2", "A.3"],
)
def test_hkdf_is_that_of_rfc_5869(key, salt, info, output):
    assert identity.hkdf(key, info, len(output) // 2, salt=salt).hex() == output


def test_what_is_given_is_taken(tmp_path):
    given = establish(
        tmp_path, ERLANG_COOKIE="cookie", SECRET_KEY_BASE="base", APP_KEY="key", MY_POD_IP="h.x"
    )
    assert given.node == "app@h.x"
    assert (given.cookie, given.key_base) == (Secret("cookie"), Secret("base"))
    assert given.generated == ()


def test_every_replica_derives_the_same_from_the_apps_key(tmp_path):
    one, two = establish(tmp_path / "1", APP_KEY="key"), establish(tmp_path / "2", APP_KEY="key")
    assert one == two
    assert one.generated == ()
    other = establish(tmp_path, APP_KEY="another key")
    assert len({one.cookie, one.key_base, other.cookie, other.key_base}) == 4
    assert not any(tmp_path.iterdir())


def test_a_job_has_a_node_name_of_its_own_and_the_apps_secrets():
    options = settings.load({"APP_KEY": "key", "MY_POD_IP": "10.0.0.1"})
    app = identity.establish("hello", options)
    job = identity.establish("hello", options, basename="job-hello-1")
    assert (app.node, job.node) == ("hello@10.0.0.1", "job-hello-1@10.0.0.1")
    assert (job.app, job.cookie, job.key_base) == (app.app, app.cookie, app.key_base)


def test_what_is_derived_never_changes():
    """A change would give every app whose cookie is derived another one, and cut its cluster."""
    key = b"key"
    assert identity.hkdf(key, identity.COOKIE.label, 4).hex() == "783ce849"
    assert identity.hkdf(key, identity.KEY_BASE.label, 4).hex() == "85a63e9e"


def test_what_nothing_gives_is_generated_once_kept_and_said(tmp_path):
    one, two = establish(tmp_path), establish(tmp_path)
    assert one == two
    assert one.generated == ("ERLANG_COOKIE", "SECRET_KEY_BASE")
    assert one.cookie != establish(tmp_path / "other").cookie
    kept = sorted(settings.Layout(tmp_path).volume.iterdir())
    assert [path.name for path in kept] == ["cookie", "secret_key_base"]
    assert {path.stat().st_mode & 0o7777 for path in kept} == {0o600}


def test_only_what_is_not_given_is_generated(tmp_path):
    assert establish(tmp_path, ERLANG_COOKIE="c").generated == ("SECRET_KEY_BASE",)


@pytest.mark.parametrize("environ", [{}, {"APP_KEY": "key"}])
def test_the_secrets_fit_where_they_go(tmp_path, environ):
    made = establish(tmp_path, **environ)
    assert re.fullmatch(r"[0-9a-z]{64}", made.cookie.reveal())  # an atom, however it is written
    assert len(made.key_base.reveal()) >= 64  # Phoenix refuses less


def test_a_volume_that_cannot_keep_a_secret_is_an_error(tmp_path):
    (tmp_path / "var").write_text("no folder")
    with pytest.raises(RunAgentError, match=r"ERLANG_COOKIE.*APP_KEY.*writable volume") as caught:
        establish(tmp_path)
    assert caught.value.exit_code == os.EX_CONFIG


@pytest.mark.parametrize("cookie", ["a b", "a\tb", "ä", "x" * 256, "a\n"])
def test_a_cookie_that_erlang_cannot_use_is_refused_and_not_shown(tmp_path, cookie):
    with pytest.raises(RunAgentError, match="ERLANG_COOKIE") as caught:
        establish(tmp_path, ERLANG_COOKIE=cookie)
    assert caught.value.exit_code == os.EX_CONFIG
    assert cookie not in str(caught.value)


@pytest.mark.parametrize("address", ["10.0.0.7", "fd00::7", "::1", "host.example.org"])
def test_addresses(tmp_path, address):
    assert establish(tmp_path, APP_KEY="key", MY_POD_IP=address).node == f"app@{address}"


@pytest.mark.parametrize("address", ["10.0.0.7 -s evil", "$(id)", "a@b", "-x", "a\nb"])
def test_what_is_no_address_is_refused(tmp_path, address):
    with pytest.raises(RunAgentError, match="MY_POD_IP") as caught:
        establish(tmp_path, APP_KEY="key", MY_POD_IP=address)
    assert caught.value.exit_code == os.EX_CONFIG


def test_our_own_address_is_one_of_this_machines(tmp_path):
    address = identity.own_address()
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family) as listener:
        listener.bind((address, 0))
    assert establish(tmp_path, APP_KEY="key", MY_POD_IP="").node == f"app@{address}"


def test_without_a_route_it_is_the_loopback(monkeypatch):
    monkeypatch.setattr(identity, "OUTSIDE", ((socket.AF_INET, "255.255.255.255"),))
    assert identity.own_address() == "127.0.0.1"
