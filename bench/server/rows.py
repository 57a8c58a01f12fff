"""The rows of the table: what a team's server costs beside a catalog of one's own."""

from __future__ import annotations

import json
import math
import sys
from functools import partial
from pathlib import Path
from statistics import median

from bench import data
from bench.case import OURS, Plan, Results, Row, Scenario, ceiling, times
from bench.measure import Command as Start
from bench.measure import CommandFailed, Measurement, run
from bench.ours import Asyncart
from bench.workplace import remove, workplace

from .chaos import Load, Outcome, check, client_environment, run_load
from .memory import MemoryWatch
from .place import Place, place

FILES = 100_000
DIGESTS = 100_000
MEAN_BYTES = 12_288  # in pages of 4 KiB, as it occupies a tmpfs
MIB = 1 << 20
EMBEDDED = "embedded catalog"
PROCESSES = 4  # of clients: what two cores bear beside the servers
FLAT_BYTES_PER_MINUTE = 1 * MIB

SMALL = Row(
    "team-log-small",
    "log 100,000 files, 1-19 KB each (1 GB), through the server",
    (times(1.3, EMBEDDED),),
    shows_cpu=True,
)
WARM = Row(
    "team-log-warm",
    "log a small artifact (8 files, 32 KB) from a warm client",
    (
        ceiling("wall_s", 0.060, "s", "per artifact (median)"),
        ceiling("requests", 4, "", "requests to the server"),
    ),
)
MANY = Row(
    "team-log-many",
    "log 1,000 of them by 32 clients at the same time",
    (
        ceiling("each_s", 1.0, "s", "of the clock per artifact, all clients together"),
        ceiling("errors", 0, "", "errors"),
        ceiling("problems", 0, "", "versions lost, twice or missing"),
    ),
)
CHAOS = Row(
    "team-chaos",
    "64 clients x 50 logs into 4 collections, 1% of requests broken, a replica killed every 5 s",
    (
        ceiling("problems", 0, "", "versions lost, twice or missing; impossible aliases"),
        ceiling("repeated", 0, "", "logs that had to be repeated by hand"),
    ),
)
DIGEST_QUESTION = Row(
    "team-digests",
    "have-these-digests? for 100,000 digests",
    (ceiling("wall_s", 1.0, "s", ""),),
)
DOWNLOAD = Row(
    "team-get-warm",
    "resolve, manifest and URLs for a warm download",
    (ceiling("requests", 1, "", "requests to the server"),),
)
MEMORY = Row(
    "team-memory",
    "memory of a replica under load, for 10 minutes",
    (ceiling("slope_bytes", FLAT_BYTES_PER_MINUTE, "bytes", "more per minute"),),
)


def measure_small(plan: Plan, results: Results, wanted: frozenset[str]) -> None:
    count = max(200, round(FILES * plan.scale))
    with workplace(plan.tmpfs, 4 * count * MEAN_BYTES) as root:
        for index in range(plan.rounds):
            source = root / "source"
            data.make_small_files(source, count, seed=index)
            data.settle()
            with place(plan, root / "servers") as found:
                mine = [(OURS, found.settings()), (EMBEDDED, found.embedded())]
                for name, settings in mine[:: 1 if index % 2 else -1]:
                    corner = root / name.replace(" ", "-")
                    corner.mkdir()
                    log = partial(Asyncart(corner, settings).log, source)
                    plan.measure_one(results, SMALL.name, name, log)
                    remove(corner)
            remove(source)


def measure_warm(plan: Plan, results: Results, wanted: frozenset[str]) -> None:
    with workplace(plan.tmpfs, 512 * MIB) as root:
        for _ in range(plan.rounds):
            with place(plan, root / "servers") as found:
                answer = _warm(plan, root, found)
            remove(root / "warm")
            each = {
                WARM: Measurement(
                    answer["log_s"],
                    extra={
                        "requests": answer["log_requests"],
                        "slowest_s": answer["slowest_log_s"],
                    },
                ),
                DOWNLOAD: Measurement(
                    answer["download_s"], extra={"requests": answer["download_requests"]}
                ),
                DIGEST_QUESTION: Measurement(answer["digests_s"]),
            }
            for row, measurement in each.items():
                results.add(row.name, OURS, measurement)
                plan.say(
                    f"{row.name}: {measurement.wall_s * 1000:.0f} ms {dict(measurement.extra)}"
                )
            results.note(WARM.name, f"the slowest in {answer['slowest_log_s'] * 1000:.0f} ms")


def _warm(plan: Plan, root: Path, found: Place) -> dict[str, float]:
    folder, answer = root / "warm", root / "warm" / "answer.json"
    folder.mkdir()
    request = {
        "replicas": [replica.url for replica in found.cluster.replicas],
        "folder": str(folder),
        "digests": max(1000, round(DIGESTS * plan.scale)),
    }
    environment = client_environment(found.cluster.url, found.cluster.key, folder / "home")
    argv = [sys.executable, "-m", "bench.server.warm", json.dumps(request), str(answer)]
    run(Start(argv, environment, cwd=folder))
    measured: dict[str, float] = json.loads(answer.read_text(encoding="utf-8"))
    return measured


