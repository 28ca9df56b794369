"""Starting a process: what it has from its first instruction on."""

import os
import resource

from entrypoint.init import children


def test_limits_of_open_files_are_the_childs_before_it_runs():
    """Set from outside they might come too late, or meet another process."""
    ours = resource.getrlimit(resource.RLIMIT_NOFILE)
    read, write = os.pipe()
    with os.fdopen(read, "rb") as output:
        pid = children.spawn(
            ["sh", "-c", "ulimit -Sn; ulimit -Hn"],
            env=dict(os.environ), redirect={1: write}, files=(64, 128),
        )  # fmt: skip
        os.close(write)
        assert output.read().split() == [b"64", b"128"]
    assert os.waitpid(pid, 0)[1] == 0
    assert resource.getrlimit(resource.RLIMIT_NOFILE) == ours
