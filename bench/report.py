"""Recorded results as JSON, as a table for a terminal, and as the table in README.

A file holds every single measurement; medians, ratios and verdicts are computed again from it, so that a
table is never newer or older than its numbers. `python -m bench.report RESULTS.json README.md`
replaces what stands between the README's markers.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from . import suites
from .case import OURS, Results, Row, Target, Verdict, ceiling, judge
from .measure import Measurement


@dataclass
class Record:
    """A run's results, and the facts without which they mean nothing."""

    suite: str
    machine: dict[str, Any]
    results: Results = field(default_factory=Results)
    versions: dict[str, str] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)  # peers that could not run, and why
    recorded_at: dict[str, str] = field(default_factory=dict)  # by row

    def merge(self, newer: Record) -> Record:
        """Rows of `newer` replace ours. Results of different machines are never mixed."""
        if (self.suite, self.machine) != (newer.suite, newer.machine):
            return newer
        return Record(
            self.suite,
            self.machine,
            Results(
                {**self.results.measured, **newer.results.measured},
                {
                    **{k: v for k, v in self.results.notes.items() if k not in newer.recorded_at},
                    **newer.results.notes,
                },
            ),
            {**self.versions, **newer.versions},
            {k: v for k, v in {**self.missing, **newer.missing}.items() if k not in newer.versions},
            {**self.recorded_at, **newer.recorded_at},
        )


