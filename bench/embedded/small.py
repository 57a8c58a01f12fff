"""100,000 files of 1-19 KB: log, again, 1% changed, download, again, and one file of them all.

Everybody stores the same tree in turn, then everybody stores it again, and so on: a disk that is slow
for a minute is slow for all. A download of ours is compared byte by byte with the source, a peer's by
names and sizes.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from bench import data
from bench.case import OURS, Plan, Results, Row, Scenario, ceiling, faster, times
from bench.data import require_same
from bench.measure import Measurement, run
from bench.ours import Asyncart
from bench.peers.peer import Peer
from bench.watch import FileWatch
from bench.workplace import remove, workplace

FILES = 100_000
MEAN_BYTES = 12_288  # in blocks of 4 KiB, as it occupies a disk
SINGLE_FILES = 21  # the first is warm-up: it imports what the first download of a process needs

LOG = Row(
    "log-small",
    "log 100,000 files, 1-19 KB each (1 GB)",
    (
        times(0.6, "cp"),
        faster(20, "dvc"),
        faster(15, "wandb"),
        faster(4, "restic"),
        faster(4, "hf-xet"),
    ),
)
AGAIN = Row(
    "log-again",
    "log it again, unchanged",
    (
        times(4, "find"),
        faster(3, "restic"),
        ceiling("files_opened", 0, "", "files of the tree opened"),
    ),
)
CHANGED = Row(
    "log-changed",
    "1% of the files changed",
    (
        times(1.5, OURS, row=AGAIN.name),
        ceiling("stored_over_changed", 1.02, "x", "data stored over bytes changed"),
    ),
)
DOWNLOAD = Row(
    "download-small",
    "download 100,000 files cold from the local store",
    (times(1.0, "cp"), faster(2, "restic"), faster(10, "dvc")),
)
DOWNLOAD_AGAIN = Row(
    "download-again",
    "download again into the same folder, nothing changed",
    (times(4, "find"),),
)
ONE = Row(
    "one-file",
    "one file out of 100,000, in a running process",
    (
        ceiling("file_s", 0.050, "s", "per file"),
        ceiling("overhead_bytes", 200_000, "bytes", "read beside the file"),
    ),
)


class Contender:
    """A peer with its own corner: a store, and a folder to fetch into."""

    def __init__(self, peer: Peer, place: Path, source: Path) -> None:
        self.peer = peer
        self.target = place / "fetched"
        self._place = place
        (place / "store").mkdir(parents=True)
        peer.reset(place / "store", source)

    def store(self) -> Measurement:
        return run(self.peer.store())

    def store_more(self) -> Measurement:
        before = self.peer.store_bytes()
        measurement = self.store()
        return replace(measurement, extra={"stored_bytes": self.peer.store_bytes() - before})

    def fetch(self, source: Path) -> Measurement:
        measurement = run(self.peer.fetch(self.target))
        require_same(source, self.peer.fetched(self.target), compare_content=False)
        remove(self.target)
        return measurement


def measure(plan: Plan, results: Results, wanted: frozenset[str]) -> None:
    count = max(200, round(FILES * plan.scale))
    copies = 5 + len(plan.peers)  # the tree, ours twice, W&B's twice, one peer's fetch
    for index in range(plan.rounds):
        with workplace(plan.parent, count * MEAN_BYTES * copies) as root:
            Round(plan, results, index, root, count).measure(wanted)


class Round:
    """One round of all rows on one fresh tree."""

    def __init__(self, plan: Plan, results: Results, index: int, root: Path, count: int) -> None:
        self._plan, self._results, self._index, self._count = plan, results, index, count
        self._source = root / "source" / "tree"
        self._target = root / "asyncart" / "fetched"
        data.make_small_files(self._source, count, seed=index)
        (root / "asyncart").mkdir()
        self._ours = Asyncart(root / "asyncart")
        self._root = root

    def measure(self, wanted: frozenset[str]) -> None:
        contenders = self._contenders(wanted)
        data.settle()
        self._in_turn(
            LOG, [(c.peer.name, c.store) for c in contenders if "store" in c.peer.steps], self._log
        )
        if AGAIN.name in wanted or CHANGED.name in wanted:
            again = [(c.peer.name, c.store) for c in contenders if "again" in c.peer.steps]
            self._in_turn(AGAIN, again, self._log_watched)
        if CHANGED.name in wanted:
            self._measure_changed(contenders)
        if DOWNLOAD.name in wanted or DOWNLOAD_AGAIN.name in wanted:
            fetch = [
                (c.peer.name, partial(c.fetch, self._source))
                for c in contenders
                if "fetch" in c.peer.steps
            ]
            self._in_turn(DOWNLOAD, fetch, self._get)
            require_same(self._source, self._target, compare_content=True)
        if DOWNLOAD_AGAIN.name in wanted:
            data.settle()
            again = [
                (c.peer.name, partial(self._refetch, c))
                for c in contenders
                if "refetch" in c.peer.steps
            ]
            self._in_turn(DOWNLOAD_AGAIN, again, self._get)
        if ONE.name in wanted:
            self._in_turn(ONE, [], self._one)

    def _contenders(self, wanted: frozenset[str]) -> list[Contender]:
        steps = {STEPS[name] for name in wanted if name in STEPS}
        peers = [peer for step in sorted(steps) for peer in self._plan.peers_for(step, self._index)]
        return [
            Contender(peer, self._root / peer.name, self._source) for peer in dict.fromkeys(peers)
        ]

    def _in_turn(
        self,
        row: Row,
        peers: Sequence[tuple[str, Callable[[], Measurement]]],
        ours: Callable[[], Measurement],
    ) -> None:
        calls = [(OURS, ours), *peers]
        self._plan.take_turns(self._results, row.name, self._index, calls)

    def _log(self) -> Measurement:
        return self._ours.log(self._source)

    def _log_watched(self) -> Measurement:
        with FileWatch(self._source) as watch:
            measurement = self._log()
        if watch.opened is None:
            return measurement
        return replace(measurement, extra={**measurement.extra, "files_opened": watch.opened})

    def _get(self) -> Measurement:
        return self._ours.get(self._target)

    def _refetch(self, contender: Contender) -> Measurement:
        return run(contender.peer.fetch(self._target))

    def _measure_changed(self, contenders: list[Contender]) -> None:
        # What a version costs beside its data (mostly its manifest): log it with one file changed.
        before = self._ours.store_bytes()
        one_bytes = data.change_some(self._source, 1)
        data.settle()
        self._log()
        version_bytes = self._ours.store_bytes() - before - one_bytes

        changed_bytes = data.change_some(self._source, self._count)
        data.settle()

        def ours() -> Measurement:
            before = self._ours.store_bytes()
            measurement = self._log_watched()
            stored_bytes = self._ours.store_bytes() - before
            extra = {
                **measurement.extra,
                "changed_bytes": changed_bytes,
                "stored_bytes": stored_bytes,
                "version_bytes": version_bytes,
                "stored_over_changed": (stored_bytes - version_bytes) / changed_bytes,
            }
            return replace(measurement, extra=extra)

        changed = [(c.peer.name, c.store_more) for c in contenders if "changed" in c.peer.steps]
        self._in_turn(CHANGED, changed, ours)

    def _one(self) -> Measurement:
        picks = random.Random(self._index).sample(range(self._count), SINGLE_FILES)
        paths = [data.small_file(self._source, pick).relative_to(self._source) for pick in picks]
        target = self._target.with_name("single")
        return self._ours.one([path.as_posix() for path in paths], target)


STEPS = {
    LOG.name: "store",
    AGAIN.name: "again",
    CHANGED.name: "changed",
    DOWNLOAD.name: "fetch",
    DOWNLOAD_AGAIN.name: "refetch",
}

SCENARIO = Scenario("small", (LOG, AGAIN, CHANGED, DOWNLOAD, DOWNLOAD_AGAIN, ONE), measure)
