"""docs/upgrades.md: what it has a stranger type makes a slug that upgrades what runs, and back."""

import os
import re
import shutil
import subprocess
from pathlib import Path

from support import slugs
from support.house import ROOT
from support.upgrading import boot, change, serves

TRIED = (ROOT / "docs" / "upgrades.md").read_text().split("## Try it\n")[1].split("\n## ")[0]


def _shown(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", TRIED, re.DOTALL | re.MULTILINE)


def _make_slug(checkout: Path) -> Path:
    """Do as the page says, in a folder that has what it takes of a checkout after `make run`."""
    controller = checkout / ".run" / "controller"
    controller.mkdir(parents=True)
    shutil.copy(slugs.slug("mix", "0.1.0"), controller / "hello-mix-0.1.0.tar.gz")
    ignored = shutil.ignore_patterns("_build")
    shutil.copytree(ROOT / "examples", checkout / "examples", ignore=ignored)
    source, build, _ = _shown("sh")
    [appup], [relup] = _shown("erlang"), _shown("elixir")
    app = checkout / ".run" / "upgrade" / "app"
    _bash(source, checkout)
    (app / "appup").mkdir()
    (app / "appup" / "hello.appup").write_text(appup)
    (app / "relup.exs").write_text(relup)
    _bash(build, app)
    return app.parent / "hello-0.2.0.tar.gz"


def _bash(commands: str, cwd: Path) -> None:
    home = cwd / "home"
    home.mkdir(exist_ok=True)
    subprocess.run(
        ("bash", "-euc", commands),
        cwd=cwd,
        env={"PATH": os.environ["PATH"], "HOME": str(home), "LC_ALL": "C.UTF-8"},
        timeout=slugs.BUILD_SECONDS,
        check=True,
    )


def test_the_page_leads_to_an_upgrade_and_back(platform, tmp_path):
    slug = _make_slug(tmp_path / "checkout")
    replica = boot(platform, "mix")
    *_, verbs = _shown("sh")
    assert f"run-agent upgrade --slug file://$PWD/.run/upgrade/{slug.name}\n" in verbs
    ended = change(replica, "upgrade", "--slug", slug.as_uri())
    assert ended.verdict == (0, "done", "0.2.0"), ended
    assert serves(replica) == "0.2.0"
    assert "run-agent downgrade 0.1.0\n" in verbs
    ended = change(replica, "downgrade", "0.1.0")
    assert ended.verdict == (0, "done", "0.1.0"), ended
    assert serves(replica) == "0.1.0"
