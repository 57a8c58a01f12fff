"""Peak memory over `import asyncart`: the worst of this run's rows, and 1,000,000 files (`--million`)."""

from __future__ import annotations

from bench import data
from bench.case import OURS, Plan, Results, Row, Scenario, ceiling
from bench.measure import Measurement
from bench.ours import Asyncart
from bench.workplace import workplace

FILES = 1_000_000
TINY_BYTES = (1, 199)
INODE_BYTES = 6 << 10  # what a tiny file occupies on tmpfs: a page, an inode, its names
PEAK = "rss_over_import_bytes"

MEMORY = Row(
    "memory",
    "peak memory of any case, over `import asyncart`",
    (ceiling(PEAK, 300e6, "bytes", "in the worst row"),),
)
MILLION = Row(
    "million",
    "1,000,000 files logged and downloaded: peak memory",
    (
        ceiling(PEAK, 1e9, "bytes", "over import, first goal"),
        ceiling(PEAK, 500e6, "bytes", "over import, second goal"),
    ),
)


def measure(plan: Plan, results: Results, wanted: frozenset[str]) -> None:
    if MEMORY.name in wanted:
        measure_worst(plan, results, MEMORY, PEAK)
    if MILLION.name in wanted and plan.million:
        _million(plan, results)


def measure_worst(plan: Plan, results: Results, row: Row, peak: str) -> None:
    """The highest of our peaks, by the name of the measure, of all rows before."""
    peaks = {
        name: max(found)
        for name, contenders in results.measured.items()
        if (found := [value for one in contenders.get(OURS, ()) if (value := one.value(peak))])
    }
    if not peaks:
        plan.say("memory: measure other rows in the same run; this one is the worst of them")
        return
    worst = max(peaks, key=lambda name: peaks[name])
    results.add(row.name, OURS, Measurement(wall_s=0.0, extra={peak: peaks[worst]}))
    results.note(row.name, f"the worst row is {worst}")


def _million(plan: Plan, results: Results) -> None:
    count = max(1000, round(FILES * plan.scale))
    with workplace(plan.tmpfs, 2 * count * INODE_BYTES) as root:
        source = root / "source"
        data.make_small_files(source, count, TINY_BYTES)
        data.settle()
        ours = Asyncart(root)
        log, get = ours.log(source), ours.get(root / "fetched")
        plan.say(f"million: log {log.wall_s:.1f} s, download {get.wall_s:.1f} s")
    extra = {
        PEAK: max(log.extra[PEAK], get.extra[PEAK]),
        "log_s": log.wall_s,
        "download_s": get.wall_s,
        "log_rss_over_import_bytes": log.extra[PEAK],
        "download_rss_over_import_bytes": get.extra[PEAK],
    }
    total = Measurement(log.wall_s + get.wall_s, log.cpu_s + get.cpu_s, extra=extra)
    results.add(MILLION.name, OURS, total)


SCENARIO = Scenario("memory", (MEMORY, MILLION), measure)
