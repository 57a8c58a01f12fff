"""Rows, their targets, and what was measured against them.

A row is one line of the published table. A scenario makes its data once and measures several rows
with it, because "log it again" needs "log it" first. Judging is arithmetic on medians and needs
nothing but the recorded numbers, so that a table can be made again from a file.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from .measure import CommandFailed, Measurement, median_of
from .peers.peer import Peer

OURS = "asyncart"


@dataclass(frozen=True)
class Target:
    """A ceiling: on a value of ours, or on that value divided by somebody's.

    `against` is the contender to compare with (None: the value itself counts), `against_row` the row
    where it was measured, if not the target's own.
    """

    at_most: float
    against: str | None = None
    against_row: str | None = None
    measure: str = "wall_s"
    unit: str = "x"  # "s", "bytes", "%" or "x"
    label: str = ""  # what an absolute value is, in words
    as_speedup: bool = False  # told as "20x faster" instead of "0.05x the time"


def times(at_most: float, against: str, *, row: str | None = None) -> Target:
    """At most so many times the wall time of another."""
    return Target(at_most, against, row)


def faster(at_least: float, than: str) -> Target:
    """At least so many times faster than another."""
    return Target(1 / at_least, than, as_speedup=True)


def ceiling(measure: str, at_most: float, unit: str, label: str) -> Target:
    """An absolute limit on a measure of ours."""
    return Target(at_most, measure=measure, unit=unit, label=label)


def cpu_at_most(at_most: float, against: str, *, measure: str = "cpu_s", label: str = "") -> Target:
    """At most so many times the CPU seconds of another."""
    return Target(at_most, against, measure=measure, unit="s", label=label or "in CPU seconds")


@dataclass(frozen=True)
class Row:
    name: str
    title: str
    targets: tuple[Target, ...] = ()
    shows_cpu: bool = False  # beside the wall time


@dataclass(frozen=True)
class Verdict:
    """`value` is None where one side was not measured; then nothing is passed or missed."""

    target: Target
    value: float | None

    @property
    def is_met(self) -> bool | None:
        return None if self.value is None else self.value <= self.target.at_most


@dataclass
class Results:
    """Measurements by row and contender, in the order of the rounds; notes for people."""

    measured: dict[str, dict[str, list[Measurement]]] = field(default_factory=dict)
    notes: dict[str, list[str]] = field(default_factory=dict)

    def add(self, row: str, contender: str, measurement: Measurement) -> None:
        self.measured.setdefault(row, {}).setdefault(contender, []).append(measurement)

    def note(self, row: str, text: str) -> None:
        lines = self.notes.setdefault(row, [])
        if text not in lines:
            lines.append(text)

    def only(self, rows: Collection[str]) -> Results:
        return Results(
            {row: found for row, found in self.measured.items() if row in rows},
            {row: lines for row, lines in self.notes.items() if row in rows},
        )

    def median(self, row: str, contender: str, measure: str) -> float | None:
        return median_of(self.measured.get(row, {}).get(contender, ()), measure)


@dataclass(frozen=True)
class Plan:
    """How a scenario is to be run."""

    parent: Path  # where data goes
    tmpfs: Path  # where data goes that must not wait for a disk
    cache: Path  # where programs from PyPI are installed
    peers: Sequence[Peer]
    rounds: int
    slow_rounds: int  # rounds in which slow peers take part
    scale: float  # 1.0, or 0.01 for a smoke test
    million: bool
    minutes: float  # of load, where memory is watched
    say: Callable[[str], None]

    def peers_for(self, step: str, round_index: int) -> list[Peer]:
        return [
            peer
            for peer in self.peers
            if step in peer.steps and (round_index < self.slow_rounds or not peer.is_slow)
        ]

    def take_turns(
        self,
        results: Results,
        row: str,
        round_index: int,
        calls: Sequence[tuple[str, Callable[[], Measurement]]],
    ) -> None:
        """Measure every contender once, another one first in every round; dirty pages are written before.

        A peer that fails is dropped from this row, loudly; a failure of ours ends the scenario.
        """
        first = round_index % max(1, len(calls))
        for contender, call in [*calls[first:], *calls[:first]]:
            self.measure_one(results, row, contender, call)

    def measure_one(
        self, results: Results, row: str, contender: str, call: Callable[[], Measurement]
    ) -> bool:
        """False if it is a peer, and failed."""
        os.sync()
        try:
            measurement = call()
        except CommandFailed as error:
            if contender == OURS:
                raise
            results.note(row, f"{contender} FAILED: {error}")
            self.say(f"{row}: {contender} FAILED: {error}")
            return False
        results.add(row, contender, measurement)
        self.say(f"{row}: {contender} {measurement.wall_s:.2f} s")
        return True


@dataclass(frozen=True)
class Scenario:
    """`measure` fills in those of its rows that are wanted (and may measure more on the way)."""

    name: str
    rows: tuple[Row, ...]
    measure: Callable[[Plan, Results, frozenset[str]], None]


def judge(row: Row, results: Results) -> list[Verdict]:
    return [Verdict(target, _value(row, target, results)) for target in row.targets]


def _value(row: Row, target: Target, results: Results) -> float | None:
    ours = results.median(row.name, OURS, target.measure)
    if target.against is None or ours is None:
        return ours
    other = results.median(target.against_row or row.name, target.against, target.measure)
    return None if not other else ours / other
