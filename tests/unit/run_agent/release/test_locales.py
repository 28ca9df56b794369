"""Which UTF-8 locale an image has."""

import pytest

from run_agent.release import locales


@pytest.mark.parametrize("folder", ["en_US.UTF-8", "en_US.utf8"])
def test_a_generated_folder(tmp_path, folder):
    (tmp_path / folder).mkdir()
    assert locales.utf8(tmp_path) == "en_US.UTF-8"


@pytest.mark.parametrize(
    ("archive", "found"),
    [
        (b"\x09\x01\x02\xde\0de_DE.utf8\0en_US.utf8\0", "en_US.UTF-8"),
        (b"\x09\x01\x02\xde\0de_DE.utf8\0en_US.utf8@x\0", "C.UTF-8"),
        (b"", "C.UTF-8"),
    ],
)
def test_the_archive(tmp_path, archive, found):
    (tmp_path / "locale-archive").write_bytes(archive)
    assert locales.utf8(tmp_path) == found


def test_no_locale_at_all(tmp_path):
    assert locales.utf8(tmp_path / "missing") == "C.UTF-8"
