"""Concurrency follows the goodput; the policy is a function, the queue around it is fair and bounded."""

from __future__ import annotations

import asyncio
import itertools

import pytest

from asyncart.errors import Invalid
from asyncart.net.pace import (
    CAP,
    FLOOR,
    START,
    STEADY_WINDOWS,
    Level,
    Pace,
    Rate,
    Window,
    next_level,
)

URL = "https://host/o"


def grown(level: Level, capacity: float, latency_s: float = 0.1) -> Level:
    """A window over a store that serves `capacity` requests at once at full speed."""
    served = min(level.limit, capacity)
    return next_level(level, Window(served * 1e6, latency_s * max(1, level.limit / capacity)))


@pytest.mark.parametrize(
    ("capacity", "settled"), [(1000, 256), (128, 128), (40, 64), (16, 16), (8, 16)]
)
def test_it_doubles_while_goodput_grows_and_then_stays(capacity: int, settled: int) -> None:
    level = Level()
    seen = [level.limit]
    for _ in range(10):
        level = grown(level, capacity)
        seen.append(level.limit)
    assert seen[:2] in ([16, 32], [16, 16])
    assert all(b <= 2 * a for a, b in itertools.pairwise(seen))
    assert level.limit == settled
    assert not level.is_growing


def test_throttling_cuts_to_seven_tenths_down_to_a_floor() -> None:
    level = Level(100, True, 5.0, 0.1)
    seen = []
    for _ in range(20):
        level = next_level(level, Window(1e9, 0.1, throttles=1))
        seen.append(level.limit)
    assert seen[:3] == [70, 49, 34]
    assert seen[-1] == FLOOR
    assert not level.is_growing


def test_latency_that_rises_without_goodput_cuts_too() -> None:
    level = Level(100, False, 10.0, 0.1)
    assert next_level(level, Window(10.0, 0.3)).limit == 100
    assert next_level(level, Window(8.0, 0.15)).limit == 100
    assert next_level(level, Window(8.0, 0.3)).limit == 70


def test_idle_windows_say_nothing() -> None:
    """Where nobody waited, more turns would have changed nothing."""
    level = Level(32, True, 5.0, 0.1)
    assert next_level(level, Window(1e12, 0.1, was_full=False)).limit == 32


def test_after_a_while_it_tries_again() -> None:
    """A store that was throttled an hour ago may not be any more."""
    level = next_level(Level(64, True, 1e6, 0.1), Window(1e6, 0.1, throttles=3))
    windows = 0
    while not level.is_growing:
        level = next_level(level, Window(1e6, 0.1))
        windows += 1
    assert windows == STEADY_WINDOWS
    assert level.limit > 44
    for _ in range(1000):
        level = grown(level, 1e9)
        assert FLOOR <= level.limit <= CAP


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


async def test_turns_are_limited_per_host_and_fair() -> None:
    pace = Pace(limit=2)
    order: list[int] = []
    gate = asyncio.Event()

    async def work(number: int, url: str = URL) -> None:
        async with pace.slot(url):
            order.append(number)
            await gate.wait()

    async with asyncio.TaskGroup() as group:
        for number in range(5):
            group.create_task(work(number))
        group.create_task(work(9, "https://other/o"))
        for _ in range(5):
            await asyncio.sleep(0)
        assert order == [0, 1, 9]
        gate.set()
    assert order == [0, 1, 9, 2, 3, 4]


@pytest.mark.parametrize("steps", range(5))
async def test_a_cancelled_wait_keeps_no_turn(steps: int) -> None:
    pace = Pace(limit=1)

    async def want() -> None:
        async with pace.slot(URL):
            pass

    async with asyncio.TaskGroup() as group:
        async with pace.slot(URL):
            victim = group.create_task(want())
            await asyncio.sleep(0)
        for _ in range(steps):
            await asyncio.sleep(0)
        victim.cancel()
    async with asyncio.timeout(5), pace.slot(URL):
        pass


async def test_it_learns_from_what_the_slots_say() -> None:
    """Full windows with more goodput double the limit; a 503 cuts it."""
    clock = Clock()
    pace = Pace(clock=clock)

    async def work() -> None:
        async with pace.slot(URL) as slot:
            await asyncio.sleep(0)
            slot.succeeded(1 << 20)

    async def window(requests: int, seconds: float) -> None:
        clock.now += seconds
        async with asyncio.TaskGroup() as group:
            for _ in range(requests):
                group.create_task(work())

    assert pace.limit(URL) == START
    await window(60, 1.0)
    assert pace.limit(URL) == 2 * START
    await window(200, 1.0)
    assert pace.limit(URL) == 4 * START
    clock.now += 1.0
    for _ in range(4 * START):
        async with pace.slot(URL) as slot:
            slot.failed(0, is_throttled=True)
    assert pace.limit(URL) == int(4 * START * 0.7)
    assert pace.limit("https://other/") == START


def test_the_rate_lets_a_second_s_worth_through_and_then_holds_the_average() -> None:
    clock = Clock()
    rate = Rate(100, clock=clock)
    assert rate.reserve(60) == 0
    assert rate.reserve(1000) == 0  # larger than a second's worth: whole, paid for by the next
    assert rate.reserve(1) == pytest.approx(9.6)
    rate.give_back(1)
    clock.now = 9.6
    assert rate.reserve(100) == pytest.approx(0)
    assert rate.reserve(1) == pytest.approx(1.0)
    clock.now = 1e6
    assert rate.reserve(100) == 0
    assert rate.reserve(100) == 0
    assert rate.reserve(1) == pytest.approx(1.0)


async def test_a_cancelled_wait_gives_its_bytes_back() -> None:
    rate = Rate(10, clock=lambda: 0.0)
    await rate.take(20)
    task = asyncio.get_running_loop().create_task(rate.take(1000))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert rate.reserve(1) == pytest.approx(1.0)


def test_limits_must_be_positive() -> None:
    for wrong in (0.0, -1.0, float("nan")):
        with pytest.raises(Invalid):
            Rate(wrong)
    with pytest.raises(Invalid):
        Pace(limit=0)
