"""DVC: one content-addressed file per file, MD5, a cache folder beside the workspace.

The source's parent folder is its workspace, as DVC demands; `fetch` is a checkout into a second
workspace that shares the first one's cache, so that the source itself stays untouched.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from bench import data
from bench.measure import Command, run
from bench.workplace import remove

from .venv import FromPyPI


def environment(place: Path) -> dict[str, str]:
    """It tells nobody, and keeps what it keeps there."""
    return {
        "DVC_NO_ANALYTICS": "1",
        "DVC_SITE_CACHE_DIR": str(place / "site"),
        "DVC_GLOBAL_CONFIG_DIR": str(place / "config"),
        "DVC_SYSTEM_CONFIG_DIR": str(place / "config"),
    }


class Dvc(FromPyPI):
    name = "dvc"
    steps = frozenset({"store", "again", "changed", "fetch"})
    is_slow = True
    requirement = "dvc==3.67.1"

    def reset(self, place: Path, source: Path) -> None:
        self._place, self._source = place, source
        self._env = environment(place)
        self._begin(source.parent)

    def store(self) -> Command:
        return self._command(self._source.parent, "add", self._source.name)

    def fetch(self, target: Path) -> Command:
        target.mkdir()
        self._begin(target)
        shutil.copy(self._source.parent / f"{self._source.name}.dvc", target)
        return self._command(target, "checkout")

    def fetched(self, target: Path) -> Path:
        return target / self._source.name

    def store_bytes(self) -> int:
        return data.size_bytes(self._place / "cache")

    def _begin(self, workspace: Path) -> None:
        for left in (".dvc", ".dvcignore", f"{self._source.name}.dvc"):
            remove(workspace / left)
        run(self._command(workspace, "init", "--no-scm"))
        run(self._command(workspace, "cache", "dir", str(self._place / "cache")))

    def _command(self, workspace: Path, verb: str, *arguments: str) -> Command:
        return Command(
            [str(self._programs / "dvc"), verb, "--quiet", *arguments], self._env, cwd=workspace
        )
