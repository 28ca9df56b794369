"""The PATH of whoever works beside the release: sessions, and the verbs that run a command."""

from run_agent.model import Layout

DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
"""Where the container sets none: Debian's."""


def session_path(path: str | None, layout: Layout) -> str:
    """Return `path` with our own commands first and the release's `bin` last, each once.

    First, so that `run-agent` is ours and `epmd` the release's own; last, because a release's
    script may be called as any program is.
    """
    ours, release = str(layout.bin), str(layout.app / "bin")
    others = [part for part in (path or DEFAULT_PATH).split(":") if part not in {ours, release}]
    return ":".join([ours, *others, release])
