"""`cp -r`: the floor under everything that stores files. It promises nothing: no fsync, no digest.

`cp+sync` waits until the bytes are on the disk, which is what asyncart has promised when
`log_artifact` returns.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from bench import data
from bench.measure import Command

from .peer import Missing


class Cp:
    name = "cp"
    steps = frozenset({"store", "fetch"})
    is_slow = False

    def install(self) -> str:
        if shutil.which("cp") is None:
            raise Missing("cp is not on the PATH")
        return "cp -r"

    def reset(self, place: Path, source: Path) -> None:
        self._copy, self._source = place / "copy", source

    def store(self) -> Command:
        return self._command(self._source, self._copy)

    def fetch(self, target: Path) -> Command:
        return self._command(self._copy, target)

    def fetched(self, target: Path) -> Path:
        return target

    def store_bytes(self) -> int:
        return data.size_bytes(self._copy)

    def _command(self, source: Path, target: Path) -> Command:
        return Command(["cp", "-r", str(source), str(target)])


class CpSync(Cp):
    name = "cp+sync"

    def install(self) -> str:
        super().install()
        return "cp -r && sync -f"

    def _command(self, source: Path, target: Path) -> Command:
        return Command(
            ["sh", "-c", 'cp -r "$1" "$2" && sync -f "$2"', "sh", str(source), str(target)]
        )
