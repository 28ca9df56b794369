"""The text of our vm.args."""

import os

import pytest

from run_agent.errors import RunAgentError
from run_agent.model import Layout, Secret
from run_agent.release import vm_args
from run_agent.release.identity import Identity


def identity(cookie="c00kie"):
    return Identity("my-app", "10.0.0.7", cookie=Secret(cookie), key_base=Secret("x"))


def test_the_whole_text():
    assert vm_args.text(identity()) == "-name my-app@10.0.0.7\n-setcookie c00kie\n-smp auto\n"


def test_a_fixed_distribution_port():
    lines = vm_args.text(identity(), dist_port=9100).splitlines()
    assert lines[3:] == [
        "-kernel inet_dist_listen_min 9100",
        "-kernel inet_dist_listen_max 9100",
    ]


@pytest.mark.parametrize("cookie", ["a$b&c", "ABC-_=+/@!%^*(){}[]:;,.<>?|~`", "$HOME"])
def test_odd_cookies_that_need_no_quoting(cookie):
    assert f"-setcookie {cookie}\n" in vm_args.text(identity(cookie))


@pytest.mark.parametrize("cookie", ['a"b', "a'b", "a\\b", "a#b", "-a", "a${HOME}b", "a b", "a\n"])
def test_a_cookie_that_would_need_quoting_is_refused_and_not_shown(cookie):
    with pytest.raises(RunAgentError, match="ERLANG_COOKIE") as caught:
        vm_args.text(identity(cookie))
    assert caught.value.exit_code == os.EX_CONFIG
    assert cookie not in str(caught.value)


def test_it_is_written_for_us_alone_and_relx_finds_no_older_one(tmp_path):
    layout = Layout(tmp_path)
    layout.run.mkdir(parents=True)
    older = layout.run / "vm.args.orig"
    older.write_text("-name old@1.2.3.4")
    vm_args.write(layout, identity())
    assert layout.vm_args.read_text() == vm_args.text(identity())
    assert layout.vm_args.stat().st_mode & 0o7777 == 0o600
    assert not older.exists()


def test_a_copy_of_the_release_s_own_has_our_port_and_no_other(tmp_path):
    own = tmp_path / "vm.args"
    own.write_bytes(
        b"## -kernel inet_dist_listen_min 1\n+P 70000 # -env A b\n"
        b"-kernel inet_dist_listen_min\t9000 logger_level error inet_dist_listen_max 9010\n"
        b'-env GREETING "Gr\xfc\xdfe" -setcookie s3cret'
    )
    layout = Layout(tmp_path / "root")
    layout.run.mkdir(parents=True)
    path = vm_args.write_extended(layout, own, dist_port=9100)
    assert path.parent == layout.run
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.read_bytes() == (
        b"-kernel inet_dist_listen_min 9100\n-kernel inet_dist_listen_max 9100\n"
        b"## -kernel \n+P 70000 # -env A b\n-kernel  logger_level error \n"
        b'-env GREETING "Gr\xfc\xdfe" -setcookie s3cret'
    )


def test_each_version_s_copy_stays_beside_the_other_s(tmp_path):
    layout = Layout(tmp_path / "root")
    layout.run.mkdir(parents=True)
    (tmp_path / "old").write_text("+P 1024")
    (tmp_path / "new").write_text("+P 2048")
    write = vm_args.write_extended
    old, new, again = (
        write(layout, tmp_path / name, dist_port=9100) for name in ("old", "new", "old")
    )
    assert old == again != new
    assert old.read_text().endswith("+P 1024")
    with pytest.raises(OSError, match="nowhere"):
        write(layout, tmp_path / "nowhere", dist_port=9100)
