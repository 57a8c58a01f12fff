"""Count what a transfer does."""

from __future__ import annotations


class Tally:
    """What a transfer has done so far: files, bytes, of those already there, and sent or received."""

    def __init__(self) -> None:
        self.files = 0
        self.bytes = 0
        self.bytes_deduplicated = 0
        self.bytes_moved = 0

    def add(self, files: int, nbytes: int, deduplicated: int, moved: int) -> None:
        self.files += files
        self.bytes += nbytes
        self.bytes_deduplicated += deduplicated
        self.bytes_moved += moved
