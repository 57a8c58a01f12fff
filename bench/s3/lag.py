"""What a service notices: the event loop's lag while it logs 4 GiB, or 100,000 files, through `asyncart.aio`.

A ticker on the same loop sleeps for a millisecond, over and over; how much later than that it wakes up is
the lag. asyncio's own loop, not uvloop, because services may run on either and it is the slower one. A
tick that the operating system delays, because the server wants the core, counts like any other.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from bench import data
from bench.case import OURS, Plan, Results, Row, Scenario, ceiling
from bench.measure import Command, Measurement, run
from bench.processes import search_path
from bench.servers import seaweedfs
from bench.workplace import remove, workplace

from .corner import URL
from .large import FILE_BYTES, FILES, SMALLEST_BYTES
from .small import FILES as SMALL_FILES
from .small import MEAN_BYTES

TARGETS = (
    ceiling("lag_p99_s", 0.010, "s", "p99"),
    ceiling("lag_max_s", 0.050, "s", "max"),
)
LARGE = Row("lag-large", "event-loop lag of the caller during a 4 GiB log", TARGETS)
SMALL = Row("lag-small", "event-loop lag of the caller during a 100,000-file log", TARGETS)


def measure(plan: Plan, results: Results, wanted: frozenset[str]) -> None:
    size = max(SMALLEST_BYTES, round(FILE_BYTES * plan.scale))
    count = max(200, round(SMALL_FILES * plan.scale))
    for index in range(plan.rounds):
        if LARGE.name in wanted:
            with workplace(plan.tmpfs, 2 * FILES * size) as root:
                data.make_large_files(root / "tree", FILES, size)
                plan.measure_one(results, LARGE.name, OURS, lambda: _log(plan, root))
        if SMALL.name in wanted:
            with workplace(plan.tmpfs, 2 * count * MEAN_BYTES) as root:
                data.make_small_files(root / "tree", count, seed=index)
                plan.measure_one(results, SMALL.name, OURS, lambda: _log(plan, root))


def _log(plan: Plan, root: Path) -> Measurement:
    home, answer = root / "home", root / "lag.json"
    with seaweedfs(root / "server", plan.cache) as server:
        whole = run(
            Command(
                [sys.executable, "-m", "bench.s3.ticker", str(root / "tree"), str(answer)],
                {
                    **server.environment(),
                    "ASYNCART_OBJECTS": URL,
                    "ASYNCART_HOME": str(home),
                    "PYTHONPATH": search_path(),
                },
                cwd=root,
            )
        )
    remove(home)
    found = json.loads(answer.read_text(encoding="utf-8"))
    wall_s = found.pop("wall_s")
    return Measurement(wall_s, whole.cpu_s, whole.peak_rss_bytes, extra=found)


SCENARIO = Scenario("lag", (LARGE, SMALL), measure)
