"""`ROOT/app`, the folder that users know: a link to `current`, never a folder of ours.

A real folder there would be unpacked over or hidden, so it is refused; only an image that holds
its own release wants one.
"""

import os
from pathlib import Path
from typing import NoReturn

from run_agent.errors import SettingsError
from run_agent.model import Layout


def claim(layout: Layout) -> None:
    """Make sure that `ROOT/app` is the link to `current`; create it where nothing is there.

    Raises `SettingsError` for anything else, with the fix.
    """
    app = layout.app
    if app.is_symlink():
        target = Path(os.path.normpath(app.parent / app.readlink()))
        if target != layout.current:
            _refuse(
                f"{app} is a link to {target}, but must be one to {layout.current}: "
                f"ln -sfn {layout.current} {app}"
            )
    elif app.exists():
        _refuse(
            f"{app} is a folder of its own, and slugs are not unpacked over one: remove it (or the "
            f"mount) and ship the link, ln -s {layout.current} {app}; or set CONTROLLER_URL=none "
            "to run the release that it holds"
        )
    else:
        _create(layout)


def require_release(layout: Layout) -> None:
    """Make sure that the image holds something to run; raises `SettingsError`."""
    if not layout.app.is_dir():
        _refuse(
            f"CONTROLLER_URL=none runs the release at {layout.app}, and there is none: copy it "
            "there when the image is built (RUN rm /app, which is a link in our image; then "
            "COPY --from=build /src/_build/prod/rel/NAME /app)"
        )


def _create(layout: Layout) -> None:
    try:
        layout.app.symlink_to(layout.current)
    except OSError as error:
        _refuse(
            f"{layout.app} is missing and cannot be created ({error.strerror}): ship it in the "
            f"image, RUN ln -s {layout.current} {layout.app}"
        )


def _refuse(problem: str) -> NoReturn:
    raise SettingsError([problem])
