"""Rows, their targets, and what was measured against them.

A row is one line of the published table. A scenario makes its data once and measures several rows
with it, because "log it again" needs "log it" first. Judging is arithmetic on medians and needs
nothing but the recorded numbers, so that a table can be made again from a file.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from .measure import Measurement, median_of
from .peers import Peer

OURS = "asyncart"


@dataclass(frozen=True)
class Target:
    """A ceiling: on a value of ours, or on that value divided by somebody's.

    `against` is the contender to compare with (None: the value itself counts), `against_row` the row
    where it was measured, if not the target's own. "20x faster than DVC" is at_most=1/20.
    """

    at_most: float
    against: str | None = None
    against_row: str | None = None
    measure: str = "wall_s"
    against_measure: str | None = None
    unit: str = ""  # of an absolute value: "s", "bytes" or "" for a plain ratio
    label: str = ""  # what an absolute value is, in words


@dataclass(frozen=True)
class Row:
    name: str
    title: str
    targets: tuple[Target, ...] = ()


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

    def median(self, row: str, contender: str, measure: str) -> float | None:
        return median_of(self.measured.get(row, {}).get(contender, ()), measure)


@dataclass(frozen=True)
class Plan:
    """How a scenario is to be run."""

    parent: Path  # where data goes
    tmpfs: Path  # where data goes that must not wait for a disk
    peers: Sequence[Peer]
    rounds: int
    slow_rounds: int  # rounds in which slow peers take part
    scale: float  # 1.0, or 0.01 for a smoke test
    million: bool
    say: Callable[[str], None]

    def peers_for(self, step: str, round_index: int) -> list[Peer]:
        return [
            peer
            for peer in self.peers
            if step in peer.steps and (round_index < self.slow_rounds or not peer.is_slow)
        ]


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
    other = results.median(
        target.against_row or row.name, target.against, target.against_measure or target.measure
    )
    return None if not other else ours / other


def medians(
    measured: Mapping[str, Sequence[Measurement]], measure: str = "wall_s"
) -> dict[str, float]:
    """Contender to median; those without that measure are left out."""
    found = {name: median_of(each, measure) for name, each in measured.items()}
    return {name: value for name, value in found.items() if value is not None}
