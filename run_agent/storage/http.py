"""Slugs over HTTP: one GET whose body is handed on raw, and resumed by `Range` after a cut.

Owns the connection and decides which answer continues which. Must not decompress, and must not
let a URL's query (a signature is a credential) into a message.
"""

import http.client
import logging
import re
from collections.abc import Iterator, Mapping

import requests
import urllib3

from run_agent import storage
from run_agent.patience import PassingError
from run_agent.storage import exchange

log = logging.getLogger(__name__)

VALIDATOR_LIMIT = 1024
"""Characters of an ETag or a hash that is worth keeping; real ones have less than a hundred."""

_PARTIAL = 206
_RANGE_REFUSED = {412, 416}


class HttpDownload:
    """An object behind a URL. See `storage.Download`."""

    def __init__(self, url: str, *, digest_known: bool) -> None:
        self.source = storage.source(url)
        self._url = url
        self._digest_known = digest_known
        self._session = exchange.Session()
        self._read = 0
        self._response = exchange.persist(lambda: self._get({}))
        headers = self._response.headers
        self.etag = _short(headers.get("ETag"))
        self.goog_hash = _goog_hash(headers)
        self.size = _length(headers)

    def chunks(self) -> Iterator[bytes]:
        """Yield the content, going on where a connection was cut."""
        while chunk := self._next():
            self._read += len(chunk)
            yield chunk

    def close(self) -> None:
        """Close the connection."""
        self._response.close()
        self._session.close()

    def _next(self) -> bytes:
        try:
            return self._chunk()
        except PassingError as error:
            log.warning("%s; going on at byte %d", error, self._read)
        # Only a chunk is progress: a storage that answers and then sends nothing is tried no
        # longer than one that does not answer.
        return exchange.persist(self._resumed)

    def _chunk(self, most: int = storage.CHUNK_BYTES) -> bytes:
        try:
            chunk: bytes = self._response.raw.read(most, decode_content=False)
        except (urllib3.exceptions.HTTPError, http.client.HTTPException, OSError) as error:
            raise exchange.failure(self.source, error) from error
        if not chunk and self.size is not None and self._read < self.size:
            raise exchange.passing(self.source, exchange.CUT)
        return chunk

    def _resumed(self) -> bytes:
        """Ask for the rest and return its first chunk."""
        validators = _validators(self.etag, self.goog_hash)
        if self._read and not validators and not self._digest_known:
            raise storage.ChangedError("it has no ETag to tell whether it is still the same")
        wanted = {"Range": f"bytes={self._read}-"} if self._read else {}
        if wanted and "etag" in validators:
            wanted["If-Range"] = validators["etag"]
        self._response.close()
        self._response = self._get(wanted)
        self._check_same(validators)
        if self._response.status_code != _PARTIAL:
            self._skip()
        return self._chunk()

    def _check_same(self, validators: Mapping[str, str]) -> None:
        """Raise `ChangedError` unless the answer belongs to what was read so far."""
        headers, partial = self._response.headers, self._response.status_code == _PARTIAL
        new = _validators(_short(headers.get("ETag")), _goog_hash(headers))
        both = validators.keys() & new.keys()
        if any(validators[name] != new[name] for name in both):
            raise storage.ChangedError("another version of it was uploaded meanwhile")
        if self._read and not (both or partial or self._digest_known):
            raise storage.ChangedError("its ETag is gone")
        size = self._size_of_range(headers) if partial else _length(headers)
        if None not in {size, self.size} and size != self.size:
            raise storage.ChangedError("its size changed meanwhile")

    def _size_of_range(self, headers: Mapping[str, str]) -> int | None:
        found = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", headers.get("Content-Range", "").strip())
        if found is None or int(found[1]) != self._read:
            raise storage.ChangedError("the answer is not the range that was asked for")
        return None if found[2] == "*" else int(found[2])

    def _skip(self) -> None:
        """Read past what was handed on before: the server does not know `Range`."""
        left = self._read
        while left:
            chunk = self._chunk(min(left, storage.CHUNK_BYTES))
            if not chunk:
                raise exchange.passing(self.source, exchange.CUT)
            left -= len(chunk)

    def _get(self, headers: Mapping[str, str]) -> requests.Response:
        response = exchange.get(self._session, self._url, headers)
        if response.status_code in _RANGE_REFUSED and headers:
            response.close()
            raise storage.ChangedError(f"its rest is refused ({response.status_code})")
        exchange.raise_for_status(self.source, response)
        return response


def _validators(etag: str | None, goog_hash: Mapping[str, str]) -> dict[str, str]:
    """Return what tells that two answers are of the same object, byte by byte."""
    strong = {"etag": etag} if etag and not etag.startswith("W/") else {}
    return {**goog_hash, **strong}


def _goog_hash(headers: Mapping[str, str]) -> dict[str, str]:
    """Return the hashes of `x-goog-hash`, unless they are of other bytes than those we get.

    Storage decompresses an object that was stored with `Content-Encoding: gzip` on the way out
    (https://cloud.google.com/storage/docs/transcoding), and its hashes are of what was stored.
    """
    stored = headers.get("x-goog-stored-content-encoding", "identity")
    if stored != headers.get("Content-Encoding", "identity"):
        return {}
    pairs = (part.strip().partition("=") for part in headers.get("x-goog-hash", "").split(","))
    return {name: value for name, _, value in pairs if name in {"crc32c", "md5"} and _short(value)}


def _length(headers: Mapping[str, str]) -> int | None:
    length = headers.get("Content-Length", "").strip()
    return int(length) if length.isascii() and length.isdecimal() else None


def _short(value: str | None) -> str | None:
    return value if value and len(value) <= VALIDATOR_LIMIT else None
