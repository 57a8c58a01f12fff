"""Peak memory of the client: the worst of this run's rows, and 1,000,000 files (`--million`)."""

from __future__ import annotations

from bench import data
from bench.case import OURS, Plan, Results, Row, Scenario, ceiling
from bench.embedded.memory import FILES, INODE_BYTES, TINY_BYTES, measure_worst
from bench.measure import Measurement
from bench.servers import seaweedfs
from bench.workplace import workplace

from .corner import Corner

PEAK = "peak_rss_bytes"

MEMORY = Row(
    "memory",
    "peak memory of the client, any case",
    (ceiling(PEAK, 400e6, "bytes", "in the worst row, all processes"),),
)
MILLION = Row(
    "million",
    "1,000,000 small files up and down: peak memory of the client",
    (ceiling(PEAK, 600e6, "bytes", "all processes"),),
)


def measure(plan: Plan, results: Results, wanted: frozenset[str]) -> None:
    if MEMORY.name in wanted:
        measure_worst(plan, results, MEMORY, PEAK)
    if MILLION.name in wanted and plan.million:
        _million(plan, results)


def _million(plan: Plan, results: Results) -> None:
    count = max(1000, round(FILES * plan.scale))
    with workplace(plan.tmpfs, 3 * count * INODE_BYTES) as root:
        source = root / "source"
        data.make_small_files(source, count, TINY_BYTES)
        data.settle()
        with seaweedfs(root / "server", plan.cache) as server:
            corner = Corner(root, source, server, None)
            log, get = corner.store(), corner.fetch()
    plan.say(f"million: up {log.wall_s:.1f} s, down {get.wall_s:.1f} s")
    results.add(
        MILLION.name,
        OURS,
        Measurement(
            log.wall_s + get.wall_s,
            log.cpu_s + get.cpu_s,
            max(log.peak_rss_bytes, get.peak_rss_bytes),
            extra={
                "up_s": log.wall_s,
                "down_s": get.wall_s,
                "up_rss_bytes": float(log.peak_rss_bytes),
                "down_rss_bytes": float(get.peak_rss_bytes),
            },
        ),
    )


SCENARIO = Scenario("memory", (MEMORY, MILLION), measure)
