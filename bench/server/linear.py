"""Is what clients saw of a moving alias possible, had all of it happened one after the other?

An alias is a register: logging writes it, resolving reads it. Every write here writes another value, and
for such histories there is an exact test without a search (Gibbons and Korach, "Testing shared memories",
1997). A write and the reads that saw it form a cluster. Let `first` be the earliest end and `last` the
latest beginning in it: if `first < last`, the value must have been there in all of (first, last), which
is a forward zone; otherwise it could have been there for a moment only, anywhere in (last, first), which
is a backward zone. The history is linearizable if, and only if

- every value that was read was written, by a write that had begun before the read ended;
- no two forward zones overlap;
- no backward zone lies within a forward zone.

Times are those of one clock (CLOCK_MONOTONIC is the same for all processes of a machine).
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import NamedTuple

INITIAL = -1  # what a register holds before anybody writes: the alias points nowhere


class Operation(NamedTuple):
    """Begun and ended at these times; a write that nobody knows the end of ends at infinity."""

    is_write: bool
    value: int
    begun_at: float
    ended_at: float


class _Zone(NamedTuple):
    low: float
    high: float
    value: int


def violations(history: Iterable[Operation]) -> list[str]:
    """What is impossible about the history of one register, in words; nothing if it is linearizable."""
    clusters: dict[int, list[Operation]] = {
        INITIAL: [Operation(True, INITIAL, -math.inf, -math.inf)]
    }
    operations = list(history)
    found = []
    for each in operations:
        if each.is_write:
            if each.value in clusters:
                found.append(f"{each.value} was written twice")
            clusters[each.value] = [each]
    for each in operations:
        if each.is_write:
            continue
        if each.value not in clusters:
            found.append(f"{each.value} was read, and never written")
            continue
        if each.ended_at < clusters[each.value][0].begun_at:
            found.append(f"{each.value} was read before anybody began to write it")
        clusters[each.value].append(each)
    return found + _conflicts(clusters)


def _conflicts(clusters: dict[int, list[Operation]]) -> list[str]:
    forward: list[_Zone] = []
    backward: list[_Zone] = []
    for value, operations in clusters.items():
        first = min(each.ended_at for each in operations)
        last = max(each.begun_at for each in operations)
        if first < last:
            forward.append(_Zone(first, last, value))
        else:
            backward.append(_Zone(last, first, value))
    forward.sort()
    found = [
        f"{a.value} and {b.value} were both there at {max(a.low, b.low):.6f}"
        for a, b in pairwise(forward)
        if b.low < a.high
    ]
    if found:  # then the zones are no order that others could be found in
        return found
    return [
        f"{inner.value} can only have been there while {outer.value} was"
        for inner in backward
        if (outer := _around(inner, forward)) is not None
    ]


def _around(inner: _Zone, forward: Sequence[_Zone]) -> _Zone | None:
    """The one that holds it, of sorted zones that do not overlap: it can only be the last that begins before."""
    before = bisect_left(forward, inner.low, key=lambda zone: zone.low)
    outer = forward[before - 1] if before else None
    return outer if outer is not None and inner.high < outer.high else None
