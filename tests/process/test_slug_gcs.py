"""Slugs in a bucket: from an emulator of Google Cloud Storage, with Google's own library."""

import hashlib
import importlib.util
import json
import os
from urllib.parse import quote

import pytest

from run_agent.errors import DeniedError, SlugError, UnavailableError
from run_agent.storage import gcs
from support import tarballs
from support.fetching import Volume
from support.http_server import Answer, HttpServer, goog_hash
from support.need import need

NAME = "apps/app.tar.gz"
URL = f"gs://slugs/{NAME}"
ODD_NAME = "apps/a slug?#1.tar.gz"
CONTENT = tarballs.release(3 << 20)


@pytest.fixture
def bucket(monkeypatch):
    """Run the emulator with an empty bucket, whose content anybody may read."""
    need(importlib.util.find_spec("gcp_storage_emulator"), "no gcp-storage-emulator is installed")
    from gcp_storage_emulator.server import create_server
    from google.cloud.storage import Client

    emulator = create_server("127.0.0.1", 0, in_memory=True)
    emulator.start()
    host = f"http://127.0.0.1:{emulator._api._httpd.server_port}"
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", host)
    client = Client(project="test")
    yield client.create_bucket("slugs")
    client.close()
    emulator.stop()


@pytest.fixture
def volume(tmp_path):
    return lambda: Volume(tmp_path, environ={**os.environ, "NO_PROXY": "*"})


def test_an_object_becomes_a_tree_and_is_read_once(bucket, volume):
    bucket.blob(NAME).upload_from_string(CONTENT)
    volume = volume()
    slug = volume.fetch(URL)
    assert slug.digest == hashlib.sha256(CONTENT).hexdigest()
    assert slug.goog_hash == goog_hash(CONTENT)
    volume.reports.clear()
    assert volume.fetch(URL) == slug
    assert not volume.reports
    bucket.blob(NAME).upload_from_string(tarballs.release(3 << 20, seed=2))
    assert volume.fetch(URL).digest != slug.digest


def test_an_object_of_many_parts(bucket, volume):
    content = tarballs.release(2 * gcs.PART_BYTES + 1000)
    bucket.blob(NAME).upload_from_string(content)
    assert volume().fetch(URL).packed_bytes == len(content)


@pytest.mark.parametrize("url", ["gs://slugs/missing", "gs://no-such-bucket/slug"])
def test_what_is_not_there_is_denied(bucket, volume, url):
    with pytest.raises(
        DeniedError, match=rf"^cannot fetch {url} \(404 NotFound\); check the bucket"
    ):
        volume().fetch(url)


class Api:
    """As much of the JSON API as a download needs, with generations, on a server with faults."""

    def __init__(self, server, name=NAME):
        self.server = server
        self.path = f"/storage/v1/b/slugs/o/{quote(name, safe='')}"
        self.media = f"/download{self.path}"

    def put(self, content, generation, told=None):
        crc32c, md5 = (part.partition("=")[2] for part in goog_hash(told or content).split(","))
        found = {
            "name": NAME, "bucket": "slugs", "generation": str(generation),
            "etag": f"e{generation}",
            "size": str(len(content)), "crc32c": crc32c, "md5Hash": md5,
        }  # fmt: skip
        body = json.dumps(found).encode()
        self.server.put(self.path, body, headers={"Content-Type": "application/json"})
        self.server.put(self.media, content)


@pytest.fixture
def api(monkeypatch):
    with HttpServer() as server:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", server.url(""))
        yield Api(server)


def test_all_of_it_is_read_from_one_generation(api, volume):
    api.put(CONTENT, generation=7)
    assert volume().fetch(URL).packed_bytes == len(CONTENT)
    assert "generation=7" in api.server.asked(api.media)[0].query


def test_an_object_may_be_called_anything(api, volume):
    Api(api.server, ODD_NAME).put(CONTENT, generation=7)
    assert volume().fetch(f"gs://slugs/{ODD_NAME}").source == f"gs://slugs/{ODD_NAME}"


def test_an_object_that_is_replaced_meanwhile_is_begun_again(api, volume):
    api.put(CONTENT, generation=7)
    api.server.plan(api.media, Answer(status=404))
    assert volume().fetch(URL).packed_bytes == len(CONTENT)
    assert len(api.server.asked(api.path)) == 2


def test_content_that_is_not_what_was_announced_is_refused(api, volume):
    api.put(CONTENT, generation=7, told=b"another")
    volume = volume()
    with pytest.raises(SlugError, match=rf"cannot use slug v41 from {URL}: its crc32c is"):
        volume.fetch(URL)
    assert not volume.left()


@pytest.mark.parametrize("status", [400, 401, 403])
def test_a_denial_is_told(api, volume, status):
    api.server.plan(api.path, *[Answer(status=status)] * 9)
    with pytest.raises(
        DeniedError, match=rf"{status} .*this replica's credentials|no usable credentials"
    ):
        volume().fetch(URL)


def test_trouble_that_passes_is_sat_out(api, volume):
    api.put(CONTENT, generation=7)
    api.server.plan(api.path, Answer(status=503))
    api.server.plan(api.media, Answer(status=503), Answer(cut_after=1000))
    assert volume().fetch(URL).packed_bytes == len(CONTENT)


def test_a_storage_that_stays_down_is_given_up(api, volume):
    api.server.plan(api.path, *[Answer(status=503)] * 200)
    with pytest.raises(UnavailableError, match="ServiceUnavailable, tried for 15 s"):
        volume().fetch(URL, seconds=40)


def test_without_credentials_it_is_denied(tmp_path, monkeypatch):
    monkeypatch.delenv("STORAGE_EMULATOR_HOST", raising=False)
    environ = {"HOME": str(tmp_path), "NO_GCE_CHECK": "true", "PATH": "/nonexistent"}
    with pytest.raises(DeniedError, match=r"no usable credentials .DefaultCredentialsError"):
        Volume(tmp_path, environ=environ).fetch(URL)
