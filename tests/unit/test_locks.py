"""The lock files fit pyproject.toml, and install the same bytes everywhere."""

import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
GROUPS = PROJECT["dependency-groups"]
LOCKS = {
    "requirements.lock": PROJECT["project"]["dependencies"],
    "requirements-image.lock": GROUPS["image"],
    "requirements-dev.lock": [
        *GROUPS["image"],
        *(need for need in GROUPS["dev"] if isinstance(need, str)),
    ],
}
lock = pytest.mark.parametrize("lock", LOCKS)


def _pins(lock: str) -> dict[str, tuple[Requirement, list[str]]]:
    """Return each name's requirement and hashes."""
    pins = {}
    for line in (ROOT / lock).read_text().replace("\\\n", " ").splitlines():
        pin, *hashes = line.split(" --hash=")
        requirement = Requirement(pin.strip())
        pins[canonicalize_name(requirement.name)] = requirement, hashes
    return pins


def _version(requirement: Requirement) -> str:
    (specifier,) = requirement.specifier
    assert specifier.operator == "==", f"{requirement} is no pin"
    return specifier.version


@lock
def test_every_requirement_has_a_pin_that_satisfies_it(lock):
    pins = _pins(lock)
    for wanted in map(Requirement, LOCKS[lock]):
        pin, _ = pins[canonicalize_name(wanted.name)]
        assert wanted.specifier.contains(_version(pin)), f"{pin} is not {wanted}; run: make lock"


@lock
def test_every_pin_has_hashes(lock):
    for pin, hashes in _pins(lock).values():
        assert _version(pin)
        assert hashes, f"{pin} has no hash"
        assert all(digest.strip().startswith("sha256:") for digest in hashes)


@lock
def test_no_address_is_named(lock):
    text = (ROOT / lock).read_text()
    assert "://" not in text
    assert "--index" not in text
    assert "--find-links" not in text


def test_both_locks_pin_the_same_version_of_what_they_share():
    ours, dev = _pins("requirements.lock"), _pins("requirements-dev.lock")
    assert {name: ours[name] for name in ours.keys() & dev} == {
        name: dev[name] for name in ours.keys() & dev
    }
