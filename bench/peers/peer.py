"""What the cases ask of a peer.

A peer is a whole process per step, as its users run it, with its own default settings unless its
module says otherwise. Nothing of it reports to anybody: telemetry is off, and everything that it
writes lies under the folder that the case gives it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from bench.measure import Command


class Missing(RuntimeError):
    """The peer is not installed and cannot be; the message says how to get it."""


class Peer(Protocol):
    name: str
    steps: frozenset[str]  # of "store", "again", "changed", "fetch", "refetch"
    is_slow: bool  # over ten seconds on 100,000 files: measured in the first round(s) only

    def install(self) -> str:
        """Make sure that it can run; returns its version. Raises Missing."""

    def reset(self, place: Path, source: Path) -> None:
        """Begin an empty store in `place`, an empty folder; `source` is the tree to come. Not timed."""

    def store(self) -> Command:
        """Store the source tree, as it is now."""

    def fetch(self, target: Path) -> Command:
        """Get the tree that was stored last; `fetched` says where below `target` it lies."""

    def fetched(self, target: Path) -> Path: ...

    def store_bytes(self) -> int:
        """Sum of the sizes of the files that make up its store."""
