"""Whom the kernel takes first where memory runs out: sessions and workers, and not the app."""

import contextlib
from pathlib import Path

SCORE_ADJ = 500
"""Of sessions and workers (DESIGN.md, Processes): whoever looks at a release that is short of
memory, or works for it, is to be killed before it is."""

MOST = 1000
"""proc(5). In Kubernetes a pod that asks for little memory begins near it."""


def volunteer() -> None:
    """Raise this process's score with the OOM killer above what it inherited (proc(5)).

    So it goes before whoever started it. One that may not goes on without.
    """
    score = Path("/proc/self/oom_score_adj")
    with contextlib.suppress(OSError):
        score.write_text(str(min(int(score.read_bytes()) + SCORE_ADJ, MOST)), encoding="ascii")
