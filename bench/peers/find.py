"""`find -printf`: the floor under everything that asks what has changed; one stat per file."""

from __future__ import annotations

import shutil
from pathlib import Path

from ..measure import Command
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
        return Command(["find", str(self._source), "-printf", "%s %T@\\n"])

    def fetch(self, target: Path) -> Command:
        return self.store()

    def fetched(self, target: Path) -> Path:
        return self._source

    def store_bytes(self) -> int:
        return 0
