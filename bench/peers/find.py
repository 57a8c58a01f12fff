"""`find -printf`: the floor under everything that asks what has changed; one stat per file."""

from __future__ import annotations

import shutil
from pathlib import Path

from bench.measure import Command

from .peer import Missing


class Find:
    name = "find"
    steps = frozenset({"again", "changed", "refetch"})
    is_slow = False

    def install(self) -> str:
        if shutil.which("find") is None:
            raise Missing("find is not on the PATH")
        return "find -printf '%s %T@\\n'"

    def reset(self, place: Path, source: Path) -> None:
        self._source = source

    def store(self) -> Command:
        return self._command(self._source)

    def fetch(self, target: Path) -> Command:
        return self._command(target)

    def fetched(self, target: Path) -> Path:
        return target

    def store_bytes(self) -> int:
        return 0

    def _command(self, tree: Path) -> Command:
        return Command(["find", str(tree), "-printf", "%s %T@\\n"])
