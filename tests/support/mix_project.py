"""The example as a Mix project that a Procfile starts, with no release in the slug."""

from support import small_slugs, tarballs
from support.slugs import EXAMPLE

WEB = 'exec elixir --name "$MY_NODE_NAME" --cookie "$MY_COOKIE" -S mix run --no-halt'


def slug(web: str = WEB) -> bytes:
    """Return a slug whose `web:` line is `web`. It is compiled when it starts."""
    source = EXAMPLE / "mix"
    members = [
        tarballs.file(str(path.relative_to(source)), path.read_bytes())
        for path in sorted(source.rglob("*"))
        if path.is_file() and "_build" not in path.parts
    ]
    return small_slugs.running(web, *members)
