"""What the S3 cases ask of a peer beyond `Peer`: a server to work on, and which seconds count.

A program counts from start to exit. A library counts from the first request to the last one, as we do:
its script imports and connects before, and writes down the seconds of its work (`Clocked`).
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from dataclasses import replace
from pathlib import Path

from bench.bucket import BUCKET, S3Server
from bench.measure import Command, Measurement

from .venv import FromPyPI


class S3Peer(FromPyPI, ABC):
    """`connect` comes first, then what `Peer` says. Objects lie below `prefix` of the server's bucket."""

    name: str
    steps = frozenset({"store", "fetch"})
    is_slow = False

    def connect(self, server: S3Server, prefix: str) -> None:
        self._server, self._prefix = server, prefix
        self._env = server.environment()

    @property
    def url(self) -> str:
        return f"s3://{BUCKET}/{self._prefix}"

    def reset(self, place: Path, source: Path) -> None:
        self._place, self._source = place, source

    @abstractmethod
    def store(self) -> Command: ...

    def again(self) -> Command:
        """Store it again, when most or all of it is there."""
        return self.store()

    @abstractmethod
    def fetch(self, target: Path) -> Command: ...

    def fetched(self, target: Path) -> Path:
        return target

    def store_bytes(self) -> int:
        return self._server.stored_bytes(self._prefix)

    def timed(self, whole: Measurement) -> Measurement:
        """What counts of a whole process."""
        return whole


class Clocked(S3Peer):
    """A library, driven by a Python script: `SCRIPT put|get URL TREE ANSWER`, ANSWER a file for its clocks."""

    script: str

    def store(self) -> Command:
        return self._command("put", self._source)

    def fetch(self, target: Path) -> Command:
        return self._command("get", target)

    def timed(self, whole: Measurement) -> Measurement:
        clocks = json.loads(self._answer.read_text(encoding="utf-8"))
        extra = {**whole.extra, "process_s": whole.wall_s, "process_cpu_s": whole.cpu_s}
        return replace(whole, wall_s=clocks["wall_s"], cpu_s=clocks["cpu_s"], extra=extra)

    @property
    def _answer(self) -> Path:
        return self._place / "clocks.json"

    def _command(self, verb: str, tree: Path) -> Command:
        python = str(self._programs / "python")
        arguments = [verb, BUCKET, self._prefix, str(tree), str(self._answer)]
        return Command([python, "-c", self.script, *arguments], self._env, cwd=self._place)
