"""How fast it goes and how long it will take. Arithmetic on events: no clock, no screen."""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

from ..model import Progress

WINDOW_S = 10.0  # long enough to be calm, short enough to notice a change


class Reading(NamedTuple):
    """What to show. Rates are per second; `fraction` is 0..1; None is unknown."""

    event: Progress
    fraction: float | None
    bytes_rate: float
    files_rate: float
    eta_s: float | None


class Meter:
    """Remembers the last seconds of a stream of events."""

    def __init__(self) -> None:
        self._samples: deque[tuple[float, int, int]] = deque()
        self._stage = ""

    def read(self, event: Progress, now_s: float) -> Reading:
        if event.stage != self._stage:  # another stage counts the same files again, at another pace
            self._stage = event.stage
            self._samples.clear()
        samples = self._samples
        samples.append((now_s, event.bytes, event.files))
        while len(samples) > 2 and samples[0][0] < now_s - WINDOW_S:
            samples.popleft()
        elapsed = now_s - samples[0][0]
        bytes_rate = (event.bytes - samples[0][1]) / elapsed if elapsed > 0 else 0.0
        files_rate = (event.files - samples[0][2]) / elapsed if elapsed > 0 else 0.0
        return Reading(
            event, _fraction(event), bytes_rate, files_rate, _eta(event, bytes_rate, files_rate)
        )


def _fraction(event: Progress) -> float | None:
    """By bytes and by files, whichever is behind: small files take as long as large ones."""
    parts = [
        done / total
        for done, total in ((event.bytes, event.bytes_total), (event.files, event.files_total))
        if total
    ]
    return min(1.0, *parts) if parts else None


def _eta(event: Progress, bytes_rate: float, files_rate: float) -> float | None:
    waits = []
    if event.bytes_total is not None and bytes_rate > 0:
        waits.append(max(0, event.bytes_total - event.bytes) / bytes_rate)
    if event.files_total is not None and files_rate > 0:
        waits.append(max(0, event.files_total - event.files) / files_rate)
    return max(waits, default=None)
