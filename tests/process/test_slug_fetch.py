"""A slug from a real server, by a real worker, to a tree on the volume."""

import asyncio
import hashlib
import json
import os
import stat

import pytest

from run_agent.errors import DeniedError, SlugError
from run_agent.model import Deploy
from run_agent.slug import fetch
from support import tarballs
from support.fetching import Volume, quick_folder
from support.http_server import Answer, HttpServer, goog_hash

PATH = "/slugs/app.tar.gz"


@pytest.fixture(name="server")
def a_server():
    with HttpServer() as server:
        yield server


@pytest.fixture(name="volume")
def a_volume():
    with quick_folder() as folder:
        yield Volume(folder)


def sha256(content):
    return hashlib.sha256(content).hexdigest()


def test_it_becomes_a_tree_named_by_its_digest(server, volume):
    content = tarballs.slug([tarballs.file("bin/app", b"#!/bin/sh\n", mode=0o755)])
    server.put(PATH, content, etag='"1"')
    slug = volume.fetch(server.url(f"{PATH}?Signature=s3cr3t"))
    assert slug.digest == sha256(content)
    assert slug.path == volume.deploys / slug.digest
    assert slug.source == server.url(PATH)
    assert (slug.etag, slug.packed_bytes, slug.unpacked_bytes, slug.members) == (
        '"1"',
        len(content),
        10,
        1,
    )
    assert (slug.path / "bin" / "app").read_bytes() == b"#!/bin/sh\n"
    assert stat.S_IMODE((slug.path / "bin" / "app").stat().st_mode) == 0o755
    assert stat.S_IMODE(slug.path.stat().st_mode) == 0o755
    assert not volume.left()


def test_the_record_is_private_and_says_that_the_tree_is_durable(server, volume):
    server.put(PATH, tarballs.release())
    slug = volume.fetch(server.url(PATH))
    path = volume.deploys / f"{slug.digest}.json"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert json.loads(path.read_text())["durable"] is True
    assert volume.trees.find(slug.digest) == slug


def test_progress_is_reported_while_it_comes(server, volume):
    content = tarballs.release(1 << 20)
    server.put(PATH, content, usual=Answer(slowly=True))
    volume.fetch(server.url(PATH))
    assert {report.total for report in volume.reports} == {len(content)}
    done = [report.bytes for report in volume.reports]
    assert done == sorted(done)
    assert len(set(done)) > 2
    last = volume.reports[-1]
    assert (last.bytes, last.members, last.unpacked) == (len(content), 102, 10 + 100 * 10485)


def test_the_announced_digest_is_checked(server, volume):
    content = tarballs.release()
    server.put(PATH, content)
    assert volume.fetch(server.url(PATH), sha256=sha256(content)).digest == sha256(content)


def test_another_digest_than_announced_is_refused_without_another_try(server, volume):
    server.put(PATH, tarballs.release())
    announced = sha256(b"another")
    with pytest.raises(SlugError, match=rf"v41 .*SHA-256 is .*but {announced} was announced"):
        volume.fetch(server.url(f"{PATH}?Signature=s3cr3t"), sha256=announced)
    assert len(server.requests) == 1
    assert not volume.trees.find(announced)
    assert not volume.left()


def test_a_tree_with_the_announced_digest_needs_no_request(server, volume):
    content = tarballs.release()
    server.put(PATH, content)
    first = volume.fetch(server.url(PATH))
    again = volume.fetch(server.url("/elsewhere"), sha256=first.digest)
    assert again == first
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    "told",
    [{"etag": '"1"'}, {"etag": 'W/"1"'}, {"headers": {"x-goog-hash": "crc32c=x,md5=y"}}],
    ids=["strong ETag", "weak ETag", "x-goog-hash"],
)
def test_what_the_storage_calls_the_same_is_not_read_again(server, volume, told):
    content = tarballs.release(8 << 20)
    if "headers" in told:
        told = {"headers": {"x-goog-hash": goog_hash(content)}}
    server.put(PATH, content, **told)
    first = volume.fetch(server.url(f"{PATH}?Signature=1"))
    volume.reports.clear()
    # Were its body read, it would be found out: it is not what it says.
    server.put(PATH, tarballs.release(1 << 20, seed=2), **told)
    again = volume.fetch(server.url(f"{PATH}?Signature=2"))
    assert again == first
    assert not volume.reports


def test_another_etag_is_fetched(server, volume):
    server.put(PATH, tarballs.release(seed=1), etag='"1"')
    first = volume.fetch(server.url(PATH))
    server.put(PATH, tarballs.release(seed=2), etag='"2"')
    second = volume.fetch(server.url(PATH))
    assert second.digest != first.digest
    assert volume.trees.find(first.digest) == first


def test_without_an_etag_it_is_fetched_again_and_the_same_tree_stays(server, volume):
    server.put(PATH, tarballs.release())
    first = volume.fetch(server.url(PATH))
    inode = first.path.stat().st_ino
    (first.path / "log").write_text("of the app that runs in it")
    again = volume.fetch(server.url(PATH))
    assert again.digest == first.digest
    assert again.path.stat().st_ino == inode
    assert (again.path / "log").exists()
    assert not volume.left()


