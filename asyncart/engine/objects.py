"""Write one object: gather buffers into parts, send them side by side, make it durable.

The catalog hears of the object before its first byte, so that whatever a crash leaves is known. Small
objects go out in one request. A failed or cancelled object is aborted here, shielded and bounded; one
whose process was killed is continued by the next attempt: it begins with the same content, finds the
unfinished object by that, cuts its parts as they were cut before, and sends only those that the catalog did
not note.

What waits here to become a part lies in buffers of the budget, never in copies beside it. Before somebody
waits for another buffer, those are given back: sent as a part, or, if they are too few for one, with the
object finished early (`let_go`). So nobody waits with full hands, and the budget cannot lock up.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from functools import partial

import anyio
from anyio.abc import TaskGroup
from blake3 import blake3

from ..errors import AsyncartError, Conflict
from ..model import UNKNOWN_TOKEN, PendingUpload, UploadPart, new_object_id, object_key
from ..net.budget import Budget
from ..stores.protocol import Store, Upload
from . import plan
from .index import Index

MULTIPART_BYTES = 16 << 20  # below, one PUT is fewer requests than a multipart upload
ABORT_S = 5.0


class Shared:
    """A buffer with several users: released when the last one is done."""

    def __init__(self, release: Callable[[], None]) -> None:
        self._release = release
        self._users: set[object] = set()

    def user(self) -> Callable[[], None]:
        """One more user; returns what it calls when it is done. To call it again is fine: whoever hands
        a buffer on calls it, too, when that fails."""
        user = object()
        self._users.add(user)
        return partial(self._done, user)

    def _done(self, user: object) -> None:
        if user in self._users:
            self._users.remove(user)
            if not self._users:
                self._release()


class _Gathered:
    """Buffers that wait to become a part; the digests in them stand for their bytes."""

    def __init__(self) -> None:
        self.views: list[memoryview] = []
        self.releases: list[Callable[[], None]] = []
        self.size = 0
        self._digests = blake3()

    def add(self, views: Sequence[memoryview], digests: bytes, done: Callable[[], None]) -> None:
        self.views += views
        self.releases.append(done)
        self.size += sum(map(len, views))
        self._digests.update(digests)

    def digest(self) -> bytes:
        """Of the contents' digests: the bytes themselves are hashed already."""
        return self._digests.digest()

    @property
    def is_holding(self) -> bool:
        """Whether somebody waits for these buffers."""
        return bool(self.releases)

    def release(self) -> None:
        self.views.clear()
        for done in self.releases:
            done()
        self.releases.clear()


class _Completed:
    """In place of the upload of an object that is complete already: there is nothing left to send."""

    def __init__(self, key: str, token: str, size: int) -> None:
        self.key = key
        self.token = token
        self._size = size

    async def part(self, index: int, offset: int, buffers: Sequence[memoryview]) -> None:
        raise self._changed()  # the catalog noted all parts, but not this one

    async def complete(self, size: int) -> None:
        if size != self._size:
            raise self._changed()

    async def abort(self) -> None:
        """The writer deletes the object."""

    def _changed(self) -> Conflict:
        return Conflict(
            f"{self.key}: the content changed after the attempt that stored it was killed; log it again"
        )


