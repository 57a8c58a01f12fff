"""How many requests run at once, and how many bytes per second, learned while it happens.

`next_level` is the whole policy, a function of what one window of requests showed: start at 16, double
while the goodput grows, go back to the level before when it does not, fall to 0.7 on 503, 429 or a
latency that rises without more goodput, never above 256 per host. `Pace` counts and queues around it.

Goodput counts a request as much as 64 KiB of bytes: for small objects the store's requests are the limit,
not the bytes, and both kinds share one connection pool.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import NamedTuple
from urllib.parse import urlsplit

from asyncart.errors import Invalid

from .loops import Waiter

START = 16
CAP = 256  # per host (DESIGN.md section 7)
FLOOR = 2
GROWTH = 1.1  # a doubling must bring this much, or it only queues
CUT = 0.7
SLOW = 2.0  # times the best latency
REQUEST_WORTH_BYTES = 64 << 10
WINDOW_S = 0.25  # a guess: long enough for a rate, short enough to reach the cap in seconds
STEADY_WINDOWS = 20  # then try to grow again: what was throttled may not be any more


class Window(NamedTuple):
    """What a stretch of requests showed. `was_full`: somebody had to wait for a turn."""

    goodput: float  # bytes per second, requests included
    latency_s: float  # mean, per request and MiB
    throttles: int = 0
    was_full: bool = True


class Level(NamedTuple):
    limit: int = START
    is_growing: bool = True
    goodput: float = 0.0  # that led to this level
    best_latency_s: float = float("inf")
    steady: int = 0


def next_level(level: Level, window: Window, cap: int = CAP) -> Level:
    best_latency = min(level.best_latency_s, window.latency_s)
    lower = max(FLOOR, int(level.limit * CUT))
    if window.throttles:
        return Level(lower, False, window.goodput, best_latency)
    if not window.was_full:
        return level._replace(best_latency_s=best_latency)  # says nothing about more of them
    grew = window.goodput > level.goodput * GROWTH
    if level.is_growing:
        if grew and level.limit < cap:
            return Level(min(level.limit * 2, cap), True, window.goodput, best_latency)
        limit = level.limit if grew else max(START, level.limit // 2)
        return Level(min(limit, level.limit), False, window.goodput, best_latency)
    if window.latency_s > SLOW * best_latency and window.goodput < level.goodput * 0.9:
        return Level(lower, False, window.goodput, best_latency)
    if level.steady + 1 >= STEADY_WINDOWS and level.limit < cap:
        # the latency of long ago may have been that of an empty network
        return Level(min(level.limit * 2, cap), True, window.goodput, window.latency_s)
    goodput = max(level.goodput, window.goodput)
    return Level(level.limit, False, goodput, best_latency, level.steady + 1)


class Slot:
    """One running request; say how it ended."""

    __slots__ = ("_host", "_started_at")

    def __init__(self, host: _Host, started_at: float) -> None:
        self._host = host
        self._started_at = started_at

    def succeeded(self, nbytes: int) -> None:
        self._host.note(self._started_at, nbytes, is_success=True, is_throttled=False)

    def failed(self, nbytes: int, *, is_throttled: bool) -> None:
        self._host.note(self._started_at, nbytes, is_success=False, is_throttled=is_throttled)


class Pace:
    """Turns for requests, first come, first served, per host. Loops in several threads may share one.

    `limit` fixes the number for every host instead of learning it.
    """

    def __init__(
        self,
        *,
        limit: int | None = None,
        start: int = START,
        cap: int = CAP,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if limit is not None and limit < 1:
            raise Invalid(f"concurrency of {limit}: at least one request must be allowed")
        self._fixed = limit
        self._start = min(start, cap)
        self._cap = cap
        self._clock = clock
        self._lock = threading.RLock()
        self._hosts: dict[str, _Host] = {}

    def limit(self, url: str) -> int:
        """How many requests to this URL's host may run at once now."""
        return self._host(url).level.limit

    @asynccontextmanager
    async def slot(self, url: str) -> AsyncIterator[Slot]:
        """A turn; given back at the end of the block."""
        host = self._host(url)
        await host.enter()
        try:
            yield Slot(host, self._clock())
        finally:
            host.leave()

    def _host(self, url: str) -> _Host:
        name = urlsplit(url).netloc
        host = self._hosts.get(name)
        if host is None:
            with self._lock:
                level = Level(self._fixed if self._fixed is not None else self._start)
                cap = None if self._fixed is not None else self._cap
                host = self._hosts.setdefault(name, _Host(level, cap, self._clock))
        return host


