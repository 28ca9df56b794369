"""A real HTTP controller and everything that it, or the way to it, can get wrong."""

import base64
import datetime as dt
import gc
import ipaddress
import logging
import ssl
import threading
import time
import traceback
from concurrent.futures import ThreadPoolExecutor

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from run_agent import controller, settings
from run_agent.controller.exchange import Deadlines
from run_agent.controller.http import HttpController
from run_agent.errors import DeniedError, UnavailableError
from run_agent.model import Secret
from run_agent.patience import Pace
from support.controller_server import ControllerServer
from support.wait import until

PATIENCE = 20.0
"""More than any test needs: one that waits it out has failed."""

KEY = "s3cr3t-app-key"
CONFIG_VALUE = "s3cr3t-config-value"
RELEASE = {
    "slug_url": "https://storage.example/slug.tar.gz?Signature=s3cr3t-signature",
    "customer_app_name": "hello",
    "version": 41,
    "config": {"DATABASE_URL": CONFIG_VALUE},
}
HOUR = dt.timedelta(hours=1)

PATIENT = Deadlines(PATIENCE, PATIENCE, PATIENCE)
"""No server that answers is late by them, so that what was asked can be counted."""

HASTY = Deadlines(2.0, 2.0, 2.0)
"""For a server that does not answer: longer than one that does takes on a loaded machine."""

SOON = 10.0
"""Well before what would end a call that waited for the whole of a fault."""


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch):
    """Ask the server itself, whatever proxy this machine uses."""
    monkeypatch.setenv("NO_PROXY", "*")


@pytest.fixture(autouse=True)
def no_socket_left_open():
    """Collect what a test left, so that a socket left open warns in that test (and so fails)."""
    yield
    gc.collect()


@pytest.fixture(name="server")
def a_server():
    with ControllerServer(app="hello", key=KEY) as server:
        server.release = dict(RELEASE)
        server.ssh_keys = ["ssh-ed25519 AAAA me", "ssh-rsa BBBB you"]
        yield server


def asking(url, *, key=KEY, app="hello", deadlines=PATIENT, **pace):
    """Return a controller that soon tries again, so that the tests are quick."""
    spaced = Pace(**({"first": 0.02, "longest": 0.1, "shortest_try": 0.2} | pace))
    return HttpController(url, app, Secret(key), deadlines=deadlines, pace=spaced)


def failure(kind, call, *arguments):
    """Return the message of the error, which holds no secret, not even in its traceback."""
    with pytest.raises(kind) as caught:
        call(*arguments)
    message = str(caught.value)
    assert message.startswith("cannot ")
    assert "; " in message, "it says what to do next"
    assert "s3cr3t" not in "".join(traceback.format_exception(caught.value))
    assert _basic("hello", KEY) not in "".join(traceback.format_exception(caught.value))
    return message


def _basic(user, key):
    return base64.b64encode(f"{user}:{key}".encode()).decode()


def test_the_deploy_and_the_keys(server):
    loaded = settings.load({"CONTROLLER_URL": server.url, "APP_KEY": KEY}, app="hello")
    there = controller.connect(loaded, "hello")
    deploy = there.current_deploy(PATIENCE)
    assert (deploy.app_name, deploy.version, deploy.slug_url) == (
        "hello",
        "41",
        RELEASE["slug_url"],
    )
    assert deploy.config == RELEASE["config"]
    keys = there.ssh_keys(PATIENCE)
    assert keys == controller.SshKeys(("ssh-ed25519 AAAA me", "ssh-rsa BBBB you"), changed=True)
    assert [request.endpoint for request in server.requests] == ["current", "ssh_keys"]


def test_a_key_in_any_script_signs_in(server):
    server.key = "Schlüssel: 鍵"
    assert asking(server.url, key=server.key).current_deploy(PATIENCE).version == "41"


def test_config_arrives_byte_for_byte(server):
    config = {
        "LINES": "one\ntwo\r\nthree\n",
        "QUOTES": 'it\'s "quoted" \\ `so`',
        "DOLLAR": "$HOME ${HOME} $(reboot)",
        "UTF8": "Grüße 日本語 🎈",
        "LONG": "x" * 100_000,
    }
    server.release["config"] = config
    assert asking(server.url).current_deploy(PATIENCE).config == config