def measure_many(plan: Plan, results: Results, wanted: frozenset[str]) -> None:
    logs = max(2, math.ceil(1000 * plan.scale / 32))
    load = Load(
        PROCESSES, 32 // PROCESSES, logs, 32, files=8, file_bytes=4096, looks=False, project="many"
    )
    for _ in range(plan.rounds):
        with (
            workplace(plan.tmpfs, 512 * MIB) as root,
            place(plan, root / "servers") as found,
        ):
            outcome = run_load(found.cluster, load, root / "clients")
            problems = _checked(plan, MANY, found, load, outcome)
        took = [one.ended_at - one.begun_at for one in outcome.answer.logged]
        extra = {
            "errors": float(len(outcome.answer.errors)),
            "problems": float(len(problems)),
            "per_s": outcome.per_s,
            "each_s": 1 / outcome.per_s,
            "median_s": median(took),
            "slowest_s": max(took),
        }
        results.add(MANY.name, OURS, Measurement(len(took) / outcome.per_s, extra=extra))
        text = f"{outcome.per_s:.0f} artifacts per second, the slowest in {max(took):.2f} s"
        results.note(MANY.name, text)
        plan.say(f"{MANY.name}: {text}, {extra['errors']:.0f} errors")


def measure_chaos(plan: Plan, results: Results, wanted: frozenset[str]) -> None:
    logs = max(2, round(50 * plan.scale))
    clients = 64 if plan.scale >= 1 else 8
    load = Load(PROCESSES, clients // PROCESSES, logs, 4)
    with (
        workplace(plan.tmpfs, 1024 * MIB) as root,
        place(plan, root / "servers", fault_rate=0.01) as found,
    ):
        outcome = run_load(found.cluster, load, root / "clients", kill_every_s=5.0)
        faults = len(found.cluster.faults())
        problems = _checked(plan, CHAOS, found, load, outcome)
    extra = {
        "problems": float(len(problems)),
        "repeated": float(outcome.repeated),
        "kills": float(outcome.kills),
        "faults": float(faults),
        "per_s": outcome.per_s,
    }
    results.add(CHAOS.name, OURS, Measurement(outcome.wall_s, extra=extra))
    results.note(CHAOS.name, f"{faults} requests broken, {outcome.kills} replicas killed")
    plan.say(f"{CHAOS.name}: {outcome.wall_s:.0f} s, {extra}")


def _checked(plan: Plan, row: Row, found: Place, load: Load, outcome: Outcome) -> list[str]:
    """All that is wrong with what is there after the load."""
    problems = check(found.cluster, load, outcome)
    for problem in problems[:20]:
        plan.say(f"{row.name}: {problem}")
    return problems


def measure_memory(plan: Plan, results: Results, wanted: frozenset[str]) -> None:
    """Small artifacts are logged all the time, and versions looked at, while the replicas are watched."""
    minutes = plan.minutes if plan.scale >= 1 else 0.25
    load = Load(
        1, 6, 0, 6, files=4, file_bytes=2048, project="memory", seconds=minutes * 60, looks=True
    )
    with workplace(plan.tmpfs, 1024 * MIB) as root, place(plan, root / "servers") as found:
        with MemoryWatch([replica.pid for replica in found.cluster.replicas]) as watch:
            outcome = run_load(found.cluster, load, root / "clients")
        dead = [replica.url for replica in found.cluster.replicas if not replica.is_running]
        problems = _checked(plan, MEMORY, found, load, outcome) + [f"{url} ended" for url in dead]
    if problems:  # then it was not the memory of replicas at work
        raise CommandFailed("\n".join(problems))
    slopes = watch.slopes()
    extra = {
        "slope_bytes": max(slopes) * 60,
        "logged": float(len(outcome.answer.logged)),
        "minutes": minutes,
    }
    peak = watch.peak()
    results.add(MEMORY.name, OURS, Measurement(minutes * 60, peak_rss_bytes=peak, extra=extra))
    results.note(
        MEMORY.name,
        f"{minutes:g} minutes, {len(outcome.answer.logged)} artifacts; at most {peak / 1e6:.0f} MB",
    )
    plan.say(f"{MEMORY.name}: {extra} peak {peak / 1e6:.0f} MB")


SCENARIOS = (
    Scenario("team-small", (SMALL,), measure_small),
    Scenario("team-warm", (WARM, DOWNLOAD, DIGEST_QUESTION), measure_warm),
    Scenario("team-many", (MANY,), measure_many),
    Scenario("team-faults", (CHAOS,), measure_chaos),
    Scenario("team-rss", (MEMORY,), measure_memory),
)
