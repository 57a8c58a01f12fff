"""Run blocking work in worker threads, and never leave it running behind the caller's back.

anyio waits for the thread when one of its own cancel scopes asks. asyncio's `Task.cancel()` (which
`asyncio.timeout`, `asyncio.TaskGroup` and web frameworks use) breaks through: the await ends while the
thread still reads from, or writes into, the caller's buffers. `run_blocking` returns only when the
thread has let go of its arguments, whoever cancels. Long work calls `check_cancelled` between its
pieces, so that a cancellation is prompt as well as clean.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Generic, TypeVar, TypeVarTuple, Unpack, cast

import anyio
import anyio.from_thread
import anyio.lowlevel
import anyio.to_thread

Result = TypeVar("Result")
Args = TypeVarTuple("Args")

_current = threading.local()


class _Job(Generic[Result, *Args]):
    """One call: it either runs to its end, or is abandoned before it began."""

    def __init__(self, function: Callable[[Unpack[Args]], Result], args: tuple[*Args]) -> None:
        self._function = function
        self._args = args
        self._starting = threading.Lock()
        self.is_cancelled = False
        self.was_stopped = False
        self._has_begun = False
        self.finished = threading.Event()

    def __call__(self) -> Result | None:
        try:
            return self._run()
        except _Stopped:  # its traceback would keep the arguments alive
            self.was_stopped = True
            return None
        except BaseException:
            if not self.is_cancelled:
                raise
            return None  # nobody waits for it
        finally:
            self.finished.set()

    def _run(self) -> Result:
        with self._starting:
            if self.is_cancelled:
                raise _Stopped
            self._has_begun = True
        _current.job = self
        try:
            return self._function(*self._args)
        finally:
            _current.job = None
            self._let_go()

    def cancel(self) -> None:
        with self._starting:
            self.is_cancelled = True
            if not self._has_begun:
                self._let_go()
                self.finished.set()

    def _let_go(self) -> None:
        del self._function, self._args  # a buffer among them is the caller's again


async def run_blocking(
    function: Callable[[Unpack[Args]], Result],
    *args: *Args,
    limiter: anyio.CapacityLimiter | None = None,
) -> Result:
    """Call `function(*args)` in a worker thread; on cancellation wait until it has stopped."""
    job = _Job(function, args)
    try:
        result = await anyio.to_thread.run_sync(job, limiter=limiter)
    except BaseException:
        # Either the function's own error (then it has finished), or a cancellation.
        job.cancel()
        if not job.finished.is_set():
            await _wait_for(job.finished)
        raise
    if job.was_stopped:
        await anyio.lowlevel.checkpoint_if_cancelled()  # the cancellation that the thread has seen
        raise RuntimeError("stopped by a cancellation that nobody asked for")
    return cast("Result", result)


async def _wait_for(event: threading.Event) -> None:
    """Wait in spite of every cancellation: bounded by the piece of work that the thread is at."""
    waiters = anyio.CapacityLimiter(1)  # the usual one may be full of those that are waited for
    with anyio.CancelScope(shield=True):
        while not event.is_set():
            try:
                await anyio.to_thread.run_sync(event.wait, limiter=waiters)
            except anyio.get_cancelled_exc_class():
                continue  # asyncio's Task.cancel() again; the first one is re-raised by the caller


def check_cancelled() -> None:
    """In a worker thread of `run_blocking`: raise if the task that waits for it was cancelled."""
    job = getattr(_current, "job", None)
    if job is None:
        return  # called directly, by a test or from a thread of its own: nothing to ask
    if job.is_cancelled:
        raise _Stopped
    try:
        anyio.from_thread.check_cancelled()
    except asyncio.CancelledError:
        raise _Stopped from None


class _Stopped(BaseException):
    """Unwinds the thread. The task raises its own cancellation, so that nobody ever sees this."""
