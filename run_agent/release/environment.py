"""What the release sees: every variable it is started with, and in which order they win.

Built once per start. Owns the files in the run folder that the environment names: vm.args, the
folder on the PATH, and the one that the release's script writes into. Who runs beside the release
takes the environment that was kept, and does not build another one.
"""

import contextlib
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from run_agent import files
from run_agent.errors import RunAgentError
from run_agent.model import Deploy, Layout
from run_agent.release import Release, locales, profile_d, start, vm_args
from run_agent.release.identity import Identity
from run_agent.session_path import DEFAULT_PATH
from run_agent.settings import OWN_NAMES, Settings

MAX_BYTES = 128 << 10
"""What Linux takes as one string of an environment: name, equals sign, value, NUL (execve(2))."""

NOT_PASSED_ON = OWN_NAMES | {"LC_CTYPE"}
"""Python sets LC_CTYPE in its own environment where the container has no locale (PEP 538); the
LC_ALL that we set outweighs it anyhow."""

DEFAULT_VM_ARGS = "GIGALIXIR_DEFAULT_VMARGS"

WRITTEN = "release-tmp"
"""The folder in the run folder for what a release's script cannot write into its tree."""


async def build(
    environ: Mapping[str, str],
    *,
    settings: Settings,
    identity: Identity,
    deploy: Deploy,
    release: Release,
    command: Sequence[str] = (),
    host_index: str | None = None,
) -> dict[str, str]:
    """Build the release's environment, with the files that it names.

    Later wins: the container's `environ` less what is the agent's own; our variables; the
    deploy's config, verbatim; what the slug's `.profile.d` makes of all that; and again the
    variables that name the node and its cookie. `command` is the CMD that was given.
    Raises `RunAgentError` for values that no process can be given, for failing scripts, and for
    a run folder that cannot be written.
    """
    layout = settings.layout
    with files.writing_run_folder(layout.run):
        _link_epmd(layout, release)
    env = {name: value for name, value in environ.items() if name not in NOT_PASSED_ON}
    env |= _ours(env, settings, identity, release)
    env["GIGALIXIR_COMMAND"] = start.own_command(release, command)
    if host_index is not None:
        env["HOST_INDEX"] = host_index
    env |= deploy.config
    if "VMARGS_PATH" not in deploy.config:
        env |= _vm_args(env, settings, identity, release)
    if (name := release.tool and release.tool.extends_vm_args) and name not in deploy.config:
        env |= _extended_vm_args(name, env, settings, release)
    env |= _place_to_write(env, layout, release)
    _refuse_impossible(env)
    env = await profile_d.source(release.tree, env)
    env |= _node(identity)
    env["PATH"] = _path(env, layout)
    _refuse_impossible(env)
    return env


def discard_written(layout: Layout) -> None:
    """Remove what the script of an earlier release has written; to be called while none runs.

    Raises `RunAgentError` (74).
    """
    with files.writing_run_folder(layout.run), contextlib.suppress(FileNotFoundError):
        shutil.rmtree(layout.run / WRITTEN)


def _ours(
    env: Mapping[str, str], settings: Settings, identity: Identity, release: Release
) -> dict[str, str]:
    layout = settings.layout
    ours = _node(identity) | {
        "RELEASE_DISTRIBUTION": "name",
        "LIBCLUSTER_KUBERNETES_SELECTOR": f"repo={identity.app}",
        "LIBCLUSTER_KUBERNETES_NODE_BASENAME": identity.app,
        "APP_NAME": identity.app,
        "MY_POD_IP": identity.address,
        "PORT": str(settings.port),
        "SECRET_KEY_BASE": identity.key_base.reveal(),
        "GIGALIXIR_APP_NAME": release.name,
        "HOME": env.get("HOME") or str(layout.app),
        "LC_ALL": locales.utf8(),
        "PATH": f"{layout.bin}:{env.get('PATH') or DEFAULT_PATH}",
    }
    if release.tool is not None and release.tool.takes_vm_args:
        ours |= dict.fromkeys(("REPLACE_OS_VARS", "RELX_REPLACE_OS_VARS", DEFAULT_VM_ARGS), "true")
    return ours


