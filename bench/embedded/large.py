"""4 x 1 GiB on tmpfs, so that the disk's write-back does not decide: log, and download verified.

Memory is short there: one contender after the other stores, fetches and is wiped.
"""

from __future__ import annotations

from pathlib import Path

from bench import data
from bench.case import OURS, Plan, Results, Row, Scenario, faster, times
from bench.data import require_same
from bench.ours import Asyncart
from bench.workplace import remove, workplace

from .small import Contender

FILES = 4
FILE_BYTES = 1 << 30
SMALLEST_BYTES = 9 << 20  # below 8 MiB a file is packed, and would be another case

LOG = Row(
    "log-large",
    "log 4 x 1 GiB (tmpfs)",
    (times(2, "cp"), faster(1.3, "hf-xet"), faster(2, "dvc"), faster(2, "restic")),
)
DOWNLOAD = Row("download-large", "download 4 x 1 GiB, verified (tmpfs)", (times(1.5, "cp"),))


def measure(plan: Plan, results: Results, wanted: frozenset[str]) -> None:
    size = max(SMALLEST_BYTES, round(FILE_BYTES * plan.scale))
    with workplace(plan.tmpfs, 3 * FILES * size) as root:
        source = root / "source" / "tree"
        data.make_large_files(source, FILES, size)
        data.settle()
        for index in range(plan.rounds):
            names = [OURS, *(peer.name for peer in plan.peers_for("store", index))]
            first = index % len(names)
            for name in [*names[first:], *names[:first]]:
                place = root / name
                place.mkdir()
                if name == OURS:
                    _measure_ours(plan, results, wanted, place, source)
                else:
                    _measure_peer(plan, results, wanted, name, place, source)
                remove(place)


def _measure_ours(
    plan: Plan, results: Results, wanted: frozenset[str], place: Path, source: Path
) -> None:
    ours, target = Asyncart(place), place / "fetched"
    plan.measure_one(results, LOG.name, OURS, lambda: ours.log(source))
    if DOWNLOAD.name in wanted:
        plan.measure_one(results, DOWNLOAD.name, OURS, lambda: ours.get(target))
        require_same(source, target, compare_content=True)


def _measure_peer(
    plan: Plan, results: Results, wanted: frozenset[str], name: str, place: Path, source: Path
) -> None:
    peer = next(peer for peer in plan.peers if peer.name == name)
    contender = Contender(peer, place, source)
    is_stored = plan.measure_one(results, LOG.name, name, contender.store)
    if is_stored and "fetch" in peer.steps and DOWNLOAD.name in wanted:
        plan.measure_one(results, DOWNLOAD.name, name, lambda: contender.fetch(source))


SCENARIO = Scenario("large", (LOG, DOWNLOAD), measure)
