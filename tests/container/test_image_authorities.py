"""An operator's own certificate authority: a mounted file that a variable names."""

import os
import ssl

import pytest

from support import small_slugs
from support.containers import Container
from support.controller_server import ControllerServer
from support.http_server import HttpServer

APP_KEY = "the-app-key-0123456789abcdef"
SLUG = "/slugs/hello-41.tar.gz"
AUTHORITY = "/etc/operator/authority.pem"


@pytest.fixture
def boot(image, tmp_path, ports):
    """Boot from a controller and a storage whose authority nobody knows, with these settings."""
    with HttpServer(tls=tmp_path) as storage:
        storage.put(SLUG, small_slugs.running("exec sleep 600"))
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(storage.authority, tmp_path / "key.pem")
        with ControllerServer(key=APP_KEY, tls=tls) as controller:
            controller.release = {"slug_url": storage.url(SLUG), "customer_app_name": "hello"}
            usual = {
                "CONTROLLER_URL": controller.url, "APP_KEY": APP_KEY, "MY_POD_IP": "127.0.0.1",
                "HEALTH_PORT": str(ports.free()), "PORT": str(ports.free()), "SSH_PORT": "none",
                "READY_CHECK": "none", "NO_PROXY": "*",
            }  # fmt: skip
            yield lambda **settings: Container(
                "init", "hello", network="host", settings=usual | settings,
                volumes={storage.authority: f"{AUTHORITY}:ro"},
            )  # fmt: skip


@pytest.mark.parametrize("name", ["REQUESTS_CA_BUNDLE", "SSL_CERT_FILE"])
def test_the_controller_and_the_storage_are_trusted_by_it(boot, name):
    with boot(**{name: AUTHORITY}) as container:
        container.until('"ready"')


def test_without_it_nobody_is(boot):
    with boot() as container:
        assert container.wait() == os.EX_UNAVAILABLE
        assert "cannot trust the controller at https://127.0.0.1" in container.text()
