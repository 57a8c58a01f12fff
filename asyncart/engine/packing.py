"""Fill objects one after the other: packs, whoever makes them, and what for."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from anyio.abc import TaskGroup

from ..net.budget import Budget
from ..stores.protocol import Store
from . import plan
from .index import Index
from .objects import ObjectWriter


class Pack:
    """The object that one worker fills; a full one is sealed and the next one begun.

    Whoever makes packs says in `_sealed` what the catalog is to hear of a finished one.
    """

    def __init__(self, store: Store, index: Index, group: TaskGroup, budget: Budget) -> None:
        self._store = store
        self._index = index
        self._group = group
        self._budget = budget
        self._writer: ObjectWriter | None = None

    async def add(
        self,
        views: Sequence[memoryview],
        digests: Sequence[bytes],
        done: Callable[[], None],
        held_bytes: int,
    ) -> tuple[str, int]:
        """Store these bytes side by side: the object that they are in, and where they begin.

        `digests` are of the contents in the views, in order; `done` is called once the buffer of
        `held_bytes` may be reused.
        """
        nbytes = sum(map(len, views))
        if self._writer is not None and self._writer.size + nbytes > plan.PACK_BYTES:
            await self.seal()
        if self._writer is None:
            self._writer = ObjectWriter(self._store, self._index, self._group, budget=self._budget)
        offset = await self._writer.append(views, b"".join(digests), done, held_bytes)
        return self._writer.object_id, offset

    async def let_go(self) -> None:
        """Hold no buffer that somebody else may be waiting for."""
        if self._writer is not None and not await self._writer.let_go():
            await self.seal()

    async def seal(self) -> None:
        writer = self._writer
        if writer is None:
            return
        await writer.finish()
        await self._sealed(writer.object_id, writer.size)
        self._writer = None

    async def abort(self) -> None:
        if self._writer is not None:
            await self._writer.abort()

    async def _sealed(self, object_id: str, size: int) -> None:
        """Tell the catalog: the object is durable."""
        raise NotImplementedError


class Spans:
    """Pieces of a buffer; neighbours become one: fewer, larger writes."""

    def __init__(self) -> None:
        self._spans: list[tuple[int, int]] = []

    def add(self, start: int, length: int) -> None:
        if self._spans and self._spans[-1][1] == start:
            self._spans[-1] = (self._spans[-1][0], start + length)
        else:
            self._spans.append((start, start + length))

    def views(self, buffer: memoryview) -> list[memoryview]:
        return [buffer[start:stop] for start, stop in self._spans]
