"""borg 1.x: chunked, deduplicated, compressed backups; encryption off, its fastest mode."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from bench import data
from bench.measure import Command, run

from .peer import Missing


class Borg:
    name = "borg"
    steps = frozenset({"store", "again", "changed", "fetch"})
    is_slow = True

    def install(self) -> str:
        if shutil.which("borg") is None:
            raise Missing("borg is not on the PATH: apt-get install borgbackup")
        answer = subprocess.run(["borg", "--version"], capture_output=True, text=True, check=True)
        return answer.stdout.strip()

    def reset(self, place: Path, source: Path) -> None:
        self._repository, self._source = place / "repository", source
        self._archives = 0
        self._env = {
            "BORG_BASE_DIR": str(place / "home"),
            "BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK": "yes",
            "BORG_RELOCATED_REPO_ACCESS_IS_OK": "yes",
        }
        run(self._command("init", "--encryption", "none", str(self._repository)))

    def store(self) -> Command:
        self._archives += 1
        return self._command("create", self._archive, self._source.name)

    def fetch(self, target: Path) -> Command:
        target.mkdir()
        return Command(["borg", "extract", self._archive], self._env, cwd=target)

    def fetched(self, target: Path) -> Path:
        return target / self._source.name

    def store_bytes(self) -> int:
        return data.size_bytes(self._repository)

    @property
    def _archive(self) -> str:
        return f"{self._repository}::v{self._archives}"

    def _command(self, *arguments: str) -> Command:
        return Command(["borg", *arguments], self._env, cwd=self._source.parent)