def save(record: Record, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(asdict(record), indent=1, sort_keys=True)
    path.write_text(text + "\n", encoding="utf-8")


def load(path: Path) -> Record:
    raw = json.loads(path.read_text(encoding="utf-8"))
    measured = {
        row: {name: [Measurement(**one) for one in each] for name, each in contenders.items()}
        for row, contenders in raw["results"]["measured"].items()
    }
    return Record(**{**raw, "results": Results(measured, raw["results"]["notes"])})


# Words for numbers


def quantity(value: float, unit: str) -> str:
    match unit:
        case "s":
            return f"{value * 1000:.0f} ms" if value < 1 else f"{value:.2f} s"
        case "bytes":
            return f"{value / 1e6:.0f} MB" if value >= 1e6 else f"{value / 1e3:.0f} KB"
        case "%":
            return f"{value * 100:.2f}%"
        case "x":
            return f"{value:.2f}x"
        case _:
            return f"{value:g}"


def told(verdict: Verdict) -> str:
    """One verdict in words: what was measured, what was demanded, met or missed."""
    target = verdict.target
    state = {True: "met", False: "MISSED", None: "not measured"}[verdict.is_met]
    return f"{_measured(target, verdict.value)} ({_demanded(target)}): {state}"


def _measured(target: Target, value: float | None) -> str:
    if target.against is None:
        found = "?" if value is None else quantity(value, target.unit)
        return f"{found} {target.label}".strip()
    than = _other(target)
    if target.as_speedup:
        how = "faster than" if target.measure == "wall_s" else "less CPU than"
        return f"{'?' if value is None else f'{1 / value:.1f}'}x {how} {than}"
    return f"{'?' if value is None else f'{value:.2f}'}x {than} {target.label}".rstrip()


def _demanded(target: Target) -> str:
    if target.as_speedup:
        return f"at least {1 / target.at_most:g}x"
    unit = target.unit if target.against is None else "x"
    return f"at most {quantity(target.at_most, unit)}"


def _other(target: Target) -> str:
    if target.against == OURS:
        return f"the row {target.against_row}"
    return str(target.against)


def _ours(row: Row, results: Results) -> str:
    return _shown(row, results, OURS)


def _theirs(row: Row, results: Results) -> list[str]:
    """The peers, best first."""
    found = {
        name: results.median(row.name, name, _measures(row)[0].measure)
        for name in results.measured.get(row.name, {})
        if name != OURS
    }
    known = sorted((value, name) for name, value in found.items() if value is not None)
    return [f"{name} {_shown(row, results, name)}" for _, name in known]


def _measures(row: Row) -> list[Target]:
    """What a row is about: time, or where no target says so, each thing that has a ceiling."""
    if row.shows_cpu or any(target.measure == "wall_s" for target in row.targets):
        return [ceiling("wall_s", 0.0, "s", "")]
    if any(target.measure == "cpu_s" for target in row.targets):
        return [ceiling("cpu_s", 0.0, "s", "")]
    return list({target.measure: target for target in row.targets}.values())


def _shown(row: Row, results: Results, contender: str) -> str:
    values = [
        (results.median(row.name, contender, target.measure), target.unit)
        for target in _measures(row)
    ]
    shown = " / ".join(quantity(value, unit) for value, unit in values if value is not None)
    cpu_s = results.median(row.name, contender, "cpu_s") if row.shows_cpu else None
    return shown if cpu_s is None else f"{shown} (CPU {quantity(cpu_s, 's')})"


def table(rows: Iterable[Row], record: Record) -> Table:
    """For a terminal."""
    view = Table(title=f"asyncart and its peers: {record.suite}", show_lines=True)
    for heading in ("row", OURS, "peers", "measured (demanded)"):
        view.add_column(heading)
    for row in rows:
        if row.name not in record.results.measured:
            continue
        verdicts = "\n".join(told(verdict) for verdict in judge(row, record.results))
        view.add_row(
            f"{row.name}\n{row.title}",
            _ours(row, record.results),
            "\n".join(_theirs(row, record.results)),
            verdicts,
        )
    return view


def markdown(rows: Sequence[Row], record: Record) -> str:
    """The README's table: every row of the suite, measured or not."""
    lines = [
        "| case | rounds | asyncart | peers | measured (demanded) |",
        "|---|---|---|---|---|",
    ]
    for row in rows:
        verdicts = "<br>".join(told(verdict) for verdict in judge(row, record.results))
        ours, theirs = _ours(row, record.results), ", ".join(_theirs(row, record.results))
        rounds = len(record.results.measured.get(row.name, {}).get(OURS, ())) or ""
        lines.append(f"| {row.title} | {rounds} | {ours} | {theirs} | {verdicts} |")
    machine = record.machine
    versions = ", ".join(f"{name} ({version})" for name, version in record.versions.items())
    days = sorted({day[:10] for day in record.recorded_at.values()})
    lines += [
        "",
        "Medians of so many rounds; peers that take minutes took part in fewer.",
        f"{machine.get('cores')} cores {machine.get('cpu')}, {machine.get('memory_gib')} GiB,"
        f" Python {machine.get('python')}, data on {machine.get('filesystem')};"
        f" {', '.join(days)}." + (f" Peers: {versions}." if versions else ""),
    ]
    lines += [f"Could not run: {name}: {why}" for name, why in record.missing.items()]
    return "\n".join(lines)


def markers(suite: str) -> tuple[str, str]:
    return f"<!-- bench {suite}: begin -->", f"<!-- bench {suite}: end -->"


def place(text: str, suite: str, rendered: str) -> str:
    """`text` with the table between its markers replaced. ValueError if it has no markers."""
    begin, end = markers(suite)
    head, found, rest = text.partition(begin)
    _, also, tail = rest.partition(end)
    if not (found and also):
        raise ValueError(f"no place for the table: put {begin} and {end} on lines of their own")
    return f"{head}{begin}\n{rendered}\n{end}{tail}"


@click.command()
@click.argument("results", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.argument("readme", type=click.Path(path_type=Path, dir_okay=False), required=False)
def main(results: Path, readme: Path | None) -> None:
    """Show recorded RESULTS; with README, put them there as a Markdown table."""
    record = load(results)
    rows = suites.load(record.suite).rows()
    if readme is None:
        Console().print(table(rows, record))
        return
    try:
        text = place(readme.read_text(encoding="utf-8"), record.suite, markdown(rows, record))
    except ValueError as error:
        raise click.ClickException(f"{readme}: {error}") from error
    readme.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