class ObjectWriter:
    """One object, appended to in order. Use `finish` or `abort`; sends run in the given task group.

    With a `budget`, the buffers that it is given are leased from that.
    """

    def __init__(
        self,
        store: Store,
        index: Index,
        group: TaskGroup,
        size_hint: int | None = None,
        budget: Budget | None = None,
    ) -> None:
        self.object_id = ""
        self.size = 0
        self._store = store
        self._index = index
        self._group = group
        self._budget = budget
        self._size_hint = size_hint
        self._part_bytes = plan.part_bytes(size_hint or 0, store.part_bytes)
        # A local store takes any piece at once, and has no use for half an object of a killed process.
        self._is_direct = store.part_bytes == 1
        self._resume_key = ""
        self._upload: Upload | None = None
        self._noted: dict[int, UploadPart] = {}
        self._ends: dict[int, int] = {}  # where parts of the killed attempt ended, as far as known
        self._unnoted: list[UploadPart] = []
        self._is_noting = False
        self._gathered = _Gathered()
        self._parts = 0
        self._sent = 0
        self._in_flight = 0
        self._idle = anyio.Event()
        self._sends: set[anyio.CancelScope] = set()
        self._may_have_begun = False  # an upload, whose token did not get here
        self._may_be_visible = False  # completing it was begun: only its end is certain
        self._is_finished = False
        self._is_broken = False  # a part did not get there
        self._is_aborted = False

    async def begin(self, digests: bytes) -> None:
        """Give the object its id, and tell the catalog. `digests`: of the content that comes first."""
        if self.object_id:
            return
        # Before the await: if the answer is lost, `abort` must know what to forget.
        self.object_id = object_id = new_object_id(time.time_ns() // 1_000_000)
        if self._is_direct:
            await self._index.register_upload(object_id, "", "")
            return
        self._resume_key = blake3(digests).hexdigest()
        pending = await self._index.adopt_or_register(object_id, self._resume_key)
        if pending is None:
            return
        self.object_id = ""
        if not await self._resume(pending):
            self.object_id = object_id
            await self._index.register_upload(object_id, "", self._resume_key)

    async def _resume(self, pending: PendingUpload) -> bool:
        """Continue the object of a killed attempt, if the store still has it."""
        key = object_key(pending.object_id)
        self._upload = await self._store.resume_upload(key, pending.store_token)
        if self._upload is None:
            self._upload = await self._completed(key, pending)
        if self._upload is None:
            await self._store.delete([key])
            await self._index.forget_upload(pending.object_id)
            return False
        self.object_id = pending.object_id
        if pending.token != self._upload.token:
            await self._index.register_upload(self.object_id, self._upload.token, self._resume_key)
        self._noted = {part.index: part for part in pending.parts}
        for part in pending.parts:
            self._ends[part.index] = part.offset + part.length
            self._ends[part.index - 1] = part.offset
        return True

    async def _completed(self, key: str, pending: PendingUpload) -> Upload | None:
        """The object that was completed just before its process died, if it is whole."""
        size = sum(part.length for part in pending.parts)
        if not size or (await self._store.sizes([key])).get(key) != size:
            return None
        self._may_be_visible = True
        return _Completed(key, pending.token, size)

    async def append(
        self,
        views: Sequence[memoryview],
        digests: bytes,
        done: Callable[[], None],
        held_bytes: int = 0,
    ) -> int:
        """Take these bytes; `done` is called once they may be reused. Returns their offset.

        `digests`: of the contents that lie in the views, in order. `held_bytes`: of the buffer that is
        not free before `done`.
        """
        await self.begin(digests)
        offset = self.size
        if not self._is_direct and 2 * sum(map(len, views)) < held_bytes:
            views, done = self._condensed(views, done)
        self._gathered.add(views, digests, done)
        self.size = self._sent + self._gathered.size
        if self._gathered.size >= self._enough():
            await self._send_gathered()
        return offset

    def _condensed(
        self, views: Sequence[memoryview], done: Callable[[], None]
    ) -> tuple[Sequence[memoryview], Callable[[], None]]:
        """A few new files in many batches: a copy in a smaller buffer, if one is to be had at once.

        Until they fill a part they would hold all those batches, and the budget would be empty before
        there is anything to send.
        """
        lease = self._budget.try_take(sum(map(len, views))) if self._budget is not None else None
        if lease is None:
            return views, done
        offset = 0
        for view in views:
            lease.buffer[offset : offset + len(view)] = view
            offset += len(view)
        done()
        return [lease.buffer], lease.release

    def _enough(self) -> int:
        """How many gathered bytes become a part.

        As many as in the killed attempt, where that is known: only an equal part need not be sent again,
        and how it was cut depended on how much memory there was.
        """
        ends, index = self._ends, self._parts
        if index in ends and ends.get(index - 1, self._sent) == self._sent:
            longest = max(part.length for part in self._noted.values())
            wanted = ends[index] - self._sent
            if self._part_bytes <= wanted <= 2 * longest:  # else the content is another one
                return wanted
        is_first = not self._parts and not self._is_direct
        return max(self._part_bytes, MULTIPART_BYTES) if is_first else self._part_bytes

    async def let_go(self) -> bool:
        """Hold no leased buffer any more but those that are being sent: for whoever waits for another one.

        A writer that waited with full hands could wait for writers that wait for it. False if what is
        gathered is too little for a part: then only `finish` lets go of it.
        """
        if self._gathered.size >= self._part_bytes:
            await self._send_gathered()
        return not self._gathered.is_holding

    async def finish(self) -> None:
        """Durable on return; from now on `abort` leaves it alone."""
        if self._upload is None:
            self._may_be_visible = True
            try:
                await self._store.write(object_key(self.object_id), self._gathered.views)
            finally:
                self._gathered.release()
        else:
            if self._gathered.size:
                await self._send_gathered()
            await self._sent_all()
            self._may_be_visible = True
            await self._upload.complete(self.size)
        self._is_finished = True

    async def abort(self) -> None:
        """Forget the object; never raises, never hangs.

        A finished one stays: whether the catalog took it over is not known here. If it did not, the
        object is still recorded as being written, and the collector deletes it. So it is with a request
        to a remote store that was broken off: it may be carried out after whatever is sent behind it.
        """
        self._is_aborted = True
        self._gathered.release()
        if not self.object_id or self._is_finished:
            return
        for scope in self._sends:
            scope.cancel()
        with anyio.move_on_after(ABORT_S, shield=True), contextlib.suppress(AsyncartError):
            await self._sent_all()
            is_over = self._is_direct or not self._may_be_visible
            if self._upload is None and self._may_have_begun:
                self._upload = await self._store.resume_upload(object_key(self.object_id), "")
                is_over = self._upload is not None
            if self._upload is not None:
                await self._upload.abort()
            if self._may_be_visible:
                await self._store.delete([object_key(self.object_id)])
            if is_over:
                await self._index.forget_upload(self.object_id)

    async def _sent_all(self) -> None:
        while self._in_flight:
            self._idle = anyio.Event()
            await self._idle.wait()
        if self._is_broken and not self._is_aborted:
            # What broke it ends the task group around us: that arrives here, and says what happened.
            await anyio.sleep_forever()

    async def _send_gathered(self) -> None:
        if self._upload is None:
            key = object_key(self.object_id)
            if not self._is_direct:
                # Neither the store's answer nor its record may get lost unnoticed.
                self._may_have_begun = True
                await self._index.register_upload(self.object_id, UNKNOWN_TOKEN, self._resume_key)
            self._upload = await self._store.begin_upload(key, self._size_hint)
            if self._upload.token and not self._is_direct:
                await self._index.register_upload(
                    self.object_id, self._upload.token, self._resume_key
                )
        gathered, self._gathered = self._gathered, _Gathered()
        part = UploadPart(self._parts, self._sent, gathered.size, gathered.digest())
        self._parts += 1
        self._sent += gathered.size
        if self._noted.get(part.index) == part:
            gathered.release()
            return
        self._in_flight += 1
        self._group.start_soon(self._send, self._upload, part, gathered)

    async def _send(self, upload: Upload, part: UploadPart, gathered: _Gathered) -> None:
        scope = anyio.CancelScope()
        self._sends.add(scope)
        try:
            if not self._is_aborted:
                with scope:
                    await upload.part(part.index, part.offset, gathered.views)
                    gathered.release()
                    if not self._is_direct:
                        await self._note(part)
        except AsyncartError:
            self._is_broken = True
            if not self._is_aborted:  # else it only says that the upload is gone, as was asked for
                raise
        except BaseException:
            self._is_broken = True
            raise
        finally:
            self._sends.discard(scope)
            gathered.release()
            self._in_flight -= 1
            self._idle.set()

    async def _note(self, part: UploadPart) -> None:
        """Tell the catalog; parts that arrive while it is being told go together in its next transaction."""
        self._unnoted.append(part)
        if self._is_noting:
            return
        self._is_noting = True
        try:
            while self._unnoted:
                parts, self._unnoted = self._unnoted, []
                await self._index.note_parts(self.object_id, parts)
        finally:
            self._is_noting = False
