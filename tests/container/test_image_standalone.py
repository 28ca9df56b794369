"""The image on a base without any Python, as cedar:14 is: it brings its own.

The real standalone Python cannot be fetched everywhere. Debian's stands in for it, packed as uv's
builds are, with the libraries it needs; everything else of the build is what a user runs.
"""

import hashlib
import json
import os

import pytest

from run_agent import __version__
from support import images
from support.containers import Container

FETCH = "RUN ./python /opt/run-agent"
FETCH_THE_STAND_IN = """\
RUN --mount=type=bind,from=standin,target=/standin : {digest}; \
    UV_PYTHON_DOWNLOADS_JSON_URL=file:///standin/known.json ./python /opt/run-agent"""
"""What a build remembers goes by the text of its steps, so that has the digest."""

PACK = """
set -e
mkdir -p /tmp/python/bin /tmp/python/lib
cp /usr/bin/python3.11 /tmp/python/bin/python3
cp -r /usr/lib/python3.11 /tmp/python/lib/
rm /tmp/python/lib/python3.11/sitecustomize.py /tmp/python/lib/python3.11/lib-dynload/_crypt.*
ldd /tmp/python/bin/python3 /tmp/python/lib/python3.11/lib-dynload/*.so |
    sed -n 's/.*=> \\(.*\\) (.*/\\1/p' | sort -u |
    grep -v -E '/lib(c|m|resolv)[.]so' | xargs cp -L -t /tmp/python/lib
tar -C /tmp -cz python
"""

GLIBC_OF_DEBIAN = ("--build-arg=RUN_AGENT_GLIBC=2.36", "--build-arg=RUN_AGENT_GLIBCXX=3.4.30")

ABOUT = "import platform; print(platform.python_version())"


@pytest.fixture(scope="module")
def stand_in(tmp_path_factory):
    """Give a folder with the tarball, and what uv has to know of it; version, digest."""
    folder = tmp_path_factory.mktemp("standin")
    _, tag = images.bases()
    with Container("sh", "-c", PACK, image=tag) as container:
        assert container.wait(120) == 0, container.text()
        content = container.stdout.read_bytes()
    with Container("python3", "-c", ABOUT, image=tag) as container:
        assert container.wait() == 0
        version = container.stdout.read_text().strip()
    digest = hashlib.sha256(content).hexdigest()
    (folder / "python.tar.gz").write_bytes(content)
    major, minor, patch = map(int, version.split("."))
    machine = os.uname().machine
    about = {
        "name": "cpython", "arch": {"family": machine, "variant": None}, "os": "linux",
        "libc": "gnu", "major": major, "minor": minor, "patch": patch, "prerelease": "",
        "url": "file:///standin/python.tar.gz", "sha256": digest,
        "variant": None, "build": "20260101",
    }  # fmt: skip
    known = {f"cpython-{version}-linux-{machine}-gnu": about}
    (folder / "known.json").write_text(json.dumps(known))
    return folder, version, digest


@pytest.fixture
def build(stand_in, tmp_path):
    """Build on a base without Python, with these options; return the tag."""
    folder, version, digest = stand_in
    dockerfile = tmp_path / "Dockerfile"
    text = images.DOCKERFILE.read_text()
    assert text.count(FETCH) == 1
    dockerfile.write_text(text.replace(FETCH, FETCH_THE_STAND_IN.format(digest=digest)))
    context = tmp_path / "context"
    context.mkdir()
    without = "RUN rm -r /usr/bin/python3* /usr/lib/python3*"
    base = images.derive("no-python", without, context, of=images.base())
    made = f"localhost/standalone:{os.urandom(8).hex()}"

    def build(*options: str) -> str:
        images.build(
            made, "--build-arg=RUN_AGENT_PYTHON=standalone",
            f"--build-arg=RUN_AGENT_PYTHON_VERSION={version}",
            f"--build-arg=BASE_IMAGE={base}", f"--build-context=standin={folder}", *options,
            dockerfile=dockerfile,
        )  # fmt: skip
        return made

    yield build
    for tag in (made, base):
        images.remove(tag)


def test_it_runs_where_there_is_no_python(build):
    made = build(*GLIBC_OF_DEBIAN)
    with Container("--version", image=made) as container:
        assert container.wait() == 0, container.text()
        assert container.stdout.read_text() == f"run-agent {__version__}\n"
    with Container("exec", "sleep", "600", image=made, user="12345:54321") as container:
        container.until('"ready"')
        where = container.exec("/opt/run-agent/bin/python", "-I", "-c",
                               "import sys; print(sys.prefix, sys.base_prefix)")  # fmt: skip
        assert where.stdout == "/opt/run-agent /opt/run-agent/python\n"
        assert container.exec("python3", "--version").returncode == 127
        assert container.stop() == 143


def test_what_the_base_could_not_load_is_never_made(build):
    with pytest.raises(AssertionError) as refused:
        build()
    said = str(refused.value)
    assert "cannot ship this: /opt/run-agent/python/" in said
    assert "needs GLIBC_2.34 of libc.so.6" in said
