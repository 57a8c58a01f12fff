"""Bring entries into a folder with worker processes.

This process reads the manifest and hands its entries out, some thousands at a time, to whichever worker
has room; it alone writes the stat cache. If a worker is lost, this process goes through the entries once
more by itself when the others are done: what they brought is there, the rest is fetched.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import anyio

from ..engine.download import Downloader, Relocate
from ..engine.statcache import StatCache, unpacked
from ..engine.tally import Tally
from ..engine.target import Target
from ..engine.tasks import Threads, task_group
from ..model import Entry
from . import choice, wire
from .crew import Crew
from .process import Worker, WorkerLost

AHEAD = 2  # steps in a worker's queue: one more than it works at
FLUSH_BYTES = 16 << 20  # of news for the stat cache: some 200,000 files

logger = logging.getLogger("asyncart.workers")


async def fetch(
    crew: Crew,
    downloader: Downloader,
    steps: Callable[[], AsyncIterator[list[Entry]]],
    *,
    target: Target,
    cache: StatCache,
    statcache_path: str,
    threads: Threads,
    relocate: Relocate,
    tally: Tally,
) -> None:
    """What `downloader.run(steps())` does, by the crew if there is one."""
    if crew.workers:
        download = _Download(steps(), target, cache, statcache_path, threads, relocate, tally)
        try:
            async with task_group() as group:
                for worker in crew.workers:
                    group.start_soon(download.keep_busy, worker)
        finally:
            crew.dismiss()
            with anyio.CancelScope(shield=True):
                await download.save()
        if not download.is_incomplete:
            return
        tally.add(-tally.files, -tally.bytes, -tally.bytes_deduplicated, -tally.bytes_moved)
    await downloader.run(steps())


class _Download:
    def __init__(
        self,
        steps: AsyncIterator[list[Entry]],
        target: Target,
        cache: StatCache,
        statcache_path: str,
        threads: Threads,
        relocate: Relocate,
        tally: Tally,
    ) -> None:
        self.is_incomplete = False
        self._pieces = _pieces(steps)
        self._reading = anyio.Lock()
        self._root = target.root
        self._cache = cache
        self._statcache_path = statcache_path
        self._threads = threads
        self._relocate = relocate
        self._tally = tally
        self._news: dict[str, list[bytes]] = {}
        self._news_bytes = 0
        self._saving = anyio.Lock()

    async def keep_busy(self, worker: Worker) -> None:
        """Feed it until there is nothing left, and as it lives."""
        desk = _Desk(self._relocate, self._note)
        order = wire.Fetch(self._root, self._statcache_path)
        try:
            async with task_group() as group:
                group.start_soon(self._feed, worker, desk.room)
                await worker.work(order, desk, self._tally)
        except WorkerLost as error:
            logger.warning("%s: this process goes through its files again", error)
            self.is_incomplete = True

    async def _feed(self, worker: Worker, room: anyio.Semaphore) -> None:
        while True:
            await room.acquire()
            async with self._reading:
                entries = await anext(self._pieces, None)
            if entries is None:
                worker.send(wire.End())
                return
            worker.send(wire.Step(list(entries)))
            if self._news_bytes > FLUSH_BYTES:
                await self.save()

    def _note(self, folders: Sequence[tuple[str, bytes]]) -> None:
        for folder, blob in folders:
            self._news.setdefault(folder, []).append(blob)
            self._news_bytes += len(blob)

    async def save(self) -> None:
        """Write what the workers told into the stat cache."""
        async with self._saving:
            news, self._news, self._news_bytes = self._news, {}, 0
            await self._threads.run(_save, self._cache, news)


def _save(cache: StatCache, news: dict[str, list[bytes]]) -> None:
    rows = []
    for folder, blobs in news.items():
        known = [unpacked(blob) for blob in blobs]
        files = [file for each in known for file in each.all()]
        rows.append((folder, cache.merged(folder, known[-1].device, files)))
    if rows:
        cache.save(rows)


async def _pieces(steps: AsyncIterator[list[Entry]]) -> AsyncIterator[Sequence[Entry]]:
    async for entries in steps:
        for piece in choice.steps(entries):
            yield piece


class _Desk:
    """Answers one worker's questions, and hears when it has room for another step."""

    def __init__(
        self, relocate: Relocate, note: Callable[[Sequence[tuple[str, bytes]]], None]
    ) -> None:
        self.room = anyio.Semaphore(AHEAD)
        self._relocate = relocate
        self._note = note

    async def answer(self, verb: str, arguments: tuple[Any, ...]) -> object:
        assert verb == "relocate"
        return await self._relocate(*arguments)

    def take_news(self, news: wire.More | wire.Remember) -> None:
        if isinstance(news, wire.More):
            self.room.release()
        else:
            self._note(news.folders)
