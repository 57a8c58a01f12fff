"""One value per running event loop: sockets and sessions belong to the loop that made them.

Values of loops that were closed are dropped at the next look-up, so that a process which runs one short
loop after the other does not collect them.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class PerLoop(Generic[T]):
    """`make` is called on the loop; `drop` gets the values of loops that are closed, on any thread."""

    def __init__(self, make: Callable[[], T], drop: Callable[[T], None] | None = None) -> None:
        self._make = make
        self._drop = drop
        self._values: dict[asyncio.AbstractEventLoop, T] = {}
        self._lock = threading.Lock()

    def get(self) -> T:
        """The running loop's value, made on first use."""
        loop = asyncio.get_running_loop()
        value = self._values.get(loop)
        if value is None:
            with self._lock:
                for other in [each for each in self._values if each.is_closed()]:
                    old = self._values.pop(other)
                    if self._drop is not None:
                        self._drop(old)
                value = self._values[loop] = self._make()
        return value

    def take_all(self) -> dict[asyncio.AbstractEventLoop, T]:
        """Every loop's value, which the caller now has to close."""
        with self._lock:
            values, self._values = self._values, {}
            return values


class Waiter:
    """Somebody on some loop who waits for a grant that may come from another thread.

    What was granted is recorded by the queue, under its lock; waking only tells the loop to look.
    """

    __slots__ = ("_future", "_loop")

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._future: asyncio.Future[None] = self._loop.create_future()

    async def wait(self) -> None:
        await self._future

    def wake(self) -> bool:
        """False if its loop is gone, and the waiter with it."""
        try:
            self._loop.call_soon_threadsafe(self._resolve)
        except RuntimeError:
            return False
        return True

    def _resolve(self) -> None:
        if not self._future.done():
            self._future.set_result(None)
