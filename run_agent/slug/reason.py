"""Why a slug cannot be used, from the stages of the pipeline; which slug, only that one knows."""

SHOWN_CHARACTERS = 200
"""Of a name in a message; the longest possible ones have thousands."""


class BadSlugError(Exception):
    """The slug is corrupt, not what was announced, or unsafe; says why and what to do."""


def refusal(member: str, why: str) -> BadSlugError:
    """Build the error for one member that is not accepted."""
    return BadSlugError(f"its member {shown(member)} {why}")


def shown(name: str) -> str:
    """Return a name such that a terminal or a log can show it."""
    cut = "…" if len(name) > SHOWN_CHARACTERS else ""
    return ascii(name[:SHOWN_CHARACTERS]) + cut
