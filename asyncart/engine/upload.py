"""Store the files of a listing: read, hash, deduplicate, pack, send. One pass over the bytes.

Promised: when `store` returns, every file of the rows has its digest and its place, every byte is
durable, and the catalog knows both; memory in use is what the budget leased. A failure or cancellation
aborts what was begun; what was finished stays known, so that the next attempt does not send it again.

Small files: each worker reads a batch in a thread, asks which digests are stored, and appends the rest
to its open pack. Large files: a block at a time is read, cut and hashed while the block before it is
still being digested and sent; chunks that are stored already are pointed to. A large file that will not
change, by the user's word, is linked into a local store where that can be, and read there.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from functools import partial

import anyio

from ..model import Chunk, Content, Extent, new_object_id, object_key
from ..net.budget import Budget, Lease
from ..stores.protocol import Store
from . import plan
from .chunking import merge_extents, select_runs
from .index import Index
from .listing import IMMUTABLE, Listing
from .objects import ABORT_S, ObjectWriter, Shared
from .packing import Pack, Spans
from .reading import Batch, Block, Changed, LargeFile, LinkedFile, changed, read_batch, stat_file
from .statcache import Stamp
from .tally import Tally
from .tasks import Threads, task_group

ASK_DIGESTS = 4096  # per question to the catalog
# Threads that read small files at once, while none of these has to wait for a disk. More of them only fight
# for the interpreter's lock: 100,000 files of 10 KB, 2 cores: 1 thread 2.5 s, 2 threads 2.6 s, 3 threads 2.9 s,
# 4 threads 3.2 s, with 0.6 s more CPU and 65 MB more memory than one. The second one is for idle cores.
WARM_READERS = 2
BLOCKS_IN_FLIGHT = 3  # of one large file: one read, one hashed, one sent
WORKER_BYTES = (
    BLOCKS_IN_FLIGHT * plan.BLOCK_BYTES + plan.BATCH_BYTES
)  # the most that one worker leases

Job = int | list[list[int]]  # a large file's row, or batches of small ones


class Uploader:
    def __init__(
        self, store: Store, index: Index, budget: Budget, threads: Threads, tally: Tally
    ) -> None:
        self._store = store
        self._index = index
        self._budget = budget
        self._threads = threads
        self._tally = tally
        # Content that is on its way in an unfinished object of this upload: found again before the
        # catalog can know it. Bounded by the open packs and the open large objects.
        self._claimed: dict[bytes, int] = {}
        self._chunks: dict[bytes, Extent] = {}
        self._followers: list[tuple[int, int]] = []
        self._unfinished: set[str] = set()  # large objects on their way
        self._deferred: list[Content] = []  # contents that point into those of other files
        self._readers = anyio.CapacityLimiter(WARM_READERS)
        self._unlinkable: set[int] = set()  # devices whose files the store could not link

    async def place_known(self, listing: Listing) -> list[int]:
        """Find the stored content of rows whose digest is known; return the rows that must be read."""
        listing.begin_placement()
        rows = await self._threads.run(listing.unplaced)
        for some in _slices(rows, ASK_DIGESTS):
            digests = list({listing.digest(row) for row in some})
            stored = await self._index.stored_contents(digests)
            deduplicated = 0
            for row in some:
                content = stored.get(listing.digest(row))
                if content is not None:
                    listing.place_content(row, content)
                    deduplicated += content.size
            self._tally.add(0, 0, deduplicated, 0)
        return await self._threads.run(listing.unplaced) if rows else rows

    async def store(self, listing: Listing, rows: Sequence[int]) -> None:
        """Read these rows; store what is not stored yet."""
        listing.begin_placement()
        workers = max(1, min(self._threads.count, self._budget.limit_bytes // WORKER_BYTES))
        jobs = await self._threads.run(_jobs, listing, rows, workers)
        try:
            async with task_group() as group:
                for _ in range(workers):
                    group.start_soon(self._work, listing, jobs)
        finally:
            await self._budget.shrink()
        deferred, self._deferred = self._deferred, []
        if deferred:
            await self._index.add_stored([], deferred)
        for row, leader in self._followers:
            _place_like(listing, row, leader)
        self._followers.clear()

    async def _work(self, listing: Listing, jobs: Iterator[Job]) -> None:
        async with task_group() as group:
            pack = _Pack(self, listing, group)
            try:
                for job in jobs:
                    if isinstance(job, int):
                        await self._store_large(listing, job)
                    else:
                        for batch in job:
                            await self._store_batch(listing, batch, pack)
                        if self._store.part_bytes > 1:
                            # What is in a pack depends on the files then, and not on which worker was
                            # faster: the next attempt makes the same one, and continues it.
                            await pack.seal()
                await pack.seal()
            except BaseException:
                await pack.abort()
                raise

    async def lease(self, nbytes: int, let_go: LetGo) -> Lease:
        """A buffer; `let_go` is called before it is waited for: nobody waits with full hands."""
        lease = self._budget.try_take(nbytes)
        if lease is None:
            await let_go()
            lease = await self._budget.take(nbytes)
        return lease

    # small files

    async def _store_batch(self, listing: Listing, rows: Sequence[int], pack: _Pack) -> None:
        sizes = [listing.sizes[row] for row in rows]
        async with self._readers:
            lease = await self.lease(max(sum(sizes), 1), pack.let_go)
            try:
                read = await self._threads.run(read_batch, listing, rows, lease.buffer)
            except BaseException:
                lease.release()
                raise
        self._readers.total_tokens = self._threads.count if read.is_cold else WARM_READERS
        try:
            batch = _Batch(listing, rows, sizes, lease, read)
            missing = await self._missing(listing, batch)
            written = await pack.append(batch, missing, lease.release)
        except BaseException:
            lease.release()
            raise
        self._tally.add(len(rows), batch.total, batch.total - written, written)

    async def _missing(self, listing: Listing, batch: _Batch) -> list[int]:
        """Positions in the batch of those files that this worker has to store."""
        mine: dict[bytes, int] = {}
        claim = self._claimed.setdefault
        for position, (row, digest, size) in enumerate(
            zip(batch.rows, batch.digests, batch.sizes, strict=True)
        ):
            if not size:
                continue
            leader = claim(digest, row)
            if leader == row:
                mine[digest] = position
            else:
                self._followers.append((row, leader))
        stored = await self._index.stored_contents(list(mine))
        for digest, content in stored.items():
            listing.place_content(batch.rows[mine.pop(digest)], content)
            del self._claimed[digest]
        return list(mine.values())

    def release_claims(self, digests: Sequence[bytes]) -> None:
        for digest in digests:
            self._claimed.pop(digest, None)

    # large files

    async def add_content(
        self, objects: Sequence[tuple[str, int, Sequence[tuple[Chunk, int]]]], content: Content
    ) -> None:
        """Tell the catalog; of a content that waits for another file's object, at the end."""
        finished = {object_id for object_id, _, _ in objects}
        named = {extent.object_id for extent in content.extents}
        is_waiting = bool(named & self._unfinished - finished)
        if is_waiting:
            self._deferred.append(content)
        await self._index.add_stored(objects, [] if is_waiting else [content])
        self._unfinished -= finished

    async def _store_large(self, listing: Listing, row: int) -> None:
        try:
            content = await self._store_large_once(listing, row)
        except Changed:
            content = await self._store_large_once(listing, row)
        listing.place_content(row, content)

    async def _store_large_once(self, listing: Listing, row: int) -> Content:
        content = None
        if listing.flags[row] & IMMUTABLE and self._store.is_local:
            content = await self._link_large(listing, row)
        return content or await self._write_large(listing, row)

    async def _link_large(self, listing: Listing, row: int) -> Content | None:
        """Have the store take over the file, then hash what it holds; None where it cannot."""
        local = listing.local_path(row)
        st = await self._threads.run(stat_file, local)
        if st.st_dev in self._unlinkable:
            return None
        object_id = new_object_id(time.time_ns() // 1_000_000)
        key = object_key(object_id)
        await self._index.register_upload(object_id, "", "")
        is_needed = False
        try:
            if not await self._store.adopt(key, local):
                self._unlinkable.add(st.st_dev)
                return None
            path = self._store.local_path(key) or local
            file = await self._threads.run(LinkedFile, path, local)
            try:
                content, placed = await _Linked(self, file, object_id).run()
            finally:
                file.close()
            after = Stamp.of(await self._threads.run(stat_file, local))
            # A new name changes the ctime, and whoever else logs the same file gives it one, too.
            if not after.has_same_content_as(Stamp.of(st)) or after.size != content.size:
                raise changed(local)
            stored = (await self._index.stored_contents([content.digest])).get(content.digest)
            is_needed = stored is None
        finally:
            if not is_needed:
                with anyio.move_on_after(ABORT_S, shield=True):
                    await self._store.delete([key])
                    await self._index.forget_upload(object_id)
        if stored is None:
            # If this fails, the object is garbage that the catalog knows of.
            await self._index.add_stored([(object_id, content.size, placed)], [content])
        listing.restamp(row, Stamp.of(await self._threads.run(stat_file, local)))
        listing.set_digest(row, content.digest)
        return stored or content

    async def _write_large(self, listing: Listing, row: int) -> Content:
        file = await self._threads.run(LargeFile, listing.local_path(row))
        try:
            listing.restamp(row, file.stamp)
            large = _Large(self, file)
            content = await large.run()
        finally:
            file.close()
        listing.set_digest(row, content.digest)
        return content


class _Batch:
    """Small files in one buffer; where each one's bytes lie."""

    def __init__(
        self,
        listing: Listing,
        rows: Sequence[int],
        scanned: Sequence[int],
        lease: Lease,
        read: Batch,
    ) -> None:
        """`scanned`: the sizes with which the files were laid into the buffer."""
        self.rows = rows
        self.digests = read.digests
        self._starts = list(itertools.accumulate(scanned, initial=0))
        self._buffer = lease.buffer
        self.held_bytes = len(lease.buffer)
        self._moved = {item.row: item.data for item in read.moved}
        self.sizes = [listing.sizes[row] for row in rows] if read.moved else scanned
        self.total = sum(self.sizes)

    def views(self, positions: Sequence[int]) -> list[memoryview]:
        """Their bytes, in the order of `laid_out`."""
        if len(positions) == len(self.rows) and not self._moved:
            return [self._buffer[: self.total]]
        spans = Spans()
        apart = []
        for position in positions:
            data = self._moved.get(self.rows[position])
            if data is None:
                spans.add(self._starts[position], self.sizes[position])
            else:
                apart.append(memoryview(data))
        return spans.views(self._buffer) + apart

    def laid_out(self, positions: Sequence[int]) -> Sequence[int]:
        """The positions in the order of their bytes: files that moved come last."""
        if not self._moved:
            return positions
        return sorted(positions, key=lambda position: self.rows[position] in self._moved)


class _Pack(Pack):
    """A pack of small files. Sealed: from then on the catalog offers its contents."""

    def __init__(self, uploader: Uploader, listing: Listing, group: anyio.abc.TaskGroup) -> None:
        super().__init__(uploader._store, uploader._index, group, uploader._budget)
        self._uploader = uploader
        self._listing = listing
        # columns of the files in it, in order
        self._digests: list[bytes] = []
        self._sizes: list[int] = []

    async def append(
        self, batch: _Batch, positions: Sequence[int], done: Callable[[], None]
    ) -> int:
        """Store these files of the batch; returns how many bytes that were. `done` is called once the
        batch's buffer may be reused."""
        if not positions:
            done()
            return 0
        positions = batch.laid_out(positions)
        digests = [batch.digests[position] for position in positions]
        sizes = [batch.sizes[position] for position in positions]
        object_id, offset = await self.add(batch.views(positions), digests, done, batch.held_bytes)
        self._listing.place_run(
            [batch.rows[position] for position in positions],
            object_id,
            list(itertools.accumulate(sizes[:-1], initial=offset)),
        )
        self._digests += digests
        self._sizes += sizes
        return sum(sizes)

    async def _sealed(self, object_id: str, size: int) -> None:
        contents = side_by_side(object_id, self._digests, self._sizes)
        await self._index.add_stored([(object_id, size, ())], contents)
        self._uploader.release_claims(self._digests)
        self._digests, self._sizes = [], []


# What is done with a block, its buffer, and what to call once that may be reused; returns how many bytes
# of it were stored.
Take = Callable[[Block, memoryview, Callable[[], None]], Awaitable[int]]
LetGo = Callable[[], Awaitable[None]]  # give back every buffer that waits for more of its kind


class _Large:
    """One large file on its way: blocks are read in order, hashed in order, and sent side by side."""

    def __init__(self, uploader: Uploader, file: LargeFile) -> None:
        self._uploader = uploader
        self._file = file
        self._chunks: list[Chunk] = []
        self._extents: list[Extent] = []
        self._objects: list[tuple[str, int, list[tuple[Chunk, int]]]] = []  # finished ones
        self._written: list[tuple[Chunk, int]] = []  # to the open one
        self._in_order = anyio.Lock()
        self._slots = anyio.Semaphore(BLOCKS_IN_FLIGHT)
        self._after_stored_run = False

    async def run(self) -> Content:
        uploader, file = self._uploader, self._file
        async with task_group() as group:
            self._writer = self._new_writer(group)
            try:
                digest = await self._read(self._write_missing, partial(self._let_go, group))
                await self._finish_object()
                content = Content(
                    digest, file.stamp.size, merge_extents(self._extents), tuple(self._chunks)
                )
                await uploader.add_content(self._objects, content)
            except BaseException:
                await self._writer.abort()
                raise
            finally:
                for written in (self._written, *(placed for _, _, placed in self._objects)):
                    for chunk, _ in written:
                        uploader._chunks.pop(chunk.digest, None)
        uploader._tally.add(1, 0, 0, 0)
        return content

    def _new_writer(self, group: anyio.abc.TaskGroup) -> ObjectWriter:
        uploader = self._uploader
        return ObjectWriter(
            uploader._store,
            uploader._index,
            group,
            size_hint=self._file.stamp.size,
            budget=uploader._budget,
        )

    async def _let_go(self, group: anyio.abc.TaskGroup) -> None:
        """What is too little for a part is finished as an object: the rest of the file begins another."""
        if not await self._writer.let_go():
            await self._finish_object()
            self._writer = self._new_writer(group)

    async def _finish_object(self) -> None:
        writer = self._writer
        if writer.size:
            await writer.finish()
            self._objects.append((writer.object_id, writer.size, self._written))
            self._written = []

    async def _read(self, take: Take, let_go: LetGo) -> bytes:
        """Hand every block to `take`; the digest of them all."""
        async with task_group() as hashing:
            is_last = False
            while not is_last:
                is_last = await self._step(take, let_go, hashing)
        return await self._uploader._threads.run(self._file.finish)

    async def _step(self, take: Take, let_go: LetGo, hashing: anyio.abc.TaskGroup) -> bool:
        uploader = self._uploader
        await self._slots.acquire()
        lease = await uploader.lease(plan.BLOCK_BYTES, let_go)
        share = Shared(lease.release)
        hashed, taken = share.user(), share.user()
        try:
            block = await uploader._threads.run(self._file.read_block, lease.buffer)
        except BaseException:
            lease.release()
            raise
        hashing.start_soon(self._hash, lease.buffer[: block.length], hashed)
        try:
            moved = await take(block, lease.buffer, taken)
        except BaseException:
            taken()
            raise
        uploader._tally.add(0, block.length, block.length - moved, moved)
        return block.is_last

    async def _hash(self, view: memoryview, done: Callable[[], None]) -> None:
        try:
            async with self._in_order:
                await self._uploader._threads.run(self._file.hash_block, view)
        finally:
            view.release()
            done()
        self._slots.release()

    async def _write_missing(
        self, block: Block, buffer: memoryview, done: Callable[[], None]
    ) -> int:
        """Point to the chunks that are worth it, write the others; returns how many bytes those were."""
        writer = self._writer
        claimed = self._uploader._chunks
        asked = [digest for digest in block.digests if digest not in claimed]
        stored = await self._uploader._index.stored_chunks(asked)
        known = [claimed.get(digest) or stored.get(digest) for digest in block.digests]
        pointed = select_runs(list(zip(block.lengths, known, strict=True)), self._after_stored_run)
        written = [
            d for d, is_pointed in zip(block.digests, pointed, strict=True) if not is_pointed
        ]
        if written:
            await writer.begin(b"".join(written))
            self._uploader._unfinished.add(writer.object_id)
        spans = Spans()
        offset, start = writer.size, 0
        for length, digest, extent, is_pointed in zip(
            block.lengths, block.digests, known, pointed, strict=True
        ):
            chunk = Chunk(digest, length)
            self._chunks.append(chunk)
            if not is_pointed or extent is None:
                extent = Extent(writer.object_id, offset, length)
                self._written.append((chunk, offset))
                claimed.setdefault(digest, extent)
                spans.add(start, length)
                offset += length
            self._extents.append(extent)
            start += length
        self._after_stored_run = bool(pointed and pointed[-1])
        moved = offset - writer.size
        if moved:
            await writer.append(spans.views(buffer), b"".join(written), done, len(buffer))
        else:
            done()
        return moved


class _Linked:
    """A large file that is an object already: it is only read. Where its chunks lie is for later files."""

    def __init__(self, uploader: Uploader, file: LinkedFile, object_id: str) -> None:
        self._uploader = uploader
        self._file = file
        self._object_id = object_id
        self._placed: list[tuple[Chunk, int]] = []
        self._offset = 0

    async def run(self) -> tuple[Content, list[tuple[Chunk, int]]]:
        digest = await _Large(self._uploader, self._file)._read(self._note, _holds_nothing)
        self._uploader._tally.add(1, 0, 0, 0)
        size = self._offset
        extents = (Extent(self._object_id, 0, size),)
        chunks = tuple(chunk for chunk, _ in self._placed)
        return Content(digest, size, extents, chunks), self._placed

    async def _note(self, block: Block, buffer: memoryview, done: Callable[[], None]) -> int:
        for length, digest in zip(block.lengths, block.digests, strict=True):
            self._placed.append((Chunk(digest, length), self._offset))
            self._offset += length
        done()
        return 0


async def _holds_nothing() -> None:
    """Nothing of a file that is only hashed waits to be sent."""


def side_by_side(object_id: str, digests: Sequence[bytes], sizes: Sequence[int]) -> list[Content]:
    """The contents that fill an object from its first byte on. All in C: 0.2 us each, in a loop 0.9."""
    extents = map(
        Extent, itertools.repeat(object_id), itertools.accumulate(sizes, initial=0), sizes
    )
    return list(map(Content, digests, sizes, zip(extents)))


def _jobs(listing: Listing, rows: Sequence[int], workers: int) -> Iterator[Job]:
    """Large files first (the longest work), then small ones in path order."""
    sizes = listing.sizes
    large, small = plan.by_kind(rows, sizes)
    large.sort(key=sizes.__getitem__, reverse=True)
    batched = list(plan.batches(small, sizes))
    batch_bytes = sum([sizes[row] for row in small]) // max(1, len(batched))
    return iter([*large, *plan.groups(batched, workers, batch_bytes)])


def _place_like(listing: Listing, row: int, leader: int) -> None:
    if leader in listing.contents:
        listing.place_content(row, listing.contents[leader])
    else:
        listing.place(row, listing.object_ids[listing.object_of[leader]], listing.offsets[leader])


def _slices(rows: Sequence[int], length: int) -> Iterator[Sequence[int]]:
    return (rows[i : i + length] for i in range(0, len(rows), length))
