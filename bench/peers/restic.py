"""restic: chunked, deduplicated, compressed and always encrypted backups into a local folder."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from bench import data
from bench.measure import Command, run

from .peer import Missing


class Restic:
    name = "restic"
    steps = frozenset({"store", "again", "changed", "fetch"})
    is_slow = True

    def install(self) -> str:
        if shutil.which("restic") is None:
            raise Missing("restic is not on the PATH: apt-get install restic")
        answer = subprocess.run(["restic", "version"], capture_output=True, text=True, check=True)
        return " ".join(answer.stdout.split()[:2])

    def reset(self, place: Path, source: Path) -> None:
        self._repository, self._source = place / "repository", source
        self._env = {"RESTIC_PASSWORD": "bench", "RESTIC_CACHE_DIR": str(place / "cache")}
        run(self._command("init"))

    def store(self) -> Command:
        # From the parent, so that the snapshot holds "tree/..." and not this machine's whole path.
        return self._command("backup", self._source.name)

    def fetch(self, target: Path) -> Command:
        return self._command("restore", "latest", "--target", str(target))

    def fetched(self, target: Path) -> Path:
        return target / self._source.name

    def store_bytes(self) -> int:
        return data.size_bytes(self._repository)

    def _command(self, *arguments: str) -> Command:
        argv = ["restic", "--quiet", "--repo", str(self._repository), *arguments]
        return Command(argv, self._env, cwd=self._source.parent)
