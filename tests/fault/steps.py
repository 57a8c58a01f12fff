"""Strike at the k-th step of an operation: whenever one of its tasks has just begun to wait.

Every task that is made while an operation runs is wrapped, so steps of its children count too. Two
moments of a step can be struck: while it waits ("waiting"), and when what it waited for is there but the
task has not seen it yet ("answered"), which is where results get lost.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any, Literal

import anyio

Moment = Literal["waiting", "answered"]
By = Literal["scope", "task"]
PATIENCE_S = 30.0  # a hang is a failure that says so


class Steps:
    """Counts steps; calls `strike` once, at step `at`."""

    def __init__(self, at: int, moment: Moment = "waiting") -> None:
        self.at = at
        self.moment = moment
        self.count = 0
        self.has_struck = False
        self.strike: Callable[[], object] = lambda: None

    def factory(
        self, loop: asyncio.AbstractEventLoop, coro: Coroutine[Any, Any, Any], **options: Any
    ) -> asyncio.Task[Any]:
        return asyncio.Task(_Counted(self, coro), loop=loop, **options)

    def note(self, awaited: object) -> None:
        is_now = self.count == self.at
        self.count += 1
        if not is_now:
            return
        if self.moment == "answered" and isinstance(awaited, asyncio.Future):
            awaited.add_done_callback(lambda _: self._strike())
        else:
            asyncio.get_running_loop().call_soon(self._strike)

    def _strike(self) -> None:
        self.has_struck = True
        self.strike()

    @asynccontextmanager
    async def counted(self) -> AsyncIterator[None]:
        loop = asyncio.get_running_loop()
        before = loop.get_task_factory()
        loop.set_task_factory(self.factory)  # type: ignore[arg-type]
        try:
            yield
        finally:
            loop.set_task_factory(before)


class _Counted(Coroutine[Any, Any, Any]):
    """A coroutine that tells when it begins to wait."""

    def __init__(self, steps: Steps, inner: Coroutine[Any, Any, Any]) -> None:
        self._steps = steps
        self._inner = inner

    def send(self, value: Any) -> Any:
        awaited = self._inner.send(value)
        self._steps.note(awaited)
        return awaited

    def throw(self, *error: Any) -> Any:
        awaited = self._inner.throw(*error)
        self._steps.note(awaited)
        return awaited

    def close(self) -> None:
        self._inner.close()

    def __await__(self) -> Any:
        return self._inner.__await__()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


async def cancelled_at(
    step: int, by: By, moment: Moment, operation: Callable[[], Awaitable[object]]
) -> Literal["cancelled", "finished", "not reached"]:
    """Run the operation and cancel it at that step; what became of it."""
    steps = Steps(step, moment)
    outcome = "finished"

    async def run() -> None:
        nonlocal outcome
        if by == "task":
            await operation()
            return
        with anyio.CancelScope() as scope:
            steps.strike = scope.cancel
            await operation()
        if scope.cancelled_caught:
            outcome = "cancelled"

    async with steps.counted():
        # a task of its own, cancelled as a web framework does it
        task = asyncio.get_running_loop().create_task(run())
        if by == "task":
            steps.strike = task.cancel
        done, _ = await asyncio.wait({task}, timeout=PATIENCE_S)
    assert done, f"hangs when cancelled at step {step}: {task.get_stack()}"
    if task.cancelled():
        assert by == "task"
        outcome = "cancelled"
    else:
        task.result()
    if not steps.has_struck:
        return "not reached"
    return outcome  # type: ignore[return-value]
