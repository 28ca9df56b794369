"""Nobody who is connected notices an upgrade: connections keep their state, requests succeed."""

import logging

import pytest

from support import load
from support.upgrading import boot, change, deploy, status

CONNECTIONS = 50
REQUESTS_PER_SECOND = 500.0

ROUND = ("0.2.0", "0.3.0", "0.2.0", "0.1.0")

log = logging.getLogger(__name__)


@pytest.mark.parametrize(("kind", "ways"), [("mix", ROUND * 5), ("relx", ROUND)])
def test_connections_stay_open_and_no_request_fails(platform, kind, ways, caplog):
    caplog.set_level(logging.INFO)
    replica = boot(platform, kind)
    pid, serving = status(replica)["release_pid"], "0.1.0"
    http_port, line_port = (int(replica.environ[name]) for name in ("PORT", "TCP_PORT"))
    with (
        load.Http(http_port, REQUESTS_PER_SECOND) as http,
        load.Connections(line_port, CONNECTIONS) as connections,
    ):
        for version in ways:
            if version > serving:
                deploy(platform, kind, version)
                ended = change(replica, "upgrade")
            else:
                ended = change(replica, "downgrade", version)
            assert ended.verdict == (0, "done", version), ended
            assert connections.check() == {version: CONNECTIONS}
            serving = version
    report = http.report
    log.info(
        "%d changes of %s: %d requests, slowest in flight %.1f ms, longest pause %.1f ms",
        len(ways), kind, report.sent, report.slowest_ms, report.longest_gap_ms,
    )  # fmt: skip
    assert (report.failed, report.answered) == ({}, report.sent)
    assert set(report.versions) == {"0.1.0", *ROUND}
    assert status(replica)["release_pid"] == pid