def _node(identity: Identity) -> dict[str, str]:
    """Name the node and its cookie: what no configuration may change."""
    return dict.fromkeys(("MY_NODE_NAME", "RELEASE_NODE"), identity.node) | dict.fromkeys(
        ("MY_COOKIE", "RELEASE_COOKIE", "ERLANG_COOKIE"), identity.cookie.reveal()
    )


def _vm_args(
    env: Mapping[str, str], settings: Settings, identity: Identity, release: Release
) -> dict[str, str]:
    """Render our vm.args, unless the tool takes none or the user wants the release's own."""
    wanted = env.get(DEFAULT_VM_ARGS, "").lower() == "true"
    if release.tool is None or not release.tool.takes_vm_args or not wanted:
        return {}
    with files.writing_run_folder(settings.layout.run):
        vm_args.write(settings.layout, identity, dist_port=settings.dist_port)
    return {"VMARGS_PATH": str(settings.layout.vm_args)}


def _extended_vm_args(
    name: str, env: Mapping[str, str], settings: Settings, release: Release
) -> dict[str, str]:
    """Have DIST_PORT hold for a tool that takes no vm.args of ours.

    What the variable names already, or else the release's own file, counts as before. One that
    cannot be read is left to the release's script, which says so.
    """
    version = env.get("RELEASE_VSN") or release.version
    own = release.tree / (env.get(name) or f"releases/{version}/vm.args")
    if settings.dist_port is None or not os.access(own, os.R_OK):
        return {}
    with files.writing_run_folder(settings.layout.run):
        path = vm_args.write_extended(settings.layout, own, dist_port=settings.dist_port)
    return {name: str(path)}


def _place_to_write(env: Mapping[str, str], layout: Layout, release: Release) -> dict[str, str]:
    """Give the script a folder where it cannot write into the tree, as in a read-only image.

    What it writes holds the configuration, and of some the cookie: the folder is for us alone.
    """
    tool = release.tool
    if tool is None or env.get(tool.writes_elsewhere):  # the scripts take an empty one for none
        return {}
    if _is_writable(release.tree / tool.writes_into.format(version=release.version)):
        return {}
    folder = layout.run / WRITTEN
    with files.writing_run_folder(layout.run):
        folder.mkdir(mode=0o700, exist_ok=True)
    return {tool.writes_elsewhere: str(folder)}


def _is_writable(folder: Path) -> bool:
    """Tell whether files can be made in the folder, or it itself where it is not there yet."""
    there = next(path for path in (folder, *folder.parents) if path.exists())
    return os.access(there, os.W_OK | os.X_OK)


def _link_epmd(layout: Layout, release: Release) -> None:
    """Put the port mapper of the slug's own Erlang into the PATH's folder."""
    layout.bin.mkdir(parents=True, exist_ok=True)
    link = layout.bin / "epmd"
    if release.epmd is not None:
        files.replace_link(link, release.epmd.absolute())
    else:
        link.unlink(missing_ok=True)


def _path(env: Mapping[str, str], layout: Layout) -> str:
    """Return the PATH with our folder on it, also where the user's replaced it."""
    path = env.get("PATH") or DEFAULT_PATH
    ours = str(layout.bin)
    return path if ours in path.split(":") else f"{ours}:{path}"


def _refuse_impossible(env: Mapping[str, str]) -> None:
    """Name every variable that execve(2) cannot pass on."""
    problems = [f"{name!r} {problem}" for name in env if (problem := _problem(name, env[name]))]
    if problems:
        raise RunAgentError(
            "cannot give the release these variables; change them in the app's configuration or "
            f"in .profile.d: {'; '.join(problems)}",
            exit_code=os.EX_DATAERR,
        )


def _problem(name: str, value: str) -> str | None:
    if not name or "=" in name or "\0" in name:
        return "is no name for a variable"
    if "\0" in value:
        return "holds a NUL"
    try:
        size = len(os.fsencode(f"{name}={value}")) + 1
    except UnicodeEncodeError:
        return "is no valid Unicode"
    return None if size <= MAX_BYTES else f"has {size} bytes, and the kernel takes {MAX_BYTES}"
