"""The GET and PUT verbs alone, as `bench.verbs` measures them: client CPU seconds for the same bytes."""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

from bench.case import OURS, Plan, Results, Row, Scenario, Target
from bench.measure import Command, Measurement, run
from bench.processes import search_path

REQUESTS = 160  # of 8 MiB, per measurement
FEWEST_REQUESTS = 16


def _row(scheme: str, verb: str, at_least: float) -> Row:
    title = (
        f"{verb.upper()} of 8 MiB over {scheme.upper()} against nginx, CPU seconds of the client"
    )
    return Row(f"{verb}-{scheme}", title, (_cheaper(at_least, "obstore"),))


def _cheaper(at_least: float, than: str) -> Target:
    """So many times the bytes per CPU second of another."""
    return Target(1 / at_least, than, measure="cpu_s", unit="s", as_speedup=True)


ROWS = (
    _row("http", "get", 2.3),
    _row("http", "put", 1.5),
    _row("https", "get", 1.25),
    _row("https", "put", 0.95),
)


def measure(plan: Plan, results: Results, wanted: frozenset[str]) -> None:
    requests = max(FEWEST_REQUESTS, round(REQUESTS * plan.scale))
    with tempfile.TemporaryDirectory() as folder:
        answer = Path(folder, "verbs.json")
        arguments = ["--rounds", str(plan.rounds), "--requests", str(requests)]
        argv = [sys.executable, "-m", "bench.verbs", *arguments, "--json", str(answer)]
        run(Command(argv, {"PYTHONPATH": search_path()}))
        found = json.loads(answer.read_text(encoding="utf-8"))
    for one in found:
        row = f"{one['verb']}-{one['scheme']}"
        if row in wanted:
            for wall_s, cpu_s in one["samples"]:
                results.add(row, one["client"], Measurement(wall_s, cpu_s))
    plan.say(f"verbs: {OURS} and {len({one['client'] for one in found}) - 1} others measured")


SCENARIO = Scenario("verbs", ROWS, measure)
