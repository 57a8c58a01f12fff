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
from .packing import Pack, Spans
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
            finally:
                await self._budget.shrink()
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
    """The pieces' bytes in order."""
    spans = Spans()
    for place, _ in run.pieces:
        spans.add(place.offset - run.offset, place.length)
    return spans.views(buffer)


class _Pack(Pack):
    """A pack of what is moved."""

    def __init__(
        self, store: Store, index: Index, group: anyio.abc.TaskGroup, budget: Budget
    ) -> None:
        super().__init__(store, index, group, budget)
        self.stored: list[tuple[str, int]] = []

    async def append(self, run: Run, lease: Lease) -> dict[Place, Extent]:
        """Store the pieces of the run, which lie in the leased buffer; where they lie now."""
        object_id, offset = await self.add(
            _views(run, lease.buffer),
            [digest for _, digest in run.pieces],
            lease.release,
            len(lease.buffer),
        )
        extents = {}
        for place, _ in run.pieces:
            extents[place] = Extent(object_id, offset, place.length)
            offset += place.length
        return extents

    async def _sealed(self, object_id: str, size: int) -> None:
        await self._index.add_stored([(object_id, size, ())], [])
        self.stored.append((object_id, size))