@pytest.mark.parametrize(
    ("fault", "times"),
    [
        (("status", 500), 3),
        (("status", 502), 1),
        (("status", 503), 1),
        (("status", 429), 2),
        (("hang",), 1),
        (("reset",), 2),
        (("cut",), 2),
        (("cut_chunked",), 2),
        (("cut_unframed",), 2),
        (("drip", 0.1), 1),
        (("drip_headers", 0.1), 1),
    ],
    ids=lambda value: "-".join(map(str, value)) if isinstance(value, tuple) else str(value),
)
def test_what_passes_is_waited_out(server, fault, times):
    server.fault("current", *fault, times=times)
    assert asking(server.url, deadlines=HASTY).current_deploy(PATIENCE).version == "41"
    assert server.count("current") == times + 1


def test_a_controller_that_comes_up_late_is_reached(server):
    server.refuse()
    waits = []

    def sleep(seconds):
        waits.append(seconds)
        if len(waits) == 3:
            server.accept()

    assert asking(server.url, sleep=sleep).current_deploy(PATIENCE).version == "41"
    assert len(waits) == 3


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (None, "cannot reach the controller at .* (connection refused, "),
        (("reset",), "cannot reach the controller at .* (connection reset by peer, "),
        (("cut",), "cannot reach the controller at .* (its answer was cut, "),
        (("cut_chunked",), "cannot reach the controller at .* (its answer was cut, "),
        (("cut_unframed",), "cannot reach the controller at .* (its answer was cut, "),
        (("status", 503), "cannot get an answer from .* (503 Service Unavailable, "),
    ],
)
def test_what_does_not_pass_is_told_when_patience_ends(server, fault, reason):
    if fault is None:
        server.refuse()
    else:
        server.fault("current", *fault)
    # the last try, whose end is told, has time for its answer
    message = failure(UnavailableError, asking(server.url, shortest_try=2.0).current_deploy, 3.0)
    start, _, end = reason.partition(" .* ")
    assert message.startswith(start)
    assert end in message
    assert " tries in " in message
    assert server.url in message


@pytest.mark.parametrize("fault", [("hang",), ("drip", 0.05), ("drip_headers", 0.05)])
@pytest.mark.parametrize("deadlines", [Deadlines(5, 0.3, 0.6), Deadlines(30, 30, 30)])
def test_no_answer_outlasts_patience(server, fault, deadlines):
    server.fault("current", *fault)
    started = time.monotonic()
    message = failure(UnavailableError, asking(server.url, deadlines=deadlines).current_deploy, 1.0)
    assert time.monotonic() - started < SOON
    assert "answer within" in message


@pytest.mark.parametrize("where", ["server", "secure"])
def test_an_answer_that_closes_the_connection_is_cut_as_well(where, request):
    server = request.getfixturevalue(where)
    server.fault("current", "drip", 0.05, headers={"Connection": "close"}, times=1)
    assert asking(server.url, deadlines=HASTY).current_deploy(PATIENCE).version == "41"
    first, second = server.requests
    assert second.at - first.at < SOON


@pytest.mark.parametrize(
    ("status", "check"), [(401, "APP_KEY"), (403, "APP_KEY"), (404, "CONTROLLER_URL")]
)
def test_a_denial_is_told_at_once(server, status, check):
    server.fault("any", "status", status)
    there = asking(server.url)
    for call in [there.current_deploy, there.ssh_keys]:
        message = failure(DeniedError, call, PATIENCE)
        assert str(status) in message
        assert "app hello" in message
        assert check in message
    assert server.count() == 2


def test_a_wrong_key_is_denied(server):
    message = failure(
        DeniedError, asking(server.url, key="s3cr3t-but-wrong").current_deploy, PATIENCE
    )
    assert "401 Unauthorized" in message


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (("html",), "a web page, not JSON"),
        (("latin1",), "not UTF-8"),
        (("huge",), "over 4 MiB"),
        (("missing", "slug_url"), "slug_url is missing"),
        (("missing", "slug_url", "customer_app_name"), "customer_app_name is missing"),
        (("body", b""), "not JSON"),
        (("body", b"null"), "data is missing"),
        (("body", b'{"data": null}'), "data is missing"),
        (("body", b'{"data": []}'), "not a JSON object"),
        (("body", b'{"data": {"slug_url": ["s3cr3t"]}}'), "slug_url"),
        (("body", b'{"data": "s3cr3t'), "not JSON"),
        (("status", 204), "not JSON"),
        (("status", 304), "304 Not Modified"),
        (("status", 410), "410 Gone"),
    ],
    ids=str,
)
def test_an_answer_of_no_use_is_told_at_once(server, fault, reason):
    server.fault("current", *fault)
    message = failure(UnavailableError, asking(server.url).current_deploy, PATIENCE)
    assert reason in message
    assert server.url in message
    assert server.count() == 1


