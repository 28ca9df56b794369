"""What the image keeps of the large libraries is enough: each does its work in a container."""

import gzip
import importlib.util
import json

import pytest
import zstandard

from support import small_slugs
from support.containers import Container
from support.kubernetes_api import ACCOUNT, KubernetesApi
from support.need import need
from support.ports import Ports
from support.wait import until

SLUG = small_slugs.running("exec sleep 600")
POD = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "hello-1"}}

TOLD_SECONDS = 60.0
"""Longer than a worker takes on a loaded machine: it is nice, so others come first."""


@pytest.fixture
def settings(ports: Ports):
    port = str(ports.free())
    return {"READY_CHECK": "none", "SSH_PORT": "none", "HEALTH_PORT": port, "NO_PROXY": "*"}


@pytest.fixture
def bucket(monkeypatch):
    """Run the emulator with an empty bucket; give that, and where the emulator is."""
    need(importlib.util.find_spec("gcp_storage_emulator"), "no gcp-storage-emulator is installed")
    from gcp_storage_emulator.server import create_server
    from google.cloud.storage import Client

    emulator = create_server("127.0.0.1", 0, in_memory=True)
    emulator.start()
    host = f"http://127.0.0.1:{emulator._api._httpd.server_port}"
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", host)
    client = Client(project="test")
    yield client.create_bucket("slugs"), host
    client.close()
    emulator.stop()


def test_google_cloud_storage(image, bucket, settings):
    slugs, host = bucket
    slugs.blob("app.tar.gz").upload_from_string(SLUG)
    with Container("bootstrap", "hello", "gs://slugs/app.tar.gz", network="host",
                   settings=settings | {"STORAGE_EMULATOR_HOST": host}) as container:  # fmt: skip
        container.until('"ready"')


def test_zstandard(image, tmp_path, settings):
    (tmp_path / "app.tar.zst").write_bytes(zstandard.compress(gzip.decompress(SLUG)))
    with Container("bootstrap", "hello", "file:///slugs/app.tar.zst", settings=settings,
                   volumes={tmp_path: "/slugs:ro"}) as container:  # fmt: skip
        container.until('"ready"')


def test_kubernetes(image, tmp_path, settings):
    with KubernetesApi() as api:
        where = api.mount(tmp_path)
        api.add(POD)
        (tmp_path / "app.tar.gz").write_bytes(SLUG)
        volumes = {tmp_path: "/slugs:ro", tmp_path / ACCOUNT: f"/{ACCOUNT}:ro"}
        with Container("bootstrap", "hello", "file:///slugs/app.tar.gz", network="host",
                       settings=settings | where | {"POD_NAME": "hello-1"}, volumes=volumes,
                       ) as container:  # fmt: skip
            container.until('"ready"')
            until(
                lambda: "run-agent.dev" in json.dumps(api.get("Pod", "hello-1")),
                container.text,
                TOLD_SECONDS,
            )
