"""One writer's session with the catalog, as the engine sees it.

The lease is renewed in the background while the block runs, so that a long upload keeps its pins and a
dead process loses them.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Protocol, runtime_checkable

import anyio

from ..catalog.protocol import SESSION_TTL_S, Catalog, StoredObject
from ..engine.tasks import cleaned_up, settled, task_group
from ..errors import Unavailable
from ..model import Chunk, Content, Extent, PendingUpload, UploadPart

CLEANUP_S = 5.0

First = Callable[[Catalog], Awaitable[None]]


@runtime_checkable
class AtOnce(Protocol):
    """A catalog that is far away, and does in one request what is two sentences elsewhere."""

    async def adopt_or_register(
        self, session_id: str, object_id: str, resume_key: str
    ) -> PendingUpload | None: ...


class Ledger:
    """Implements `engine.index.Index`."""

    def __init__(self, catalog: Catalog, session_id: str, first: First | None = None) -> None:
        self.catalog = catalog
        self.session_id = session_id
        self._first = first

    @classmethod
    @asynccontextmanager
    async def open(
        cls, catalog: Catalog, entity: str, first: First | None = None
    ) -> AsyncIterator[Ledger]:
        """`first` is awaited before the catalog hears of the first object that is stored."""
        begun: list[str] = []
        try:
            await settled(partial(catalog.begin_session, entity), begun.append)
            (session_id,) = begun
            async with task_group() as group:
                group.start_soon(_keep_alive, catalog, session_id)
                yield cls(catalog, session_id, first)
                group.cancel_scope.cancel()
        finally:
            for session_id in begun:
                await cleaned_up(partial(catalog.end_session, session_id), CLEANUP_S)

    async def stored_contents(self, digests: Sequence[bytes]) -> dict[bytes, Content]:
        if not digests:
            return {}
        return await self.catalog.stored_contents(self.session_id, digests)

    async def stored_chunks(self, digests: Sequence[bytes]) -> dict[bytes, Extent]:
        if not digests:
            return {}
        return await self.catalog.stored_chunks(self.session_id, digests)

    async def register_upload(self, object_id: str, token: str, resume_key: str) -> None:
        await self.catalog.register_upload(self.session_id, object_id, token, resume_key)

    async def adopt_or_register(self, object_id: str, resume_key: str) -> PendingUpload | None:
        if isinstance(self.catalog, AtOnce):
            return await self.catalog.adopt_or_register(self.session_id, object_id, resume_key)
        pending = await self.catalog.adopt_upload(self.session_id, resume_key)
        if pending is None:
            await self.register_upload(object_id, "", resume_key)
        return pending

    async def note_parts(self, object_id: str, parts: Sequence[UploadPart]) -> None:
        await self.catalog.note_parts(object_id, parts)

    async def forget_upload(self, object_id: str) -> None:
        await self.catalog.forget_upload(object_id)

    async def add_stored(
        self,
        objects: Sequence[tuple[str, int, Sequence[tuple[Chunk, int]]]],
        contents: Sequence[Content],
    ) -> None:
        if self._first is not None:
            await self._first(self.catalog)
            self._first = None
        stored = [StoredObject(name, size, tuple(chunks)) for name, size, chunks in objects]
        await self.catalog.add_stored(self.session_id, stored, contents)


async def _keep_alive(catalog: Catalog, session_id: str) -> None:
    while True:
        await anyio.sleep(SESSION_TTL_S / 3)
        # The lease outlives two attempts that fail: hours of work are not given up for a short outage. If
        # it runs out all the same, the next verb that takes it says so.
        with contextlib.suppress(Unavailable):
            await catalog.renew_session(session_id)
