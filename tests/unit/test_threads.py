"""Blocking work in threads: it ends before the await does, whoever cancels."""

from __future__ import annotations

import asyncio
import threading

import anyio
import pytest

from asyncart.threads import check_cancelled, run_blocking


class Work:
    """A call that goes on until it is told to end, or notices that it was cancelled."""

    def __init__(self, *, looks: bool) -> None:
        self.looks = looks
        self.has_begun = threading.Event()
        self.may_end = threading.Event()
        self.has_ended = False

    def __call__(self) -> str:
        self.has_begun.set()
        try:
            while not self.may_end.wait(0.001):
                if self.looks:
                    check_cancelled()
            return "done"
        finally:
            self.has_ended = True

    async def begun(self) -> None:
        await anyio.to_thread.run_sync(self.has_begun.wait)


def fail() -> None:
    raise LookupError("from the thread")


async def test_results_and_errors_pass_through() -> None:
    assert await run_blocking(divmod, 7, 3) == (2, 1)
    with pytest.raises(LookupError, match="from the thread"):
        await run_blocking(fail)


@pytest.mark.parametrize("looks", [False, True])
async def test_a_cancelled_task_waits_for_its_thread(looks: bool) -> None:
    """asyncio's Task.cancel(), also the second time; work that looks for it ends by itself."""
    work = Work(looks=looks)
    task = asyncio.get_running_loop().create_task(run_blocking(work))
    await work.begun()
    for _ in range(3):
        task.cancel()
        await asyncio.sleep(0)
    if not looks:
        assert not task.done()
        work.may_end.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert work.has_ended


@pytest.mark.parametrize("looks", [False, True])
async def test_a_cancelled_scope_waits_for_its_thread(looks: bool) -> None:
    work = Work(looks=looks)
    async with anyio.create_task_group() as group:
        group.start_soon(run_blocking, work)
        await work.begun()
        group.cancel_scope.cancel()
        if not looks:
            work.may_end.set()
    assert work.has_ended


async def test_work_that_waits_for_its_turn_is_cancelled_without_running() -> None:
    first, second = Work(looks=False), Work(looks=False)
    limiter = anyio.CapacityLimiter(1)
    async with anyio.create_task_group() as group:
        group.start_soon(lambda: run_blocking(first, limiter=limiter))
        await first.begun()
        with anyio.move_on_after(0.01):
            await run_blocking(second, limiter=limiter)
        first.may_end.set()
    assert first.has_ended
    assert not second.has_begun.is_set()


async def test_arguments_are_free_when_the_call_returns() -> None:
    """A buffer that was handed to the thread can change its length again."""
    buffer = bytearray(10)
    assert await run_blocking(bytes, memoryview(buffer)) == bytes(10)
    buffer.append(0)


def test_check_cancelled_outside_of_a_call_says_nothing() -> None:
    check_cancelled()
