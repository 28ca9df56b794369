"""Slugs in Google Cloud Storage: `gs://BUCKET/OBJECT`, with the ambient credentials.

Owns Google's library, imported when it is needed: it is the heaviest thing that a worker loads.
Its own retries are used, within named limits. `STORAGE_EMULATOR_HOST` is read by the library.
"""

import contextlib
import os
from collections.abc import Iterator
from typing import Any

from run_agent import storage
from run_agent.errors import DeniedError, UnavailableError

CONNECT_SECONDS = 5.0
"""Until a TCP connection stands."""

READ_SECONDS = 30.0
"""Longest silence of the storage."""

PATIENCE_SECONDS = 15.0
"""How long the library tries one request again: metadata, or a part of the object."""

PART_BYTES = 8 << 20
"""Read with one request: large enough for its round trip not to matter, and held in memory."""


class GcsDownload:
    """An object of a bucket, pinned to the generation that was found first."""

    def __init__(self, url: str) -> None:
        bucket, _, name = url.removeprefix("gs://").partition("/")
        self.source = storage.source(url)
        with self._told_apart():
            from google.cloud.storage import Client

            # Without a project: reading an object needs none.
            self._client = Client(project=None)
            self._blob = self._client.bucket(bucket).blob(name)
            self._blob.reload(**self._limits())
        self.size = self._blob.size
        self.etag = self._blob.etag
        known = {"crc32c": self._blob.crc32c, "md5": self._blob.md5_hash}
        self.goog_hash = {name: value for name, value in known.items() if value}

    def chunks(self) -> Iterator[bytes]:
        """Yield the object as it is stored, also where it says `Content-Encoding: gzip`."""
        size = self.size or 0
        for start in range(0, size, PART_BYTES):
            end = min(start + PART_BYTES, size)
            part = self._part(start, end)
            if len(part) != end - start:
                raise storage.ChangedError("its size is not the one that was announced")
            for offset in range(0, len(part), storage.CHUNK_BYTES):
                yield part[offset : offset + storage.CHUNK_BYTES]

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def _part(self, start: int, end: int) -> bytes:
        from google.api_core.exceptions import NotFound

        with self._told_apart():
            try:
                part: bytes = self._blob.download_as_bytes(
                    start=start, end=end - 1, raw_download=True, checksum=None, **self._limits()
                )
            except NotFound:
                raise storage.ChangedError("it was replaced while it was read") from None
        return part

    @staticmethod
    def _limits() -> dict[str, Any]:
        from google.cloud.storage.retry import DEFAULT_RETRY

        return {
            "timeout": (CONNECT_SECONDS, READ_SECONDS),
            "retry": DEFAULT_RETRY.with_timeout(PATIENCE_SECONDS),
        }

    @contextlib.contextmanager
    def _told_apart(self) -> Iterator[None]:
        """Turn what the library raises into `DeniedError` or `UnavailableError`."""
        from google.api_core import exceptions as api
        from google.auth import exceptions as auth
        from requests import RequestException  # noqa: PLC0415 - no cost beside the others

        try:
            yield
        except (api.BadRequest, api.Unauthorized, api.Forbidden, api.NotFound) as error:
            raise DeniedError(
                f"cannot fetch {self.source} ({int(error.code)} {type(error).__name__}); check "
                "the bucket and the object, and that this replica's credentials may read it"
            ) from error
        except (auth.DefaultCredentialsError, auth.RefreshError) as error:
            raise DeniedError(
                f"cannot fetch {self.source}: there are no usable credentials "
                f"({type(error).__name__}); give the replica a service account, or use a signed URL"
            ) from error
        except (api.GoogleAPIError, auth.GoogleAuthError, RequestException) as error:
            cause = getattr(error, "cause", None) or error
            raise UnavailableError(
                f"cannot fetch {self.source} ({type(cause).__name__}, tried for "
                f"{PATIENCE_SECONDS:g} s); check the storage and the network",
                exit_code=os.EX_TEMPFAIL,
            ) from error
