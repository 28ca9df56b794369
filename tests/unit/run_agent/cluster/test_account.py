"""Which pod is ours: from the settings, the mounted files, the host name; or none."""

import logging
import socket

import pytest

from run_agent import settings
from run_agent.cluster.account import Account, find
from run_agent.model import Layout


@pytest.fixture(name="folder")
def a_folder(tmp_path):
    folder = Layout(tmp_path).service_account
    folder.mkdir(parents=True)
    (folder / "token").write_text("t")
    (folder / "namespace").write_text("shop\n")
    return folder


@pytest.fixture(name="found")
def found_in(tmp_path):
    def found(**environ):
        environ = {"KUBERNETES_SERVICE_HOST": "10.0.0.1", "HOSTNAME": "hello-1"} | environ
        return find(settings.load({"APP_KEY": "k", "RUN_AGENT_ROOT": str(tmp_path)} | environ))

    return found


def test_an_account_is_found(folder, found):
    assert found() == Account("10.0.0.1", 443, folder, "shop", "hello-1")
    assert found().label == "shop/hello-1"


def test_the_mounted_files_lie_where_the_kubelet_puts_them(tmp_path, folder):
    where = folder.relative_to(tmp_path)
    assert str(where) == "var/run/secrets/kubernetes.io/serviceaccount"


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("10.0.0.1", "https://10.0.0.1:6443"),
        ("fd00::1", "https://[fd00::1]:6443"),
        ("api.local", "https://api.local:6443"),
    ],
)
def test_where_the_api_is(folder, found, host, url):
    assert found(KUBERNETES_SERVICE_HOST=host, KUBERNETES_SERVICE_PORT="6443").url == url


def test_what_is_said_beats_what_is_mounted(folder, found):
    account = found(POD_NAME="hello-2", POD_NAMESPACE="other", POD_UID="6b7c")
    assert (account.pod, account.namespace, account.uid) == ("hello-2", "other", "6b7c")


def test_without_any_name_the_pod_goes_by_the_kernels(folder, found):
    assert found(HOSTNAME="").pod == socket.gethostname()


@pytest.mark.parametrize(
    "environ", [{"KUBERNETES_REPORTS": "none"}, {"KUBERNETES_SERVICE_HOST": ""}]
)
def test_there_is_none_where_none_is_wanted_or_no_api_is(folder, found, environ, caplog):
    caplog.set_level(logging.INFO)
    assert found(**environ) is None
    assert not caplog.records


def test_there_is_none_where_none_is_mounted_which_is_said(found, caplog):
    caplog.set_level(logging.INFO)
    assert found() is None
    [said] = caplog.records
    assert said.levelno == logging.INFO
    assert said.getMessage().startswith("our pod is not told how its replica is: there is no /")
    assert found(KUBERNETES_REPORTS="none") is None
    assert len(caplog.records) == 1


def test_a_token_that_nobody_may_read_is_an_account_all_the_same(folder, found):
    (folder / "token").unlink()
    (folder / "token").symlink_to(folder / "gone")
    assert found() is not None


@pytest.mark.parametrize("content", [None, b"", b" \n", b"\xff\xfe"])
def test_without_a_namespace_there_is_none_which_is_said(folder, found, content, caplog):
    (folder / "namespace").unlink()
    if content is not None:
        (folder / "namespace").write_bytes(content)
    assert found() is None
    [said] = caplog.records
    assert said.getMessage() == (
        "cannot tell our pod how its replica is: nothing says in which namespace it is; "
        "set POD_NAMESPACE"
    )
    assert found(POD_NAMESPACE="shop") is not None
