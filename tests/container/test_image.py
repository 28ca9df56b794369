"""What the image is, and what is in it: small, whole, and nothing that only builds."""

import json
import re

import pytest

from run_agent import __version__
from support import images, small_slugs
from support.containers import Container
from support.house import PACKAGES, ROOT
from support.wait import until

PYTHON = "/opt/run-agent/bin/python"

MOST_MEGABYTES_ADDED = 130
"""Over a base that has a Python; it was 122 when this was written."""

BYTE_CODE = """
import importlib.util, json, pathlib, sys
wrong, seen = [], 0
for root in sys.argv[1:]:
    for source in pathlib.Path(root).rglob("*.py"):
        seen += 1
        compiled = pathlib.Path(importlib.util.cache_from_source(source))
        head = compiled.read_bytes()[:16] if compiled.exists() else b""
        unchecked_hash = b"\\1\\0\\0\\0" + importlib.util.source_hash(source.read_bytes())
        if head[4:] != unchecked_hash or head[:4] != importlib.util.MAGIC_NUMBER:
            wrong.append(str(source))
print(json.dumps([seen, wrong]))
"""

EVERY_MODULE = """
import importlib, pkgutil, sys
for name in sys.argv[1:]:
    package = importlib.import_module(name)
    for module in pkgutil.walk_packages(package.__path__, name + "."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
"""

BOTH_SDKS = """
import google.cloud.storage, google_crc32c, kubernetes.config, kubernetes.stream, kubernetes.watch
from kubernetes import client
storage = google.cloud.storage.Client.create_anonymous_client()
assert storage.bucket("b").blob("o").name == "o"
api = client.ApiClient(client.Configuration(host="https://localhost:1"))
assert api.sanitize_for_serialization(client.V1Pod(metadata=client.V1ObjectMeta(name="a")))
for group in ("CoreV1Api", "AppsV1Api", "CustomObjectsApi"):
    assert getattr(client, group)(api)
"""


@pytest.fixture
def run(image):
    """Run a program in a container of the image, to its end; return what it wrote."""

    def run(*argv: str, code: int = 0) -> str:
        program, *arguments = argv
        with Container(*arguments, options=(f"--entrypoint={program}",)) as container:
            assert container.wait(60) == code, container.text()
            return container.stdout.read_text()

    return run


@pytest.fixture
def about(image):
    """Return what the image says of itself."""
    return images.inspect(image)


def test_without_arguments_it_explains_itself(image):
    with Container() as container:
        assert container.wait() == 0
        assert container.stdout.read_text().startswith("usage: run-agent VERB")


def test_it_says_its_version(image, about):
    with Container("--version") as container:
        assert container.wait() == 0
        assert container.stdout.read_text() == f"run-agent {__version__}\n"
    assert about["Config"]["Labels"]["org.opencontainers.image.version"] == __version__


def test_both_commands_are_on_the_path_and_isolated(run):
    for command in ("run-agent", "gigalixir_run"):
        assert run(command, "--version") == f"run-agent {__version__}\n"
        assert run("sh", "-c", f"head -1 $(command -v {command})") == f"#!{PYTHON} -I\n"


def test_it_names_where_it_comes_from(about):
    labels = about["Config"]["Labels"]
    prefix = "org.opencontainers.image."
    assert {f"{prefix}{name}" for name in ("title", "description")} < labels.keys()
    assert labels[f"{prefix}revision"] == images.REVISION
    assert labels[f"{prefix}created"] == images.CREATED


def test_how_it_is_started(about):
    config = about["Config"]
    assert config["Entrypoint"] == [PYTHON, "-I", "-m", "entrypoint.cli"]
    assert config["Cmd"] == ["--help"]
    assert config["ExposedPorts"].keys() == {"4000/tcp", "22/tcp"}
    assert config["User"] == "root"
    assert not config.get("Volumes")


