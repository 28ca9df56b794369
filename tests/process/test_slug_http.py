"""What an HTTP storage, or the way to it, can get wrong while a slug is downloaded."""

import contextlib
import logging
import random
import re
import socket

import pytest

from run_agent.errors import DeniedError, SlugError, UnavailableError
from support import tarballs
from support.fetching import Volume, quick_folder
from support.http_server import Answer, HttpServer, goog_hash

PATH = "/slug.tar.gz"
CONTENT = tarballs.release(3 << 20)
OTHER = tarballs.release(3 << 20, seed=2)
SIZE = len(CONTENT)
HASHED = {"x-goog-hash": goog_hash(CONTENT)}


@pytest.fixture(name="server")
def a_server():
    with HttpServer() as server:
        yield server


@pytest.fixture(name="volume")
def a_volume():
    with quick_folder() as folder:
        yield Volume(folder)


def ranges(server):
    return [request.headers.get("Range") for request in server.requests]


@pytest.mark.parametrize("at", [0, 1, 1000, SIZE // 2, SIZE - 1])
@pytest.mark.parametrize("reset", [False, True], ids=["closed", "reset"])
def test_a_cut_download_goes_on_where_it_was(server, volume, at, reset):
    server.put(PATH, CONTENT, etag='"1"')
    server.plan(PATH, Answer(cut_after=at, reset=reset))
    slug = volume.fetch(server.url(PATH))
    assert slug.packed_bytes == SIZE
    assert len(server.requests) == 2
    again = server.requests[1].headers
    if "Range" in again:  # what a reset connection had not handed over is asked for again
        assert 0 < int(again["Range"].removeprefix("bytes=").removesuffix("-")) <= at
        assert again["If-Range"] == '"1"'


def test_cut_again_and_again(server, volume):
    random.seed(1)
    server.put(PATH, CONTENT, etag='"1"')
    server.plan(PATH, *(Answer(cut_after=random.randrange(1, 1 << 19)) for _ in range(12)))
    assert volume.fetch(server.url(PATH)).packed_bytes == SIZE
    assert len(server.requests) == 13


@pytest.mark.parametrize(
    "told", [{"etag": '"1"'}, {"headers": HASHED}], ids=["ETag", "x-goog-hash"]
)
def test_a_server_without_ranges_sends_it_all_again(server, volume, told):
    whole = Answer(ranges=False)
    server.put(PATH, CONTENT, usual=whole, **told)
    server.plan(PATH, Answer(ranges=False, cut_after=SIZE // 2))
    assert volume.fetch(server.url(PATH)).packed_bytes == SIZE
    assert len(server.requests) == 2


@pytest.mark.parametrize("length", ["announced", "chunked"])
@pytest.mark.parametrize("ranges", [True, False])
def test_without_validators_the_announced_digest_lets_it_go_on(server, volume, length, ranges):
    usual = Answer(chunked=length == "chunked", ranges=ranges)
    server.put(PATH, CONTENT, usual=usual)
    slug = volume.fetch(server.url(PATH))
    server.requests.clear()
    fresh = Volume(volume.root / "fresh")
    server.plan(PATH, Answer(cut_after=SIZE // 2, chunked=usual.chunked, ranges=ranges))
    assert fresh.fetch(server.url(PATH), sha256=slug.digest).digest == slug.digest
    assert len(server.requests) == 2
    assert server.requests[1].headers["Range"].startswith("bytes=1")


def test_with_nothing_to_tell_that_it_is_the_same_it_begins_again(server, volume):
    server.put(PATH, CONTENT)
    server.plan(PATH, Answer(cut_after=SIZE // 2))
    assert volume.fetch(server.url(PATH)).packed_bytes == SIZE
    assert ranges(server) == [None, None]
    assert not volume.left()


@pytest.mark.parametrize("how", ["ETag and If-Range", "ETag", "hash", "size", "gone"])
def test_an_object_that_changed_is_begun_again(server, volume, how):
    hashed = {"x-goog-hash": goog_hash(OTHER)}
    told = {"headers": {"x-goog-hash": goog_hash(CONTENT)}} if how == "hash" else {"etag": '"1"'}
    server.put(PATH, CONTENT, **told)
    server.plan(PATH, Answer(cut_after=SIZE // 2))
    match how:
        case "ETag and If-Range":
            server.plan(PATH, Answer(content=OTHER, etag='"2"'))
        case "ETag":
            server.plan(PATH, Answer(content=OTHER, headers={"ETag": '"2"'}))
        case "hash":
            server.plan(PATH, Answer(content=OTHER, headers=hashed))
        case "size":
            server.plan(PATH, Answer(content=CONTENT + b"\0"))
        case "gone":
            server.plan(PATH, Answer(ranges=False, validators=False))
    server.plan(PATH, Answer(content=OTHER, etag='"2"', headers=hashed))
    slug = volume.fetch(server.url(PATH))
    assert slug.packed_bytes == len(OTHER)
    assert slug.etag == '"2"'
    assert len(server.requests) == 3
    assert not volume.left()


@pytest.mark.parametrize(
    "answer",
    [
        Answer(status=416, headers={"Content-Range": "bytes */0"}),
        Answer(status=412),
        Answer(range_shift=5),
        Answer(headers={"Content-Range": "nonsense"}),
    ],
    ids=["416", "412", "another range", "no range"],
)
def test_a_rest_that_cannot_be_had_is_begun_again(server, volume, answer):
    server.put(PATH, CONTENT, etag='"1"')
    server.plan(PATH, Answer(cut_after=SIZE // 2), answer)
    assert volume.fetch(server.url(PATH)).packed_bytes == SIZE
    assert ranges(server) == [None, f"bytes={SIZE // 2}-", None]


def test_an_object_that_changes_all_the_time_is_given_up(server, volume):
    server.put(PATH, CONTENT)
    server.plan(PATH, *[Answer(cut_after=SIZE // 2)] * 9)
    with pytest.raises(UnavailableError, match=r"no ETag.*3 times in a row"):
        volume.fetch(server.url(PATH))
    assert len(server.requests) == 3
    assert not volume.left()


def test_a_weak_etag_is_none_to_go_on_with(server, volume):
    server.put(PATH, CONTENT, etag='W/"1"')
    server.plan(PATH, Answer(cut_after=SIZE // 2))
    volume.fetch(server.url(PATH))
    assert ranges(server) == [None, None]


@pytest.mark.parametrize("status", [500, 502, 503, 429, 408])
def test_a_status_that_may_pass_is_asked_again(server, volume, status):
    server.put(PATH, CONTENT)
    server.plan(PATH, *[Answer(status=status, body=b"sorry")] * 3)
    assert volume.fetch(server.url(PATH)).packed_bytes == SIZE
    assert len(server.requests) == 4


def test_trouble_while_going_on_is_sat_out_too(server, volume, caplog):
    server.put(PATH, CONTENT, etag='"1"')
    server.plan(PATH, Answer(cut_after=SIZE // 2), Answer(status=503), Answer(cut_after=0))
    with caplog.at_level(logging.WARNING):
        assert volume.fetch(server.url(f"{PATH}?s=s3cr3t")).packed_bytes == SIZE
    said = [record.getMessage() for record in caplog.records]
    assert f"(its answer was cut); going on at byte {SIZE // 2}" in said[0]
    assert "503" in said[1]
    assert "trying again in" in said[1]
    assert not any("s3cr3t" in line for line in said)


def test_retry_after_is_honoured(server, volume, caplog):
    server.put(PATH, CONTENT)
    server.plan(PATH, Answer(status=503, headers={"Retry-After": "2"}))
    with caplog.at_level(logging.WARNING):
        volume.fetch(server.url(PATH))
    waited = re.search(r"trying again in (\d\.\d) s", caplog.records[0].getMessage())
    assert waited
    assert 2.0 <= float(waited[1]) <= 3.0, "as asked for, and some jitter"


def test_a_storage_that_stays_down_is_given_up(server, volume):
    server.plan(PATH, *[Answer(status=503)] * 9)
    with pytest.raises(UnavailableError, match=r"\(503 Service Unavailable, 5 tries in \d+ s\)"):
        volume.fetch(server.url(f"{PATH}?Signature=s3cr3t"))
    assert len(server.requests) == 5


def test_progress_that_never_comes_is_given_up(server, volume):
    server.put(PATH, CONTENT, etag='"1"')
    server.plan(PATH, *[Answer(cut_after=0)] * 12)
    with pytest.raises(UnavailableError, match="its answer was cut, 5 tries"):
        volume.fetch(server.url(PATH))


def test_a_refused_connection_is_given_up_with_its_reason(volume):
    with socket.socket() as bound:  # but not listening: nobody else gets the port meanwhile
        bound.bind(("127.0.0.1", 0))
        port = bound.getsockname()[1]
        with pytest.raises(UnavailableError) as raised:
            volume.fetch(f"http://127.0.0.1:{port}{PATH}?Signature=s3cr3t")
    assert "connection refused, 5 tries" in str(raised.value)
    assert "s3cr3t" not in str(raised.value)


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410])
def test_a_denial_is_not_asked_again(server, volume, status):
    server.put(PATH, CONTENT)
    server.plan(PATH, Answer(status=status, body=b"<Error>expired</Error>"))
    with pytest.raises(DeniedError) as raised:
        volume.fetch(server.url(f"{PATH}?Signature=s3cr3t"))
    assert str(raised.value).startswith(f"cannot fetch {server.url(PATH)} ({status} ")
    assert "; check " in str(raised.value)
    assert "s3cr3t" not in str(raised.value)
    assert len(server.requests) == 1


def test_a_denial_in_the_middle_ends_it(server, volume):
    server.put(PATH, CONTENT, etag='"1"')
    server.plan(PATH, Answer(cut_after=SIZE // 2), Answer(status=403))
    with pytest.raises(DeniedError, match="signature of the slug's URL has expired"):
        volume.fetch(server.url(PATH))
    assert not volume.left()


@pytest.mark.parametrize("stage", [Answer(hang=True), Answer(stall_after=SIZE // 2)])
def test_a_storage_that_hangs_is_left_at_the_deadline(server, volume, stage):
    server.put(PATH, CONTENT, usual=stage)
    with pytest.raises(
        UnavailableError, match=r"cannot fetch slug v41 within 2 s \(.* come by then"
    ):
        volume.fetch(server.url(PATH), seconds=2)
    assert not volume.left()


def test_a_redirect_is_followed(server, volume):
    server.put("/there", CONTENT, etag='"1"')
    server.plan(PATH, Answer(status=302, headers={"Location": "/there?Signature=s3cr3t"}))
    slug = volume.fetch(server.url(PATH))
    assert slug.source == server.url(PATH)


def test_redirects_in_a_loop_are_told(server, volume):
    server.plan(PATH, *[Answer(status=302, headers={"Location": PATH})] * 30)
    with pytest.raises(UnavailableError, match="redirects in a loop"):
        volume.fetch(server.url(PATH))


def test_the_body_is_taken_as_it_is_stored(server, volume):
    server.put(PATH, CONTENT, headers={"Content-Encoding": "gzip", **HASHED})
    slug = volume.fetch(server.url(PATH))
    assert slug.packed_bytes == SIZE
    assert server.requests[0].headers["Accept-Encoding"] == "identity"


def test_hashes_of_other_bytes_than_those_sent_are_not_looked_at(server, volume):
    import gzip

    stored = {"x-goog-stored-content-encoding": "gzip", **HASHED}
    server.put(PATH, gzip.decompress(CONTENT), headers=stored, usual=Answer(chunked=True))
    slug = volume.fetch(server.url(PATH))
    assert slug.goog_hash is None
    assert slug.members == 102


@pytest.mark.parametrize("name", ["crc32c", "md5"])
def test_an_announced_hash_that_differs_is_refused(server, volume, name):
    right, wrong = (
        dict(part.split("=", 1) for part in goog_hash(c).split(",")) for c in (CONTENT, OTHER)
    )
    told = ",".join(f"{key}={value}" for key, value in {**right, name: wrong[name]}.items())
    server.put(PATH, CONTENT, etag='"1"', headers={"x-goog-hash": told})
    with pytest.raises(SlugError, match=rf"its {name} is .* but the storage announced"):
        volume.fetch(server.url(PATH))
    assert len(server.requests) == 1
    assert not volume.left()


def test_less_than_was_announced_is_never_taken_for_the_whole(server, volume):
    server.put(PATH, CONTENT, etag='"1"', usual=Answer(cut_after=SIZE - 1))
    server.plan(PATH, Answer(cut_after=SIZE - 1))
    assert volume.fetch(server.url(PATH)).packed_bytes == SIZE


def test_tls_is_verified(tmp_path, volume):
    with HttpServer(tls=tmp_path) as server:
        server.put(PATH, CONTENT)
        with pytest.raises(UnavailableError, match=r"cannot trust https://.*self-signed"):
            volume.fetch(server.url(f"{PATH}?Signature=s3cr3t"))


@pytest.mark.parametrize("name", ["REQUESTS_CA_BUNDLE", "SSL_CERT_FILE"])
def test_an_authority_of_the_environment_is_trusted(tmp_path, volume, name):
    with HttpServer(tls=tmp_path) as server:
        server.put(PATH, CONTENT, etag='"1"')
        server.plan(PATH, Answer(cut_after=1000))
        environ = {key: value for key, value in volume.environ.items() if "BUNDLE" not in key}
        trusting = Volume(tmp_path, environ={**environ, name: str(server.authority)})
        assert trusting.fetch(server.url(PATH)).packed_bytes == SIZE


def test_a_redirect_from_https_to_http_is_refused(server, tmp_path, volume):
    server.put(PATH, CONTENT)
    with HttpServer(tls=tmp_path) as secure:
        secure.plan(PATH, Answer(status=302, headers={"Location": server.url(PATH)}))
        trusting = Volume(
            tmp_path, environ={**volume.environ, "REQUESTS_CA_BUNDLE": str(secure.authority)}
        )
        with pytest.raises(DeniedError, match="not encrypted"):
            trusting.fetch(secure.url(PATH))
    assert not server.requests


def test_a_storage_with_nothing_but_the_content_works(server, volume):
    server.put(PATH, CONTENT, usual=Answer(length=False, ranges=False))
    assert volume.fetch(server.url(PATH)).packed_bytes == SIZE
    assert {report.total for report in volume.reports} <= {None}


def test_cut_without_a_length_is_noticed_by_what_is_missing(server, volume):
    server.put(PATH, CONTENT, usual=Answer(length=False, cut_after=SIZE // 2))
    with pytest.raises(SlugError, match="cut"):
        volume.fetch(server.url(PATH))
    with contextlib.suppress(FileNotFoundError):
        assert not volume.left()
