"""`releases/RELEASES`, which release_handler needs and `mix release` does not make.

Without it a downgrade fails and `remove_release` deletes the running release's own files. Owns
that one file, and only where it is missing: afterwards it belongs to release_handler.
"""

import logging

from run_agent import files
from run_agent.errors import RunAgentError
from run_agent.release import Release, erlang_term
from run_agent.release.erlang_term import Atom, Term

log = logging.getLogger(__name__)


def create_missing(release: Release) -> bool:
    """Create the file where a release has none; say whether it is there now.

    What stands in the way is logged and no reason not to boot: a release runs without the file,
    only its hot upgrades are not sound.
    """
    if release.version is None:
        return False
    path = release.tree / "releases" / "RELEASES"
    if path.exists():
        return True
    try:
        files.atomic_write(path, text(release).encode(), mode=0o644)
    except (OSError, ValueError, RunAgentError) as error:
        log.warning(
            "cannot create %s (%s); the release runs without it, but do not upgrade it hot: "
            "deploy it anew instead",
            path,
            error,
        )
        return False
    return True


def text(release: Release) -> str:
    """Return what `release_handler:create_RELEASES([], RelDir, RelFile, [])` would write.

    An empty root makes the libraries' paths relative to the release, so that it can be moved.
    Raises `OSError` or `ValueError` where `releases/VERSION/NAME.rel` is missing or is none.
    """
    path = release.tree / "releases" / str(release.version) / f"{release.name}.rel"
    terms = erlang_term.consult(_decoded(path.read_bytes()))
    return f"%% coding: utf-8\n{erlang_term.render([_record(terms)])}.\n"


def _record(terms: list[Term]) -> Term:
    """Turn the term of a .rel file (rel(4)) into release_handler's record of a release."""
    match terms:
        case [(Atom("release"), (str() as name, str() as version), (Atom("erts"), str() as erts),
               list() as applications)]:  # fmt: skip
            libraries: list[Term] = [_library(application) for application in applications]
            return (Atom("release"), name, version, erts, libraries, Atom("permanent"))
    raise ValueError("its .rel file describes no release")


def _library(application: Term) -> Term:
    """Keep an application's name and version, whatever else `rel(4)` lets follow."""
    match application:
        case (Atom(name), str() as version, *_):
            return (Atom(name), version, f"lib/{name}-{version}")
    raise ValueError(f"its .rel file has an application {erlang_term.render(application)}")


def _decoded(content: bytes) -> str:
    try:
        return content.decode()
    except UnicodeDecodeError:
        return content.decode("latin-1")  # what Erlang wrote before OTP 17
