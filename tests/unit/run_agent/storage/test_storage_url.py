"""What of a URL may be shown."""

import pytest

from run_agent import storage
from run_agent.errors import DeniedError


@pytest.mark.parametrize(
    ("url", "source"),
    [
        ("https://s/a.tar.gz?Signature=s3cr3t&b=c#d", "https://s/a.tar.gz"),
        ("https://user:s3cr3t@s:8443/a", "https://s:8443/a"),
        ("https://s", "https://s"),
        ("file:///srv/slugs/a%20b.tar.gz", "file:///srv/slugs/a%20b.tar.gz"),
        ("gs://bucket/odd?name#1", "gs://bucket/odd?name#1"),
    ],
)
def test_the_source_holds_no_credential(url, source):
    assert storage.source(url) == source


@pytest.mark.parametrize("url", ["ftp://s/a", "s3://b/a", "/srv/a", "", "http://[::1/a?s3cr3t"])
def test_what_cannot_be_opened_is_denied(url):
    with pytest.raises(DeniedError, match=r"^cannot fetch") as raised:
        storage.open_url(url, digest_known=False)
    assert "s3cr3t" not in str(raised.value)