class _Turn(Waiter):
    __slots__ = ("is_granted",)

    def __init__(self) -> None:
        super().__init__()
        self.is_granted = False


class _Host:
    def __init__(self, level: Level, cap: int | None, clock: Callable[[], float]) -> None:
        self.level = level
        self._cap = cap
        self._clock = clock
        self._lock = threading.RLock()
        self._running = 0
        self._queue: deque[_Turn] = deque()
        self._begin_window()

    async def enter(self) -> None:
        with self._lock:
            if not self._queue and self._running < self.level.limit:
                self._running += 1
                return
            turn = _Turn()
            self._queue.append(turn)
            self._was_full = True
        try:
            await turn.wait()
        except BaseException:
            with self._lock:
                if turn.is_granted:
                    self._running -= 1
                else:
                    self._queue.remove(turn)
                self._serve()
            raise

    def leave(self) -> None:
        with self._lock:
            self._running -= 1
            self._serve()

    def note(self, started_at: float, nbytes: int, *, is_success: bool, is_throttled: bool) -> None:
        with self._lock:
            now = self._clock()
            self._bytes += nbytes
            self._throttles += is_throttled
            if is_success:
                self._requests += 1
                self._latency += (now - started_at) / (1 + nbytes / (1 << 20))
            if self._cap is not None:
                self._close_window(now, self._cap)

    def _close_window(self, now: float, cap: int) -> None:
        """Decide, once there is something to decide on: time enough, and every slot's worth of answers."""
        elapsed = now - self._since
        if elapsed < WINDOW_S or self._requests + self._throttles < self.level.limit:
            return
        window = Window(
            goodput=(self._bytes + self._requests * REQUEST_WORTH_BYTES) / elapsed,
            latency_s=self._latency / self._requests if self._requests else float("inf"),
            throttles=self._throttles,
            was_full=self._was_full,
        )
        self.level = next_level(self.level, window, cap)
        self._begin_window()
        self._serve()

    def _begin_window(self) -> None:
        self._since = self._clock()
        self._bytes = 0
        self._requests = 0
        self._throttles = 0
        self._latency = 0.0
        self._was_full = bool(self._queue)

    def _serve(self) -> None:
        while self._queue and self._running < self.level.limit:
            turn = self._queue.popleft()
            turn.is_granted = True
            if turn.wake():
                self._running += 1


class Rate:
    """At most `bytes_per_s`, over all who share it (`--limit-rate`); a second's worth may come at once.

    A request larger than that is let through whole and paid for by those behind it, so that the average
    holds and nothing waits for ever.
    """

    def __init__(self, bytes_per_s: float, *, clock: Callable[[], float] = time.monotonic) -> None:
        if not bytes_per_s > 0:
            raise Invalid(f"rate limit of {bytes_per_s} bytes/s: it must be positive")
        self.bytes_per_s = bytes_per_s
        self._clock = clock
        self._tokens = bytes_per_s
        self._at = clock()
        self._lock = threading.Lock()

    def reserve(self, nbytes: int) -> float:
        """Take so many bytes; returns the seconds to wait before moving them."""
        with self._lock:
            now = self._clock()
            self._tokens += (now - self._at) * self.bytes_per_s
            self._tokens = min(self._tokens, self.bytes_per_s)
            self._at = now
            wait = max(0.0, -self._tokens / self.bytes_per_s)
            self._tokens -= nbytes
            return wait

    def give_back(self, nbytes: int) -> None:
        """Bytes that were reserved but did not move."""
        with self._lock:
            self._tokens += nbytes

    async def take(self, nbytes: int) -> None:
        wait = self.reserve(nbytes)
        if wait > 0:
            try:
                await asyncio.sleep(wait)
            except BaseException:
                self.give_back(nbytes)
                raise
