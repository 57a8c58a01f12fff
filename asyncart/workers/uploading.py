"""Store the files of a listing with worker processes.

The rows are cut into units; each worker takes the next one when it has finished the last. What several
workers find at the same time is stored once: the first to ask about a digest stores it, the others are
promised it, and their rows are placed when everything is stored. What a lost worker had in its hands is
stored by this process. Chunks of large files are found once they are stored: two large files that share
some and are read by two workers at the same time may store them twice.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Sequence
from typing import Any

import anyio

from ..engine.index import Index
from ..engine.listing import KNOWN, NOWHERE, Listing
from ..engine.tally import Tally
from ..engine.tasks import Threads, task_group
from ..engine.upload import ASK_DIGESTS, Uploader
from ..model import Content, Extent
from . import choice, wire
from .cargo import PROMISED, merge_results, packed_files
from .crew import Crew
from .process import Worker, WorkerLost

logger = logging.getLogger("asyncart.workers")


async def store(
    crew: Crew,
    uploader: Uploader,
    index: Index,
    threads: Threads,
    tally: Tally,
    listing: Listing,
    rows: Sequence[int],
) -> None:
    """What `uploader.store` does, by the crew if there is one."""
    if not crew.workers:
        await uploader.store(listing, rows)
        return
    listing.begin_placement()
    upload = _Upload(index, threads, tally, listing)
    units = deque(await threads.run(choice.units, listing.sizes, rows, len(crew.workers)))
    try:
        async with task_group() as group:
            for worker in crew.workers:
                group.start_soon(upload.keep_busy, worker, units)
    finally:
        crew.dismiss()
    left = await threads.run(_left, listing, rows)
    await upload.place_promised([row for row in left if listing.flags[row] & KNOWN])
    left = [row for row in left if not _is_done(listing, row)]
    if left:
        await uploader.store(listing, left)


def _left(listing: Listing, rows: Sequence[int]) -> list[int]:
    return [row for row in rows if not _is_done(listing, row)]


def _is_done(listing: Listing, row: int) -> bool:
    if not listing.flags[row] & KNOWN:
        return False
    return listing.object_of[row] != NOWHERE or not listing.sizes[row]


class _Upload:
    def __init__(self, index: Index, threads: Threads, tally: Tally, listing: Listing) -> None:
        self._index = index
        self._threads = threads
        self._tally = tally
        self._listing = listing
        self._claims: dict[bytes, Worker] = {}
        self._merging = anyio.Lock()

    async def keep_busy(self, worker: Worker, units: deque[list[int]]) -> None:
        """Give it units as long as there are any, and as it lives."""
        listing = self._listing
        desk = _Desk(self._index, self._claims, worker)
        while units:
            unit = units.popleft()
            files = await self._threads.run(packed_files, listing, unit)
            try:
                result = await worker.work(files, desk, self._tally)
            except WorkerLost as error:
                logger.warning("%s: %d files are left to this process", error, len(unit))
                return
            assert isinstance(result, wire.Stored)
            async with self._merging:
                await self._threads.run(merge_results, listing, unit, result)

    async def place_promised(self, rows: Sequence[int]) -> None:
        """Rows whose content another worker stored meanwhile."""
        listing = self._listing
        for start in range(0, len(rows), ASK_DIGESTS):
            some = rows[start : start + ASK_DIGESTS]
            stored = await self._index.stored_contents(list({listing.digest(row) for row in some}))
            for row in some:
                content = stored.get(listing.digest(row))
                if content is not None:
                    listing.place_content(row, content)


class _Desk:
    """Answers one worker from the index; whoever asks first about a digest has to store it."""

    def __init__(self, index: Index, claims: dict[bytes, Worker], worker: Worker) -> None:
        self._index = index
        self._claims = claims
        self._worker = worker

    async def answer(self, verb: str, arguments: tuple[Any, ...]) -> object:
        if verb == "stored_contents":
            return await self._stored_contents(*arguments)
        result: object = await getattr(self._index, verb)(*arguments)
        if verb == "add_stored":
            for content in arguments[1]:
                self._claims.pop(content.digest, None)
        return result

    async def _stored_contents(self, digests: list[bytes]) -> dict[bytes, Content]:
        claims, worker = self._claims, self._worker
        found = {}
        mine = []
        for digest in digests:
            owner = claims.setdefault(digest, worker)
            if owner is worker or owner.is_lost:
                mine.append(digest)
            else:
                found[digest] = Content(digest, 0, (Extent(PROMISED, 0, 0),))
        stored = await self._index.stored_contents(mine)
        for digest in stored:
            claims.pop(digest, None)
        return found | stored

    def take_news(self, news: wire.More | wire.Remember) -> None:
        raise AssertionError(f"{news!r} is a download's")
