"""`import asyncart` and `asyncart --help`: medians of ten, byte code compiled before."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from bench.case import OURS, Plan, Results, Row, Scenario, ceiling
from bench.measure import Command, Measurement, run
from bench.processes import search_path

REPEATS = 10
IMPORT = """
import sys, time
started = time.perf_counter()
import asyncart
open(sys.argv[1], "w").write(str(time.perf_counter() - started))
"""
HELP = "import sys; from asyncart.cli import main; sys.argv = ['asyncart', '--help']; main()"

STARTUP = Row(
    "startup",
    "`import asyncart`; `asyncart --help`",
    (
        ceiling("import_s", 0.100, "s", "import"),
        ceiling("help_s", 0.200, "s", "--help, the whole process"),
    ),
)


def measure(plan: Plan, results: Results, wanted: frozenset[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        answer = Path(folder, "import_s")
        environment = {"PYTHONPATH": search_path(), "ASYNCART_HOME": str(Path(folder, "home"))}

        def timed(*arguments: str) -> Measurement:
            return run(Command([sys.executable, *arguments], environment))

        for index in range(1 + REPEATS):
            imported = timed("-c", IMPORT, str(answer))
            extra = {
                "import_s": float(answer.read_text(encoding="utf-8")),
                "help_s": timed("-c", HELP).wall_s,
                "interpreter_s": timed("-c", "pass").wall_s,
            }
            if index > 0:  # the first run compiles
                results.add(STARTUP.name, OURS, Measurement(imported.wall_s, extra=extra))
    plan.say("startup: done")


SCENARIO = Scenario("startup", (STARTUP,), measure)
