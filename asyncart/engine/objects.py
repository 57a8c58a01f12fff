"""Write one object: gather buffers into parts, send them side by side, make it durable.

The catalog hears of the object before its first byte, so that whatever a crash leaves is known. Small
objects go out in one request. A failed or cancelled object is aborted here, shielded and bounded.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import anyio
from anyio.abc import TaskGroup

from ..model import new_object_id, object_key
from ..stores.protocol import Store, Upload
from . import plan
from .index import Index

MULTIPART_BYTES = 16 << 20  # below, one PUT is fewer requests than a multipart upload
ABORT_S = 5.0


class Shared:
    """A buffer with several users: released when the last one is done."""

    def __init__(self, release: Callable[[], None], users: int) -> None:
        self._release = release
        self._users = users

    def done(self) -> None:
        self._users -= 1
        if self._users == 0:
            self._release()


class ObjectWriter:
    """One object, appended to in order. Use `finish` or `abort`; sends run in the given task group."""

    def __init__(
        self,
        store: Store,
        index: Index,
        group: TaskGroup,
        size_hint: int | None = None,
        resume_key: str = "",
    ) -> None:
        self.object_id = ""
        self.size = 0
        self._store = store
        self._index = index
        self._group = group
        self._size_hint = size_hint
        self._resume_key = resume_key
        self._part_bytes = plan.part_bytes(size_hint or 0, store.part_bytes)
        self._is_direct = store.part_bytes == 1
        self._upload: Upload | None = None
        self._gathered: list[memoryview] = []
        self._releases: list[Callable[[], None]] = []
        self._gathered_bytes = 0
        self._parts = 0
        self._sent = 0
        self._in_flight = 0
        self._idle = anyio.Event()

    async def begin(self) -> None:
        """Give the object its id, and tell the catalog; `append` does it otherwise."""
        if not self.object_id:
            object_id = new_object_id(time.time_ns() // 1_000_000)
            await self._index.register_upload(object_id, "", self._resume_key)
            self.object_id = object_id

    async def append(self, views: Sequence[memoryview], done: Callable[[], None]) -> int:
        """Take these bytes; `done` is called once they may be reused. Returns their offset."""
        await self.begin()
        offset = self.size
        self.size += sum(map(len, views))
        self._gathered += views
        self._releases.append(done)
        self._gathered_bytes = self.size - self._sent
        enough = self._part_bytes if self._upload or self._is_direct else MULTIPART_BYTES
        if self._gathered_bytes >= max(enough, self._part_bytes):
            await self._send_gathered()
        return offset

    async def finish(self) -> None:
        """Durable on return."""
        key = object_key(self.object_id)
        if self._upload is None:
            views, releases = self._take()
            try:
                await self._store.write(key, views)
            finally:
                _call(releases)
            return
        if self._gathered:
            await self._send_gathered()
        while self._in_flight:
            self._idle = anyio.Event()
            await self._idle.wait()
        await self._upload.complete(self.size)

    async def abort(self) -> None:
        """Forget the object; never raises, never hangs."""
        _call(self._take()[1])
        if self.object_id:
            with anyio.move_on_after(ABORT_S, shield=True):
                if self._upload is not None:
                    await self._upload.abort()
                await self._index.forget_upload(self.object_id)

    async def _send_gathered(self) -> None:
        if self._upload is None:
            key = object_key(self.object_id)
            self._upload = await self._store.begin_upload(key, self._size_hint)
            if self._upload.token:
                await self._index.register_upload(
                    self.object_id, self._upload.token, self._resume_key
                )
        views, releases = self._take()
        index, offset = self._parts, self._sent
        self._parts += 1
        self._sent += sum(map(len, views))
        self._in_flight += 1
        self._group.start_soon(self._send, self._upload, index, offset, views, releases)

    def _take(self) -> tuple[list[memoryview], list[Callable[[], None]]]:
        taken = self._gathered, self._releases
        self._gathered, self._releases, self._gathered_bytes = [], [], 0
        return taken

    async def _send(
        self,
        upload: Upload,
        index: int,
        offset: int,
        views: list[memoryview],
        releases: list[Callable[[], None]],
    ) -> None:
        try:
            await upload.part(index, offset, views)
        finally:
            views.clear()
            _call(releases)
            self._in_flight -= 1
            self._idle.set()


def _call(functions: list[Callable[[], None]]) -> None:
    for function in functions:
        function()
    functions.clear()
