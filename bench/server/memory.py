"""The memory of running processes over time: does it grow?"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Sequence
from typing import IO

from bench.processes import REPOSITORY

WARM_UP = 0.3  # of the time: pools, caches and the allocator fill until then


class MemoryWatch:
    """The resident memory of processes, once a second, from a process of its own: nothing here waits for it."""

    def __init__(self, pids: Sequence[int]) -> None:
        self._pids = pids
        self._process: subprocess.Popen[bytes] | None = None
        self._output: IO[bytes] | None = None
        self._samples: list[list[float]] = []

    def __enter__(self) -> MemoryWatch:
        self._output = tempfile.TemporaryFile()  # a pipe that nobody reads meanwhile would fill up
        self._process = subprocess.Popen(
            [sys.executable, "-m", "bench.server.sampler", *map(str, self._pids)],
            cwd=REPOSITORY,
            stdin=subprocess.PIPE,
            stdout=self._output,
        )
        return self

    def __exit__(self, *error: object) -> None:
        assert self._process is not None
        assert self._output is not None
        self._process.communicate(timeout=10)  # closes its stdin
        with self._output:
            self._output.seek(0)
            self._samples = [[float(word) for word in line.split()] for line in self._output]

    def peak(self) -> int:
        return int(max(max(values) for _, *values in self._samples))

    def slopes(self) -> list[float]:
        """Bytes per second of each process after it warmed up, by least squares."""
        kept = self._samples[int(len(self._samples) * WARM_UP) :]
        at = [sample[0] for sample in kept]
        return [
            slope(at, [sample[1 + index] for sample in kept]) for index in range(len(self._pids))
        ]


def slope(xs: Sequence[float], ys: Sequence[float]) -> float:
    mean_x, mean_y = sum(xs) / len(xs), sum(ys) / len(ys)
    spread = sum((x - mean_x) ** 2 for x in xs)
    return sum((x - mean_x) * (y - mean_y) for x, y in zip(xs, ys, strict=True)) / (spread or 1.0)