def test_config_that_the_kernel_would_refuse_is_named(server):
    server.release["config"] = {"BIG": "s3cr3t" * 30_000, "LIST": ["s3cr3t"], "NUL": "s3cr3t\0"}
    message = failure(UnavailableError, asking(server.url).current_deploy, PATIENCE)
    assert all(name in message for name in ["'BIG'", "'LIST'", "'NUL'"])


def test_retry_after_is_kept(server):
    server.fault("current", "status", 429, times=1, headers={"Retry-After": "1"})
    assert asking(server.url).current_deploy(PATIENCE).version == "41"
    first, second = server.requests
    assert second.at - first.at >= 1


def test_a_retry_after_beyond_patience_ends_it(server):
    server.fault("current", "status", 503, headers={"Retry-After": "3600"})
    started = time.monotonic()
    assert "1 try" in failure(UnavailableError, asking(server.url).current_deploy, PATIENCE)
    assert time.monotonic() - started < SOON


def test_what_did_not_change_is_not_sent_again(server):
    server.etags = True
    there = asking(server.url)
    first = there.current_deploy(PATIENCE)
    assert there.ssh_keys(PATIENCE).changed
    assert there.current_deploy(PATIENCE) == first
    assert not there.ssh_keys(PATIENCE).changed
    server.ssh_keys = ["ssh-ed25519 CCCC new"]
    assert there.ssh_keys(PATIENCE) == controller.SshKeys(("ssh-ed25519 CCCC new",), changed=True)
    assert not there.ssh_keys(PATIENCE).changed
    conditions = ["If-None-Match" in request.headers for request in server.requests]
    assert conditions == [False, False, True, True, True, True]


def test_without_etag_nothing_is_conditional(server):
    there = asking(server.url)
    assert there.ssh_keys(PATIENCE) == there.ssh_keys(PATIENCE)
    assert not any("If-None-Match" in request.headers for request in server.requests)


def test_a_fault_does_not_lose_what_is_known(server):
    server.etags = True
    there = asking(server.url)
    keys = there.ssh_keys(PATIENCE)
    server.fault("ssh_keys", "cut")
    failure(UnavailableError, there.ssh_keys, 0.3)
    server.heal()
    again = there.ssh_keys(PATIENCE)
    assert (again.lines, again.changed) == (keys.lines, False)


def test_the_index_of_a_replica(server):
    there = asking(server.url)
    assert there.host_index("replica-1", PATIENCE) is None
    server.host_indexes = {"replica-1": 3, "a/b c": 0}
    assert there.host_index("replica-1", PATIENCE) == "3"
    assert there.host_index("a/b c", PATIENCE) == "0"
    server.fault("host_index", "status", 401)
    failure(DeniedError, there.host_index, "replica-1", PATIENCE)


def test_the_expression_that_migrates(server):
    there = asking(server.url)
    assert there.migrate_expression("hello", PATIENCE) is None
    server.migrate = "'Elixir.Hello':migrate()."
    assert there.migrate_expression("a&b=c d", PATIENCE) == server.migrate
    assert server.requests[-1].query == {"migration_app_name": ["a&b=c d"]}
    server.fault("migrate", "body", b'{"data": {}}')
    assert "expression" in failure(UnavailableError, there.migrate_expression, "hello", PATIENCE)


def test_a_redirect_on_the_same_host_is_followed(server):
    server.fault("current", "redirect", f"{server.url}/api/apps/hello/releases/current", times=1)
    assert asking(server.url).current_deploy(PATIENCE).version == "41"


def test_no_key_is_sent_to_another_host(server):
    with ControllerServer() as other:
        server.fault("current", "redirect", f"{other.url}/api/apps/hello/releases/current?s3cr3t")
        message = failure(DeniedError, asking(server.url).current_deploy, PATIENCE)
        assert other.url in message
        assert [request.endpoint for request in other.requests] == ["current"]
        assert "Authorization" not in other.requests[0].headers


def test_redirects_end(server):
    server.fault("current", "redirect", f"{server.url}/api/apps/hello/releases/current")
    assert "redirects" in failure(UnavailableError, asking(server.url).current_deploy, PATIENCE)


