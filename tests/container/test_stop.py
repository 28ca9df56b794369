"""A stop under HTTP load: for whoever heeds `/readyz` no request fails."""

import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from support import load
from support.wait import holds, until

DRAIN_SECONDS, GRACE_SECONDS = 6.0, 30.0

PER_SECOND = 200.0

LATE = 0.4 * DRAIN_SECONDS
"""How long after `/readyz` has changed a slow load balancer notices; the rest is for ours, which
is another process on a loaded machine."""

SETTINGS = {"DRAIN_SECONDS": str(DRAIN_SECONDS), "GRACE_SECONDS": str(GRACE_SECONDS)}


@pytest.mark.parametrize("noticed_after", [0.0, LATE], ids=["at once", "late"])
def test_no_request_fails_for_a_load_balancer_that_notices_in_time(host, noticed_after):
    replica = host.boot_release(settings=SETTINGS)
    port = int(replica.environ["PORT"])
    with ThreadPoolExecutor(1) as pool:
        with load.Http(port, PER_SECOND) as http:  # its end sends no more, and waits for answers
            began = time.monotonic()
            stopped = pool.submit(replica.container.stop, GRACE_SECONDS + 10)
            until(lambda: replica.get("/readyz").status == 503, "it is not ready any more")
            holds(lambda: not stopped.done(), "it drains", noticed_after)
        assert stopped.result() == 0
    took = time.monotonic() - began
    report = http.report
    assert (report.failed, report.answered) == ({}, report.sent)
    assert report.sent > PER_SECOND * noticed_after / 2
    assert DRAIN_SECONDS <= took < GRACE_SECONDS
    assert replica.events("release ended")[0]["exit_code"] == 0
