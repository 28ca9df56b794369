"""Whom the kernel takes first where memory runs out: sessions and workers, and not the app."""

import contextlib
from pathlib import Path

SCORE_ADJ = 500
"""Of sessions and workers (DESIGN.md, Processes): whoever looks at a release that is short of
memory, or works for it, is to be killed before it is."""


def volunteer() -> None:
    """Raise this process's score with the OOM killer, unless it is as high (proc(5)).

    One that may not goes on without.
    """
    score = Path("/proc/self/oom_score_adj")
    with contextlib.suppress(OSError):
        if int(score.read_bytes()) < SCORE_ADJ:
            score.write_text(str(SCORE_ADJ), encoding="ascii")
