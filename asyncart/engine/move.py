"""Copy the live pieces of objects into new ones. Every byte is verified between reading and writing.

Promised: memory is what the budget leased; a failure or cancellation aborts what was begun; what was
finished and is not needed after all is garbage that the catalog knows of, because it was registered first.
An object that gives wrong bytes is left alone, and named.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

import anyio.abc
from blake3 import blake3

from ..errors import Corrupt, NotFound
from ..model import Extent, object_key
from ..net.budget import Budget, Lease
from ..stores.protocol import Store
from . import plan
from .compact import Moves, Place, Run, Surveyed, runs
from .fetch import is_right_at_last
from .index import Index
from .objects import ObjectWriter
from .tasks import Threads, task_group

WORKERS = 4  # objects read at once: enough to fill a network, few enough for any budget
WORKER_BYTES = 4 * plan.RANGE_BYTES  # what one of them may have on its way


class Mover:
    def __init__(self, store: Store, index: Index, budget: Budget, threads: Threads) -> None:
        self._store = store
        self._index = index
        self._budget = budget
        self._threads = threads
        self._moves: dict[str, dict[Place, Extent]] = {}
        self.stored: list[tuple[str, int]] = []  # new objects and their sizes in bytes
        self.copied_bytes = 0
        self.damaged: list[str] = []  # objects that gave wrong bytes

    @property
    def moves(self) -> Moves:
        """Where the pieces of the emptied objects lie now."""
        return self._moves

    async def copy(self, objects: Sequence[Surveyed]) -> None:
        """Copy the pieces of these; durable on return, and known to the catalog."""
        todo = iter(objects)
        workers = max(1, min(WORKERS, self._budget.limit_bytes // WORKER_BYTES))
        async with task_group() as group:
            for _ in range(workers):
                group.start_soon(self._work, todo)
        for object_id in self.damaged:
            self._moves.pop(object_id, None)

    async def _work(self, todo: Iterator[Surveyed]) -> None:
        async with task_group() as group:
            pack = _Pack(self._store, self._index, group, self._budget)
            try:
                for each in todo:
                    self._moves[each.object_id] = {}
                    for run in runs(each.pieces):
                        if not await self._copy_run(each.object_id, run, pack):
                            self.damaged.append(each.object_id)
                            break
                await pack.seal()
            except BaseException:
                await pack.abort()
                raise
        self.stored += pack.stored

    async def _copy_run(self, object_id: str, run: Run, pack: _Pack) -> bool:
        lease = self._budget.try_take(run.length)
        if lease is None:
            await pack.let_go()  # nobody waits for a buffer with full hands
            lease = await self._budget.take(run.length)
        try:
            once = partial(self._read, object_id, run, lease)
            if not await is_right_at_last(self._store, object_id, once):
                lease.release()
                return False
            extents = await pack.append(run, lease)
        except BaseException:
            lease.release()
            raise
        self._moves[object_id] |= extents
        self.copied_bytes += sum(place.length for place, _ in run.pieces)
        return True

    async def _read(self, object_id: str, run: Run, lease: Lease) -> bool:
        try:
            await self._store.read_into(object_key(object_id), run.offset, lease.buffer)
        except (NotFound, Corrupt):
            return False
        return await self._threads.run(_is_right, run, lease.buffer)


def _is_right(run: Run, buffer: memoryview) -> bool:
    return all(
        blake3(_piece(run, place, buffer)).digest() == digest for place, digest in run.pieces
    )


def _piece(run: Run, place: Place, buffer: memoryview) -> memoryview:
    start = place.offset - run.offset
    return buffer[start : start + place.length]


def _views(run: Run, buffer: memoryview) -> list[memoryview]:
    """The pieces' bytes in order; neighbours become one: fewer, larger writes."""
    views: list[memoryview] = []
    start = end = 0
    for place, _ in run.pieces:
        if place.offset - run.offset != end or start == end:
            if end > start:
                views.append(buffer[start:end])
            start = end = place.offset - run.offset
        end += place.length
    return [*views, buffer[start:end]]


class _Pack:
    """The object that one worker fills; a full one is sealed and the next one begun."""

    def __init__(
        self, store: Store, index: Index, group: anyio.abc.TaskGroup, budget: Budget
    ) -> None:
        self._store = store
        self._index = index
        self._group = group
        self._budget = budget
        self._writer: ObjectWriter | None = None
        self.stored: list[tuple[str, int]] = []

    async def append(self, run: Run, lease: Lease) -> dict[Place, Extent]:
        """Store the pieces of the run, which lie in the leased buffer; where they lie now."""
        nbytes = sum(place.length for place, _ in run.pieces)
        if self._writer is not None and self._writer.size + nbytes > plan.PACK_BYTES:
            await self.seal()
        if self._writer is None:
            self._writer = ObjectWriter(self._store, self._index, self._group, budget=self._budget)
        views = _views(run, lease.buffer)
        digests = b"".join(digest for _, digest in run.pieces)
        held_bytes = len(lease.buffer)
        offset = await self._writer.append(views, digests, lease.release, held_bytes)
        extents = {}
        for place, _ in run.pieces:
            extents[place] = Extent(self._writer.object_id, offset, place.length)
            offset += place.length
        return extents

    async def let_go(self) -> None:
        if self._writer is not None and not await self._writer.let_go():
            await self.seal()

    async def seal(self) -> None:
        writer = self._writer
        if writer is None:
            return
        await writer.finish()
        await self._index.add_stored([(writer.object_id, writer.size, ())], [])
        self.stored.append((writer.object_id, writer.size))
        self._writer = None

    async def abort(self) -> None:
        if self._writer is not None:
            await self._writer.abort()
