"""Task groups whose errors reach the user as themselves.

A failure cancels its siblings, so nearly always there is one real error: it is raised as it is. Several
of one kind become the first one; several kinds become one TransferError that carries them all.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TypeVar, TypeVarTuple

import anyio
from anyio.abc import TaskGroup

from ..errors import AsyncartError, TransferError
from ..threads import run_blocking

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


@asynccontextmanager
async def task_group() -> AsyncIterator[TaskGroup]:
    """`anyio.create_task_group`, without the ExceptionGroup."""
    try:
        async with anyio.create_task_group() as group:
            yield group
    except BaseExceptionGroup as failures:
        raise collapsed(failures) from None


async def settled(work: Callable[[], Awaitable[T]], take: Callable[[T], object]) -> None:
    """Await the work and hand its result to `take`, also if the caller is cancelled meanwhile.

    `Task.cancel()` of asyncio throws a result away that is just arriving; what has to be given back
    (a session, an open file) must not get lost like that. The work runs in a child, which only anyio
    cancels, and that waits for worker threads.
    """

    async def run() -> None:
        take(await work())

    async with task_group() as group:
        group.start_soon(run)


async def cleaned_up(work: Callable[[], Awaitable[object]], within_s: float) -> None:
    """Await a piece of clean-up, whoever cancels before or meanwhile; give up when it takes too long."""

    async def run() -> None:
        with anyio.move_on_after(within_s, shield=True):
            await work()

    async with task_group() as group:
        group.start_soon(run)


def collapsed(group: BaseExceptionGroup) -> BaseException:
    """The one error that the group is about."""
    leaves = list(_leaves(group))
    fatal = [leaf for leaf in leaves if not isinstance(leaf, Exception)]
    if fatal:
        return fatal[0]
    distinct = list({(type(leaf), str(leaf)): leaf for leaf in leaves}.values())
    if len(distinct) == 1:
        return distinct[0]
    errors = [leaf for leaf in distinct if isinstance(leaf, Exception)]
    first = errors[0]
    if isinstance(first, AsyncartError) and len({type(error) for error in errors}) == 1:
        # One cause, met by several workers at once, such as a full disk: the class says what to do.
        first.add_note(f"and {len(errors) - 1} more like it, for example: {errors[1]}")
        return first
    return TransferError(f"{len(errors)} errors, the first: {errors[0]}", errors)


def _leaves(group: BaseExceptionGroup) -> list[BaseException]:
    found: list[BaseException] = []
    for error in group.exceptions:
        found += _leaves(error) if isinstance(error, BaseExceptionGroup) else [error]
    return found


class Threads:
    """Worker threads for disk and CPU work in batches; no more than `count` at once."""

    def __init__(self, count: int = 0) -> None:
        self.count = count or default_threads()
        self._limiter = anyio.CapacityLimiter(self.count)

    async def run(self, function: Callable[[*Ts], T], *arguments: *Ts) -> T:
        """The function's result. Cancelling waits for it: its buffers are its own until it returns."""
        return await run_blocking(function, *arguments, limiter=self._limiter)


def default_threads() -> int:
    # More threads than cores hide the latency of a cold disk; beyond that they fight for the GIL
    # (100,000 warm files of 10 KB, 2 cores: 2 threads 1.4-1.8 s, 4 threads 2.4 s).
    return min(16, 2 + (os.cpu_count() or 1))
