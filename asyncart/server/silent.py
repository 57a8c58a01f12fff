"""Hang up on who connects and says nothing: such connections would fill the table of open files.

aiohttp bounds how long a connection may be idle between two requests, but not how long the head of the first
one may take. A connection that made no request in time is closed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from typing import Protocol

import anyio
from aiohttp import web

PATIENCE_S = 30.0  # for the head of the first request


class Connection(Protocol):
    """What there is to know of aiohttp's `RequestHandler`; it has no public word for it."""

    _request_count: int

    def force_close(self) -> None: ...


async def hang_up(runner: web.AppRunner, patience_s: float = PATIENCE_S) -> None:
    """Never returns; cancel it."""
    watch = Watch(patience_s)
    while True:
        await anyio.sleep(patience_s / 4)
        server = runner.server
        for connection in watch.overdue(server.connections if server is not None else ()):
            connection.force_close()


class Watch:
    def __init__(self, patience_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._patience_s = patience_s
        self._clock = clock
        self._since: dict[Connection, float] = {}  # those that have made no request yet

    def overdue(self, connections: Collection[Connection]) -> list[Connection]:
        """Those that were silent for too long; ask regularly."""
        now = self._clock()
        silent = [each for each in connections if each._request_count == 0]
        self._since = {each: self._since.get(each, now) for each in silent}
        return [each for each, since in self._since.items() if now - since >= self._patience_s]