def test_the_same_content_under_a_new_etag_is_known_by_it_afterwards(server, volume):
    content = tarballs.release()
    server.put(PATH, content, etag='"1"')
    volume.fetch(server.url(PATH))
    server.put(PATH, content, etag='"2"')
    volume.fetch(server.url(PATH))
    volume.reports.clear()
    volume.fetch(server.url(PATH))
    assert not volume.reports


def test_a_tree_that_a_power_cut_may_have_hurt_is_made_anew(server, volume):
    server.put(PATH, tarballs.release(), etag='"1"')
    slug = volume.fetch(server.url(PATH))
    path = volume.deploys / f"{slug.digest}.json"
    record = json.loads(path.read_text())
    path.write_text(json.dumps({**record, "durable": False, "boot_id": "of another boot"}))
    (slug.path / "bin" / "app").write_bytes(b"")
    assert volume.trees.find(slug.digest) is None
    again = volume.fetch(server.url(PATH), sha256=slug.digest)
    assert (again.path / "bin" / "app").read_bytes()
    assert volume.trees.find(slug.digest) == again
    assert not volume.left()


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b'{"slug": 1}', b"\xff\xfe"])
def test_a_damaged_record_counts_as_none(server, volume, damage):
    server.put(PATH, tarballs.release(), etag='"1"')
    slug = volume.fetch(server.url(PATH))
    (volume.deploys / f"{slug.digest}.json").write_bytes(damage)
    assert volume.fetch(server.url(PATH)).digest == slug.digest
    assert volume.trees.find(slug.digest)


@pytest.mark.parametrize("umask", [0o077, 0o000])
def test_modes_do_not_depend_on_the_umask(server, volume, umask):
    server.put(
        PATH,
        tarballs.slug(
            [
                tarballs.file("a/b/c", mode=0o644),
                tarballs.file("x", mode=0o755),
                tarballs.folder("d", mode=0o775),
            ]
        ),
    )
    before = os.umask(umask)
    try:
        tree = volume.fetch(server.url(PATH)).path
    finally:
        os.umask(before)
    modes = {name: stat.S_IMODE((tree / name).stat().st_mode) for name in ("a", "a/b/c", "x", "d")}
    assert modes == {"a": 0o755, "a/b/c": 0o644, "x": 0o755, "d": 0o775}


@pytest.mark.parametrize("suffix", ["gz", "zst", "tar"])
def test_the_content_tells_the_format_and_not_the_name(server, volume, suffix):
    import zstandard

    plain = tarballs.tar([tarballs.file("bin/app")])
    packed = {
        "gz": tarballs.slug([tarballs.file("bin/app")]),
        "zst": zstandard.ZstdCompressor().compress(plain),
        "tar": plain,
    }
    server.put("/slug", packed[suffix])
    assert (volume.fetch(server.url("/slug")).path / "bin" / "app").exists()


def test_from_a_file(volume, tmp_path):
    path = tmp_path / "a slug.tar.gz"
    content = tarballs.release()
    path.write_bytes(content)
    first = volume.fetch(path.as_uri())
    assert first.digest == sha256(content)
    volume.reports.clear()
    assert volume.fetch(path.as_uri()) == first
    assert not volume.reports
    path.write_bytes(tarballs.release(seed=2))
    assert volume.fetch(path.as_uri()).digest != first.digest


@pytest.mark.parametrize("kind", ["missing", "folder", "pipe", "machine"])
def test_what_is_no_file_is_denied_with_its_name(volume, tmp_path, kind):
    path = tmp_path / "slug"
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    url = "file://elsewhere/slug" if kind == "machine" else path.as_uri()
    with pytest.raises(DeniedError, match=rf"^cannot read {url}"):
        volume.fetch(url)


@pytest.mark.parametrize("url", ["ftp://host/slug", "slug.tar.gz", "", "http://[bad/slug"])
def test_a_url_of_no_use_is_denied(volume, url):
    with pytest.raises(DeniedError, match=r"^cannot fetch"):
        volume.fetch(url)


def test_two_fetches_at_once_end_with_one_tree(server, volume):
    server.put(PATH, tarballs.release(4 << 20), usual=Answer(slowly=True))

    async def both():
        async with fetch.start(volume.environ) as one, fetch.start(volume.environ) as two:
            request = volume.request(server.url(PATH))
            slugs = await asyncio.gather(
                *(each.fetch(request, volume.reports.append, 60) for each in (one, two))
            )
            await asyncio.gather(one.finished(), two.finished())
            return slugs

    one, two = asyncio.run(both())
    assert one == two
    assert not volume.left()


def test_a_good_deploy_boots_without_the_controller(server, volume):
    server.put(PATH, tarballs.release())
    slug = volume.fetch(server.url(PATH))
    deploy = Deploy(server.url(PATH), "app", version="41", config={"A": "s3cr3t\n\N{SNOWMAN}"})
    volume.trees.switch(slug.digest)
    volume.trees.mark_good(slug.digest, deploy, at=1.0)
    assert volume.trees.current() == slug.digest
    assert volume.trees.last_good() == (deploy, slug)
    assert (volume.layout.current / "bin" / "app").exists()
