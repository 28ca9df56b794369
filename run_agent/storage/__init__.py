"""Where slugs are read from: https and http, gs and file.

Owns the connection to the storage, its retries and the resumption of a download that was cut.
Must not judge what is downloaded (hashes are handed on, not checked), write files, or be imported
by the resident agent: requests and google-cloud-storage belong to the worker of `slug`.
"""

from collections.abc import Iterator, Mapping
from typing import Protocol
from urllib.parse import urlsplit

from run_agent.errors import DeniedError

CHUNK_BYTES = 1 << 18
"""Most bytes in one chunk: few enough to keep memory small, enough to make each step cheap."""


class ChangedError(Exception):
    """The object is not, or may not be, the one whose download began: begin again."""


class Download(Protocol):
    """An object of a storage that has been opened; nothing of its content was read yet."""

    source: str
    """Its URL without what may be a credential."""

    @property
    def etag(self) -> str | None:
        """What the storage calls this version of it."""

    @property
    def goog_hash(self) -> Mapping[str, str]:
        """`crc32c` and `md5` of its bytes in base64, as far as the storage announces them."""

    @property
    def size(self) -> int | None:
        """In bytes; none where the storage does not say."""

    def chunks(self) -> Iterator[bytes]:
        """Yield the content once, whole, whatever happens to the connection.

        Raises `UnavailableError`, `DeniedError`, or `ChangedError` where it cannot be resumed.
        """

    def close(self) -> None:
        """Let go of the connection."""


def open_url(url: str, *, digest_known: bool) -> Download:
    """Open what `url` names: `https://`, `http://`, `gs://BUCKET/OBJECT` or `file:///PATH`.

    `digest_known` says that the caller will notice content which was put together from two
    objects, so that a cut download may go on where nothing else tells that they are the same.
    Raises `UnavailableError`, retries included, and `DeniedError` where a retry is useless.
    """
    scheme = _scheme(url)
    if scheme in {"https", "http"}:
        from run_agent.storage import http  # noqa: PLC0415 - brings requests and tenacity

        return http.HttpDownload(url, digest_known=digest_known)
    if scheme == "gs":
        from run_agent.storage import gcs  # noqa: PLC0415 - read only where it is used

        return gcs.GcsDownload(url)
    if scheme == "file":
        from run_agent.storage import file  # noqa: PLC0415 - as its neighbours

        return file.FileDownload(url)
    raise DeniedError(
        f"cannot fetch {source(url)}: a slug's URL must start with https://, http://, gs:// or "
        "file:///; correct it at the controller"
    )


def source(url: str) -> str:
    """Return `url` without its query, user and password, any of which may be a credential."""
    if url.startswith("gs://"):
        return url  # all of it is the object's name, in which ? and # are letters
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="").geturl()


def _scheme(url: str) -> str:
    try:
        return urlsplit(url).scheme
    except ValueError as error:
        raise DeniedError(
            f"cannot fetch the slug: its URL is malformed ({error}); correct it at the controller"
        ) from None
