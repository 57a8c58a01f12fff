"""One byte budget for the whole process, leased out as reusable buffers.

Promised: the buffers in use and those kept for reuse never exceed the limit together, whatever the
number and size of files; leases are granted first come, first served, so that a large one is not starved
by small ones; a cancelled wait takes nothing; a lease larger than the whole budget is refused at once
(it would wait for ever). Several event loops in several threads may share one budget: the state is plain
and under a lock, and every waiter is woken on its own loop.

Buffers are anonymous private mappings (page-aligned, and not copied to a forked child's parent), kept in
size classes: a page that was touched once is not faulted in again, which costs about as much as receiving
the bytes. A buffer that a running call still works on when its lease ends (a read in another thread) is
forgotten instead of reused. Slices cannot be noticed: who makes them must not use them after the lease.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import sys
import threading
from collections import OrderedDict, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio

from asyncart.config import MEMORY_BYTES
from asyncart.errors import Invalid
from asyncart.threads import run_blocking

from .loops import Waiter

SMALLEST_CLASS = 16 << 10
KEPT_BYTES = 64 << 20  # for the next transfer of this process: enough for a small one
# An idle buffer of up to twice the size serves as well, rather than to be unmapped for a new one: ranges of
# chunks take any size from 12 to 16 MiB. 4 GiB from SeaweedFS to tmpfs: 4.5 s, 3.3 s of system time and
# 361 MB instead of 8.5 s, 5.4 s and 572 MB.
LOOSEST = 2


def class_bytes(nbytes: int) -> int:
    """The size of the buffer that serves `nbytes`: four classes per octave, so at most 25 % is wasted."""
    if nbytes <= SMALLEST_CLASS:
        return SMALLEST_CLASS
    step = 1 << max((nbytes - 1).bit_length() - 3, 12)
    return -(-nbytes // step) * step


def _new_buffer(nbytes: int) -> mmap.mmap:
    if sys.platform == "win32":
        return mmap.mmap(-1, nbytes)
    # the default would be shared with every forked child
    return mmap.mmap(-1, nbytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)


def _unmap(buffers: list[mmap.mmap]) -> None:
    for memory in buffers:
        with contextlib.suppress(BufferError):  # a slice of it lives on somewhere
            memory.close()


class Lease:
    """A buffer of exactly the bytes asked for, until `release`, which any task or thread may call."""

    __slots__ = ("_budget", "_memory", "buffer")

    def __init__(self, budget: Budget, memory: mmap.mmap, nbytes: int) -> None:
        self._budget = budget
        self._memory: mmap.mmap | None = memory
        self.buffer = memoryview(memory)[:nbytes]

    def release(self) -> None:
        """Give the buffer back. Again is fine; the view is unusable afterwards."""
        memory, self._memory = self._memory, None
        if memory is None:
            return
        try:
            self.buffer.release()
        except BufferError:
            self._budget._give_back(memory, reuse=False)
        else:
            self._budget._give_back(memory, reuse=True)

    def __del__(self) -> None:
        # a lease that was lost (an exception between two owners) must not shrink the budget for good
        if self._memory is not None:
            self.release()


class _Waiter(Waiter):
    __slots__ = ("granted", "size")

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size
        self.granted: mmap.mmap | None = None


class Budget:
    """`limit_bytes` of buffers. `used_bytes` are leased, `held_bytes` leased or kept for reuse."""

    def __init__(self, limit_bytes: int = MEMORY_BYTES) -> None:
        if limit_bytes <= 0:
            raise Invalid(f"memory budget of {limit_bytes} bytes: it must be positive")
        self.limit_bytes = limit_bytes
        self.used_bytes = 0
        self.held_bytes = 0
        self.peak_bytes = 0  # of used_bytes
        # reentrant: a garbage collection inside the lock may finalise a lost Lease
        self._lock = threading.RLock()
        self._waiters: deque[_Waiter] = deque()
        self._idle: OrderedDict[int, list[mmap.mmap]] = OrderedDict()  # oldest class first

    @asynccontextmanager
    async def lease(self, nbytes: int) -> AsyncIterator[memoryview]:
        """A buffer of exactly `nbytes` for the length of the block; its content is undefined."""
        held = await self.take(nbytes)
        try:
            yield held.buffer
        finally:
            held.release()

    async def take(self, nbytes: int) -> Lease:
        """The same for a buffer whose owner changes: whoever has the lease at last releases it."""
        size = self._size(nbytes)
        with self._lock:
            memory = None if self._waiters else self._grant(size)
            if memory is None:
                waiter = _Waiter(size)
                self._waiters.append(waiter)
        if memory is None:
            memory = await self._wait(waiter)
        return Lease(self, memory, nbytes)

    def try_take(self, nbytes: int) -> Lease | None:
        """A lease if one can be had without waiting and without overtaking anyone. For worker threads."""
        size = self._size(nbytes)
        with self._lock:
            memory = None if self._waiters else self._grant(size)
        return None if memory is None else Lease(self, memory, nbytes)

    def grow(self, limit_bytes: int) -> None:
        """Raise the limit to this, if it is lower, and grant what fits now. It never shrinks."""
        with self._lock:
            if limit_bytes > self.limit_bytes:
                self.limit_bytes = limit_bytes
                self._serve()

    def trim(self, keep_bytes: int = 0) -> None:
        """Return idle buffers to the system until no more than that is held. Milliseconds: for a thread."""
        with self._lock:
            evicted = self._taken_out(self.held_bytes - keep_bytes)
        _unmap(evicted)

    async def shrink(self) -> None:
        """What a transfer does at its end, however it ends: keep no more than KEPT_BYTES idle."""
        if self.held_bytes > max(self.used_bytes, KEPT_BYTES):
            with anyio.CancelScope(shield=True):
                await run_blocking(self.trim, KEPT_BYTES)

    def _size(self, nbytes: int) -> int:
        if nbytes < 0:
            raise Invalid(f"buffer of {nbytes} bytes: the size must not be negative")
        if nbytes > self.limit_bytes:
            raise Invalid(
                f"buffer of {nbytes} bytes: the memory budget is {self.limit_bytes} bytes in all; "
                "raise the budget or ask for less at a time"
            )
        return min(class_bytes(nbytes), self.limit_bytes)

    async def _wait(self, waiter: _Waiter) -> mmap.mmap:
        try:
            await waiter.wait()
        except BaseException:
            with self._lock:
                if waiter.granted is None:
                    self._waiters.remove(waiter)
                    self._serve()  # it may have been the large one at the head
            if waiter.granted is not None:
                self._give_back(waiter.granted, reuse=True)
            raise
        assert waiter.granted is not None
        return waiter.granted

    def _grant(self, size: int) -> mmap.mmap | None:
        """A buffer of that class if the limit allows it now. Under the lock."""
        if self.used_bytes + size > self.limit_bytes:
            return None
        found = self._idle_class(size)
        if found:
            idle = self._idle[found]
            memory = idle.pop()
            if not idle:
                del self._idle[found]
        else:
            _unmap(self._taken_out(self.held_bytes + size - self.limit_bytes))
            memory = _new_buffer(size)
            self.held_bytes += size
        self.used_bytes += len(memory)
        self.peak_bytes = max(self.peak_bytes, self.used_bytes)
        return memory

    def _idle_class(self, size: int) -> int:
        """The smallest class of at most LOOSEST sizes that has an idle buffer and fits; 0 if none."""
        most = min(size * LOOSEST, self.limit_bytes - self.used_bytes)
        return min((found for found in self._idle if size <= found <= most), default=0)

    def _taken_out(self, nbytes: int) -> list[mmap.mmap]:
        """Idle buffers of at least `nbytes` (as far as there are), the class that was idle longest first."""
        found = []
        while nbytes > 0 and self._idle:
            size, idle = next(iter(self._idle.items()))
            found.append(idle.pop())
            if not idle:
                del self._idle[size]
            self.held_bytes -= size
            nbytes -= size
        return found

    def _give_back(self, memory: mmap.mmap, *, reuse: bool) -> None:
        with self._lock:
            size = len(memory)
            self.used_bytes -= size
            if reuse:
                self._idle.setdefault(size, []).append(memory)
                self._idle.move_to_end(size)
            else:
                self.held_bytes -= size
            self._serve()

    def _serve(self) -> None:
        """Grant to the waiters, in order, what fits. Under the lock."""
        while self._waiters:
            waiter = self._waiters[0]
            memory = self._grant(waiter.size)
            if memory is None:
                return
            self._waiters.popleft()
            waiter.granted = memory
            if not waiter.wake():
                self.used_bytes -= len(memory)
                self._idle.setdefault(len(memory), []).append(memory)


_process: tuple[int, Budget] | None = None
_process_lock = threading.Lock()


def process_budget(limit_bytes: int = MEMORY_BYTES) -> Budget:
    """The budget that everything in this process shares: as large as the most that was asked for so far.

    Not the sum: two runs with the default limit use that limit together. Not the least either: a transfer
    under way counts on the limit that it was planned for.
    """
    global _process
    with _process_lock:
        # a forked child has neither its parent's waiters nor a use for its lock's state
        if _process is None or _process[0] != os.getpid():
            _process = (os.getpid(), Budget(limit_bytes))
        _process[1].grow(limit_bytes)
        return _process[1]


def _forget_after_fork() -> None:
    global _process, _process_lock
    _process, _process_lock = None, threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_after_fork)
