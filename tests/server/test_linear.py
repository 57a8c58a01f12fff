"""The checker of alias histories says what a search over all orders says."""

from __future__ import annotations

from itertools import permutations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.server.linear import INITIAL, Operation, violations


def write(value: int, begun_at: float, ended_at: float) -> Operation:
    return Operation(True, value, begun_at, ended_at)


def read(value: int, begun_at: float, ended_at: float) -> Operation:
    return Operation(False, value, begun_at, ended_at)


def is_linearizable(history: list[Operation]) -> bool:
    """Try every order: slow, and obviously right."""
    for order in permutations(history):
        respects_time = all(
            not later.ended_at < earlier.begun_at
            for index, earlier in enumerate(order)
            for later in order[index + 1 :]
        )
        if respects_time and _explains(order):
            return True
    return False


def _explains(order: tuple[Operation, ...]) -> bool:
    value = INITIAL
    for each in order:
        if each.is_write:
            value = each.value
        elif each.value != value:
            return False
    return True


@pytest.mark.parametrize(
    "history",
    [
        [],
        [read(INITIAL, 0, 1)],
        [write(1, 0, 1), read(1, 2, 3)],
        [write(1, 0, 9), read(INITIAL, 1, 2), read(1, 3, 4)],
        [write(1, 0, 9), write(2, 0, 9), read(2, 1, 2), read(1, 3, 4)],
        [write(1, 0, 9), write(2, 0, 9), read(1, 10, 11)],
    ],
)
def test_possible(history: list[Operation]) -> None:
    assert is_linearizable(history)
    assert violations(history) == []


@pytest.mark.parametrize(
    "history",
    [
        [read(1, 0, 1)],
        [read(1, 0, 1), write(1, 2, 3)],
        [write(1, 0, 1), read(INITIAL, 2, 3)],
        [write(1, 0, 1), write(2, 2, 3), read(1, 4, 5)],
        [write(1, 0, 9), read(1, 1, 2), read(INITIAL, 3, 4)],
        [write(1, 0, 1), write(2, 0, 1), read(1, 2, 3), read(2, 4, 5)],
    ],
)
def test_impossible(history: list[Operation]) -> None:
    assert not is_linearizable(history)
    assert violations(history)


@st.composite
def histories(draw: st.DrawFn) -> list[Operation]:
    """Up to three writes and three reads whose ends all differ, as real times do."""
    count = draw(st.integers(1, 6))
    times = draw(st.permutations(range(2 * count)))
    writes = draw(st.integers(0, min(3, count)))
    found = []
    for index in range(count):
        begun_at, ended_at = sorted(times[2 * index : 2 * index + 2])
        value = index if index < writes else draw(st.integers(INITIAL, max(writes - 1, 0)))
        found.append(Operation(index < writes, value, begun_at, ended_at))
    return found


@settings(max_examples=400, deadline=None)
@given(histories())
def test_it_agrees_with_a_search(history: list[Operation]) -> None:
    assert (violations(history) == []) is is_linearizable(history)