def test_a_base_for_another_program_can_be_built_on(image, tmp_path):
    says = 'USER 1000\nWORKDIR /app\nSTOPSIGNAL SIGQUIT\nENTRYPOINT ["false"]'
    base = images.derive("odd-base", says, tmp_path, of=images.base())
    made = f"{base}-built"
    try:
        images.build(made, f"--build-arg=BASE_IMAGE={base}")
        with Container("exec", "sh", "-c", "id -u; pwd; exec sleep 600", image=made) as container:
            container.until('"ready"')
            until(lambda: container.stdout.read_text() == "0\n/\n", container.stdout.read_text)
            assert container.stop() == 143
    finally:
        for tag in (made, base):
            images.remove(tag)


def test_its_health_is_asked_for_in_exec_form(about):
    test = about["Healthcheck"]["Test"]
    assert test == ["CMD", PYTHON, "-I", "-m", "entrypoint.init.healthcheck"]


@pytest.mark.parametrize("settings", [{}, {"HEALTH_PORT": "9001"}, {"HEALTH_PORT": "none"}])
def test_its_health_check(about, settings):
    _, *health_check = about["Healthcheck"]["Test"]
    with Container("exec", "sleep", "600", settings=settings) as container:
        container.until('"ready"')
        asked = container.exec(*health_check)
        assert asked.returncode == 0, asked.stderr


def test_its_health_check_of_a_job(about, host):
    """A job has no probes: nothing answers on port 9000, and that is no illness."""
    _, *health_check = about["Healthcheck"]["Test"]
    host.deploy(small_slugs.running("exit 1"))
    job = host.boot("echo up; exec sleep 600", verb=("job", "--app", "hello", "--"),
                    network="none", settings={"HEALTH_PORT": ""})  # fmt: skip
    job.until_printed("up")
    asked = job.container.exec(*health_check)
    assert asked.returncode == 0, asked.stderr


def test_its_health_check_before_anything_runs(run, about):
    _, *health_check = about["Healthcheck"]["Test"]
    run(*health_check, code=1)


def test_nothing_that_only_builds_is_left(run):
    names = "cc c++ gcc g++ clang ld as strip make pip pip3 uv"
    assert run("sh", "-c", f"for name in {names}; do command -v $name; done; true") == ""
    assert run("sh", "-c", "cd /opt/run-agent; ls bin; find . -name 'pip' -o -name 'uv*'") == (
        "python\nrun-agent\n"
    )


def test_there_is_only_what_is_loaded(run):
    names = "( -name *.pyi -o -name *.c -o -name *.h -o -name tests -o -path */kubernetes/aio )"
    assert run("find", "/opt/run-agent", *names.split()) == ""


def test_every_module_of_ours_and_both_sdks_load(run):
    run(PYTHON, "-I", "-W", "error", "-c", EVERY_MODULE, *PACKAGES)
    run(PYTHON, "-I", "-c", BOTH_SDKS)


def test_all_of_it_is_byte_compiled_for_good(run):
    seen, wrong = json.loads(run(PYTHON, "-I", "-c", BYTE_CODE, "/opt/run-agent"))
    assert wrong == []
    assert seen > 1000


def test_nobody_else_can_write_it(run):
    others = "( -perm /022 -o -not -user root -o -perm /6000 ) -not -type l"
    assert run("find", "/opt/run-agent", *others.split()) == ""


def test_the_app_is_the_link_and_both_folders_are_open(run):
    assert run("readlink", "/app") == "/var/lib/run-agent/current\n"
    modes = run("stat", "--format=%a %n", "/run/run-agent", "/var/lib/run-agent")
    assert modes == "1777 /run/run-agent\n1777 /var/lib/run-agent\n"


def test_it_is_small(image):
    added = (images.inspect(image)["Size"] - images.inspect(images.base())["Size"]) / 1e6
    assert added < MOST_MEGABYTES_ADDED


def test_one_layer_for_each_concern(about):
    base = len(images.inspect(images.base())["RootFS"]["Layers"])
    assert len(about["RootFS"]["Layers"]) - base == 4


def test_the_build_sees_only_what_it_copies():
    shown = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines()
             if line.startswith("!")}  # fmt: skip
    copied = re.findall(r"^COPY (?!--)(.+) \S+$", images.DOCKERFILE.read_text(), re.MULTILINE)
    sources = {source for line in copied for source in line.split()}
    assert {re.sub("^scripts/image/.*", "scripts/image", source) for source in sources} == shown
