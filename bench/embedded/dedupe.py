"""What a version of an edited 1 GiB file adds to the store, over the size of the file.

Three edits, each made to the original: 1% overwritten in one place, 1 KB inserted at the front, 10%
appended. Bytes are the sizes of everything in the store: data and manifest.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

from bench import data
from bench.case import OURS, Plan, Results, Row, Scenario, ceiling
from bench.measure import Measurement
from bench.ours import Asyncart
from bench.workplace import remove, workplace

from .small import Contender

FILE_BYTES = 1 << 30
SMALLEST_BYTES = 64 << 20  # chunks are 1 MiB: with fewer than 64 of them, percents mean little

DEDUPE = Row(
    "dedupe",
    "1 GiB edited: 1% changed, 1 KB inserted at the front, 10% appended",
    (
        ceiling("changed", 0.02, "%", "of the file stored after 1% changed"),
        ceiling("inserted", 0.01, "%", "after 1 KB inserted at the front"),
        ceiling("appended", 0.11, "%", "after 10% appended"),
    ),
)


def measure(plan: Plan, results: Results, wanted: frozenset[str]) -> None:
    size = max(SMALLEST_BYTES, round(FILE_BYTES * plan.scale))
    with workplace(plan.tmpfs, 8 * size) as root:  # DVC keeps four whole copies
        original = root / "original.bin"
        data.write_random(original, size)
        source = root / "source" / "tree"
        source.mkdir(parents=True)
        peers = [peer for peer in plan.peers_for("changed", 0) if "store" in peer.steps]
        for name in [OURS, *(peer.name for peer in peers)]:
            place = root / name
            place.mkdir()
            if name == OURS:
                ours = Asyncart(place)
                edits = Edits(original, source, partial(ours.log, source), ours.store_bytes)
            else:
                contender = Contender(next(p for p in peers if p.name == name), place, source)
                edits = Edits(original, source, contender.store, contender.peer.store_bytes)
            plan.measure_one(results, DEDUPE.name, name, edits.measure)
            remove(place)


class Edits:
    """Stores the original, then each edit of it; the time is that of the edits together."""

    def __init__(
        self,
        original: Path,
        source: Path,
        store: Callable[[], Measurement],
        store_bytes: Callable[[], int],
    ) -> None:
        self._original, self._file = original, source / "file.bin"
        self._store, self._store_bytes = store, store_bytes

    def measure(self) -> Measurement:
        shutil.copyfile(self._original, self._file)
        data.settle()
        runs, extra = [self._store()], {}
        for name, edit in data.EDITS.items():
            before = self._store_bytes()
            edit(self._original, self._file)
            data.settle()
            runs.append(self._store())
            extra[name] = (self._store_bytes() - before) / self._original.stat().st_size
        return Measurement(
            wall_s=sum(one.wall_s for one in runs[1:]),
            cpu_s=sum(one.cpu_s for one in runs[1:]),
            peak_rss_bytes=max(one.peak_rss_bytes for one in runs),
            extra={**_memory(runs), **extra},
        )


def _memory(runs: list[Measurement]) -> dict[str, float]:
    name = "rss_over_import_bytes"
    found = [one.extra[name] for one in runs if name in one.extra]
    return {name: max(found)} if found else {}


SCENARIO = Scenario("dedupe", (DEDUPE,), measure)
