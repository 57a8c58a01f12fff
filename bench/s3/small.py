"""100,000 files of 1-19 KB: up, down cold, down from the cache, again, one of them, unchanged, 1% changed.

Each contender has a SeaweedFS of its own on tmpfs, one contender after the other, another one first in
every round. Warm downloads are compared with a local store on the same tmpfs, measured in between.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from functools import partial

from bench import data
from bench.case import Plan, Results, Row, Scenario, ceiling, faster, times
from bench.data import require_same
from bench.measure import Measurement
from bench.ours import Asyncart
from bench.servers import seaweedfs
from bench.workplace import remove, workplace

from .corner import Corner, contenders, corner

FILES = 100_000
MEAN_BYTES = 12_288  # in pages of 4 KiB, as it occupies a tmpfs
COPIES = (
    7  # the tree, the server's, ours fetched, cached and in a local store, and fetched from there
)
SINGLE_FILES = 5
WARM_FILES = 10
LOCAL = "local store"

UPLOAD = Row(
    "upload-small",
    "upload 100,000 files, 1-19 KB each (1 GB)",
    (faster(10, "s5cmd"), faster(10, "obstore"), faster(30, "dvc")),
    shows_cpu=True,
)
DOWNLOAD = Row(
    "download-small",
    "download them cold, verified",
    (faster(10, "s5cmd"), faster(7, "obstore")),
    shows_cpu=True,
)
CACHED = Row(
    "download-cached",
    "download them into another folder, from the cache",
    (times(1.2, LOCAL), ceiling("requests", 1, "", "object requests")),
)
DOWNLOAD_AGAIN = Row(
    "download-again",
    "download them again into the same folder",
    (times(1.2, LOCAL), ceiling("requests", 1, "", "object requests")),
)
ONE = Row(
    "one-file",
    "one file of 100,000, nothing cached, in a running process",
    (ceiling("wall_s", 0.100, "s", "per file"), ceiling("requests", 3, "", "object requests")),
)
AGAIN = Row(
    "upload-again",
    "log them again, unchanged",
    (ceiling("requests", 1, "", "object requests"),),
    shows_cpu=True,
)
CHANGED = Row(
    "upload-changed",
    "1% of the files changed",
    (ceiling("sent_over_changed", 1.02, "x", "data sent over bytes changed"),),
    shows_cpu=True,
)
ROWS = (UPLOAD, DOWNLOAD, CACHED, DOWNLOAD_AGAIN, ONE, AGAIN, CHANGED)


def measure(plan: Plan, results: Results, wanted: frozenset[str]) -> None:
    count = max(200, round(FILES * plan.scale))
    for index in range(plan.rounds):
        with workplace(plan.tmpfs, count * MEAN_BYTES * COPIES) as root:
            source = root / "source" / "tree"
            data.make_small_files(source, count, seed=index)
            warm = root / "source" / "warm"
            data.make_small_files(warm, WARM_FILES, seed=index)
            for peer in contenders(plan, index):
                with corner(plan, root, source, seaweedfs, peer) as place:
                    data.settle()
                    Turn(plan, results, wanted, index, place, count).measure()


class Turn:
    """One contender's turn in one round."""

    def __init__(
        self,
        plan: Plan,
        results: Results,
        wanted: frozenset[str],
        index: int,
        corner: Corner,
        count: int,
    ) -> None:
        self._plan, self._results, self._wanted = plan, results, wanted
        self._index, self._corner, self._count = index, corner, count

    def measure(self) -> None:
        if not self._one(UPLOAD, self._corner.store):
            return
        if self._wants(DOWNLOAD, CACHED, DOWNLOAD_AGAIN) and self._corner.takes("fetch"):
            self._measure_downloads()
        if self._corner.peer is None and self._wants(ONE):
            self._measure_single_files()
        if self._wants(AGAIN) and self._corner.takes("again"):
            self._one(AGAIN, self._corner.again)
        if self._wants(CHANGED) and self._corner.takes("changed"):
            self._measure_changed()

    def _wants(self, *rows: Row) -> bool:
        return any(row.name in self._wanted for row in rows)

    def _one(self, row: Row, call: Callable[[], Measurement], name: str = "") -> bool:
        return self._plan.measure_one(self._results, row.name, name or self._corner.name, call)

    def _measure_downloads(self) -> None:
        corner = self._corner
        corner.forget_fetched()  # what uploading may have left in the cache
        self._one(DOWNLOAD, corner.fetch)
        if corner.peer is not None or not self._wants(CACHED, DOWNLOAD_AGAIN):
            corner.forget_fetched()
            return
        remove(corner.target)
        self._one(CACHED, corner.fetch)
        data.settle()
        self._one(DOWNLOAD_AGAIN, corner.fetch)
        corner.forget_fetched()
        self._measure_local_store()

    def _measure_local_store(self) -> None:
        """What the same tree costs without a network."""
        place = self._corner.place / "local"
        place.mkdir()
        local, target = Asyncart(place), place / "fetched"
        local.log(self._corner.source)
        self._one(CACHED, lambda: local.get(target), LOCAL)
        require_same(self._corner.source, target, compare_content=True)
        data.settle()
        self._one(DOWNLOAD_AGAIN, lambda: local.get(target), LOCAL)
        remove(place)

    def _measure_single_files(self) -> None:
        corner = self._corner
        corner.ours.log(corner.source.with_name("warm"), "warm")
        for pick in random.Random(self._index).sample(range(self._count), SINGLE_FILES):
            path = data.small_file(corner.source, pick).relative_to(corner.source).as_posix()
            corner.forget_fetched()
            metrics_url = corner.server.metrics_url
            self._one(ONE, partial(corner.ours.cold, path, corner.target, metrics_url))
        corner.forget_fetched()

    def _measure_changed(self) -> None:
        corner, source = self._corner, self._corner.source
        if corner.peer is not None:
            data.change_some(source, self._count)
            data.settle()
            self._one(CHANGED, corner.again)
            return
        # What a version costs beside its data (mostly its manifest): log it with one file changed.
        one_bytes = data.change_some(source, 1)
        data.settle()
        version_bytes = corner.store().extra["received_bytes"] - one_bytes
        changed_bytes = data.change_some(source, self._count)
        data.settle()

        def changed() -> Measurement:
            measurement = corner.store()
            sent_bytes = measurement.extra["received_bytes"]
            extra = {
                **measurement.extra,
                "changed_bytes": float(changed_bytes),
                "version_bytes": version_bytes,
                "sent_over_changed": (sent_bytes - version_bytes) / changed_bytes,
            }
            return replace(measurement, extra=extra)

        self._one(CHANGED, changed)


SCENARIO = Scenario("small", ROWS, measure)