def test_calls_from_many_threads_do_not_wait_for_each_other(server):
    server.etags = True
    server.fault("current", "hang", times=1)
    there = asking(server.url, deadlines=Deadlines(30, 30, 30))
    with ThreadPoolExecutor(9) as pool:
        hanging = pool.submit(there.current_deploy, PATIENCE)
        until(lambda: server.count("current"), "it hangs")
        keys = list(pool.map(lambda _: there.ssh_keys(PATIENCE).lines, range(64)))
        assert not hanging.done()
        assert set(keys) == {tuple(server.ssh_keys)}
        server.refuse()  # ends the hanging one
        server.accept()
        assert hanging.result().version == "41"


def test_nothing_stays_open_between_calls(server):
    there = asking(server.url)
    threads = threading.active_count()
    for _ in range(5):
        there.current_deploy(PATIENCE)
    until(lambda: not server.connections, lambda: f"{server.connections} are open")
    # those of the server outlive their connections by a moment
    until(lambda: threading.active_count() <= threads, lambda: f"{threading.enumerate()}")


def test_retries_are_logged_without_secrets(server, caplog):
    caplog.set_level(logging.DEBUG)
    server.fault("current", "status", 500, times=2)
    asking(server.url).current_deploy(PATIENCE)
    warnings = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warnings) == 2
    assert "500 Internal Server Error" in warnings[0].getMessage()
    assert "trying again in" in warnings[0].getMessage()
    assert "s3cr3t" not in caplog.text
    assert _basic("hello", KEY) not in caplog.text


@pytest.fixture(name="tls", scope="session")
def a_self_signed_server(tmp_path_factory):
    """Return the context of a server on 127.0.0.1, and the file with its certificate."""
    path = tmp_path_factory.mktemp("tls") / "server.pem"
    path.write_bytes(self_signed(x509.IPAddress(ipaddress.ip_address("127.0.0.1"))))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path)
    return context, path


def self_signed(address):
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "controller")])
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - HOUR)
        .not_valid_after(now + HOUR)
        .add_extension(x509.SubjectAlternativeName([address]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    return certificate.public_bytes(pem) + key.private_bytes(
        pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


@pytest.fixture(name="secure")
def a_secure_server(tls, monkeypatch):
    """Yield a server whose certificate is trusted by REQUESTS_CA_BUNDLE."""
    context, path = tls
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(path))
    with ControllerServer(key=KEY, tls=context) as server:
        server.release = dict(RELEASE)
        yield server


def test_a_trusted_certificate(secure):
    assert asking(secure.url).current_deploy(PATIENCE).version == "41"


def test_a_certificate_that_nobody_vouches_for(secure, monkeypatch):
    monkeypatch.delenv("REQUESTS_CA_BUNDLE")
    monkeypatch.delenv("CURL_CA_BUNDLE", raising=False)
    message = failure(UnavailableError, asking(secure.url).current_deploy, PATIENCE)
    assert "cannot trust the controller at " + secure.url in message
    assert "self-signed certificate" in message
    assert "REQUESTS_CA_BUNDLE" in message
    assert secure.count() == 0


def test_a_certificate_of_another_host(tmp_path, monkeypatch):
    path = tmp_path / "other.pem"
    path.write_bytes(self_signed(x509.DNSName("other.example")))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path)
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(path))
    with ControllerServer(key=KEY, tls=context) as server:
        message = failure(UnavailableError, asking(server.url).current_deploy, PATIENCE)
    assert "mismatch" in message


def test_https_where_only_http_is_spoken(server):
    url = server.url.replace("http:", "https:")
    message = failure(UnavailableError, asking(url).current_deploy, PATIENCE)
    assert "wrong version number" in message


@pytest.mark.parametrize("fault", [("drip", 0.05), ("drip_headers", 0.05), ("hang",)])
def test_tls_does_not_hide_an_answer_that_drips(secure, fault):
    secure.fault("current", *fault, times=1)
    assert asking(secure.url, deadlines=HASTY).current_deploy(PATIENCE).version == "41"
    assert secure.count() == 2


def test_https_never_goes_down_to_http(secure, server):
    secure.fault("current", "redirect", f"{server.url}/api/apps/hello/releases/current?s3cr3t")
    message = failure(UnavailableError, asking(secure.url).current_deploy, PATIENCE)
    assert "not encrypted" in message
    assert server.count() == 0


def test_an_authority_file_that_is_not_there(secure, monkeypatch, tmp_path):
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "gone.pem"))
    assert "gone.pem" in failure(UnavailableError, asking(secure.url).current_deploy, PATIENCE)


@pytest.mark.parametrize("url", ["http://127.0.0.1:99999", "http://a..b", "http://*"])
def test_a_url_that_cannot_be_asked(url):
    failure(UnavailableError, asking(url).current_deploy, 0.5)
