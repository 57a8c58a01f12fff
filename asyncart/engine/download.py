"""Bring entries into a folder: what is there already is left, the rest is fetched, verified, written.

Promised: no byte appears under its final name before its digest was checked; memory in use is what the
budget leased; what an earlier attempt brought is not fetched again. A cancelled download leaves no
temporary file; a failed or killed one leaves the verified part of its large files for the next attempt.

Small files come in ranges of up to 16 MiB, large ones in runs of chunks, all through the same slots.
Wrong or missing bytes are asked for once more where they came through a network, then looked for elsewhere
(the catalog may know another copy), then they are an error that names the file.
"""

from __future__ import annotations

import functools
import os
import stat
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Literal, NamedTuple

import anyio
from blake3 import blake3

from ..errors import Corrupt, NotFound
from ..model import Content, Entry, object_key
from ..net.budget import Budget
from ..stores.links import clone_fd
from ..stores.protocol import Store, for_download
from ..threads import check_cancelled
from . import plan
from .fetch import bad_chunk, corrupt, find_damaged, is_right_at_last, relocated
from .scan import file_digest
from .statcache import RACY_NS, Folder, Known, Stamp, StatCache
from .tally import Tally
from .target import Partial, Target
from .tasks import Threads, settled, task_group

REMOTE_SLOTS = 16  # ranges in flight from a remote store: 16 x 16 MiB is the default budget
CHECK_FILES = 256  # between two looks at whether the download was cancelled
LARGE_FILES = 8  # open at once; their ranges share the slots
FLUSH_FILES = 32_768  # digests remembered at a time: some 10 MB

LinkMode = Literal["reflink", "hardlink"]
Relocate = Callable[[str, Entry], Awaitable[Content | None]]


class _Plan(NamedTuple):
    """What is missing of some entries, and how much is there."""

    present_files: int
    present_bytes: int
    missing_bytes: int
    empty: list[Entry]
    ranges: list[plan.Range]
    large: list[Entry]


class Downloader:
    """`relocate(object_id, entry)` marks the object as damaged and says where else the content lies."""

    def __init__(
        self,
        store: Store,
        target: Target,
        cache: StatCache,
        budget: Budget,
        threads: Threads,
        relocate: Relocate,
        tally: Tally,
        link: LinkMode = "reflink",
    ) -> None:
        self._store = store
        self._link = link
        self._target = target
        self._budget = budget
        self._threads = threads
        self._relocate = relocate
        self._tally = tally
        self._wanted_bytes = 0  # so far
        self._present = Present(target, cache)
        slots = threads.count if store.is_local else REMOTE_SLOTS
        self._open_files = anyio.Semaphore(LARGE_FILES)
        self._slots = anyio.Semaphore(max(1, min(slots, budget.limit_bytes // plan.RANGE_BYTES)))

    async def run(self, steps: AsyncIterator[list[Entry]]) -> None:
        """Make all these entries present in the target."""
        try:
            async with task_group() as group:
                async for entries in steps:
                    await self._fetch(await self._threads.run(self._plan, entries), group)
        finally:
            with anyio.CancelScope(shield=True):
                await self._threads.run(self._present.save)
            await self._budget.shrink()

    def _plan(self, entries: Sequence[Entry]) -> _Plan:
        """Look at what is there, and decide how to fetch the rest; milliseconds, so not on the loop."""
        missing = self._present.missing(entries)
        missing_bytes = sum([e.size for e in missing])
        return _Plan(
            len(entries) - len(missing),
            sum([e.size for e in entries]) - missing_bytes,
            missing_bytes,
            [entry for entry in missing if not entry.size],
            plan.ranges(entry for entry in missing if entry.size and not entry.chunks),
            [entry for entry in missing if entry.chunks],
        )

    async def _fetch(self, todo: _Plan, group: anyio.abc.TaskGroup) -> None:
        self._tally.add(todo.present_files, todo.present_bytes, todo.present_bytes, 0)
        self._wanted_bytes += todo.missing_bytes
        self._store = for_download(self._store, self._wanted_bytes)
        if todo.empty:
            await self._threads.run(self._write_empty, todo.empty)
            self._tally.add(len(todo.empty), 0, 0, 0)
        for piece in todo.ranges:
            await self._slots.acquire()
            group.start_soon(self._in_slot, piece)
        for entry in todo.large:
            await self._open_files.acquire()
            group.start_soon(self._fetch_large, entry)

    def _write_empty(self, entries: Sequence[Entry]) -> None:
        for entry in entries:
            self._present.wrote(
                entry, self._target.write_file(entry.path, memoryview(b""), entry.executable)
            )

    # small files

    async def _in_slot(self, piece: plan.Range) -> None:
        try:
            damaged = await self._fetch_range(piece)
        finally:
            self._slots.release()
        for entry in damaged:
            await self._fetch_elsewhere(entry, piece.object_id)

    async def _fetch_elsewhere(self, entry: Entry, object_id: str) -> None:
        """Every copy is tried: each one that is wrong is marked, and not offered again."""
        while True:
            content = await self._relocate(object_id, entry)
            if content is None:
                raise corrupt(entry, object_id)
            (again,) = plan.ranges([relocated(entry, content)])
            if not await self._fetch_range(again):
                return
            object_id = again.object_id

    async def _fetch_range(self, piece: plan.Range) -> list[Entry]:
        """Fetch and write the range's files; returns those whose bytes are wrong or gone.

        They are so in the store itself: neither the cache nor the way here is to blame.
        """
        todo = [piece]

        async def attempt() -> bool:
            nonlocal todo
            damaged = [entry for some in todo for entry in await self._fetch_once(some)]
            todo = plan.ranges(damaged)
            return not damaged

        await is_right_at_last(self._store, piece.object_id, attempt)
        return [item.entry for some in todo for item in some.pieces]

    async def _fetch_once(self, piece: plan.Range) -> list[Entry]:
        lease = await self._budget.take(piece.length)
        try:
            try:
                await self._store.read_into(object_key(piece.object_id), piece.offset, lease.buffer)
            except (NotFound, Corrupt) as error:  # gone, or shorter than the range
                if isinstance(error, NotFound) or len(piece.pieces) == 1:
                    return [item.entry for item in piece.pieces]
                damaged = None
            else:
                damaged = await self._threads.run(self._write_small, piece.pieces, lease.buffer)
        finally:
            lease.release()
        if damaged is None:  # most of them may be whole: the error has to name those that are not
            singly = [plan.ranges([item.entry])[0] for item in piece.pieces]
            return [entry for single in singly for entry in await self._fetch_once(single)]
        good = len(piece.pieces) - len(damaged)
        size = sum(item.length for item in piece.pieces) - sum(entry.size for entry in damaged)
        self._tally.add(good, size, 0, size)
        return damaged

    def _write_small(self, pieces: Sequence[plan.Piece], buffer: memoryview) -> list[Entry]:
        damaged = []
        write, wrote = self._target.write_file, self._present.wrote
        for item in pieces:
            entry = item.entry
            data = buffer[item.start : item.start + item.length]
            if blake3(data).digest() != entry.digest:
                damaged.append(entry)
                continue
            wrote(entry, write(entry.path, data, entry.executable))
        return damaged

    # large files

    async def _fetch_large(self, entry: Entry) -> None:
        try:
            await self._fetch_anywhere(entry)
        finally:
            self._open_files.release()
        self._tally.add(1, 0, 0, 0)

    async def _fetch_anywhere(self, entry: Entry) -> None:
        while damaged := await self._fetch_chunks(entry):
            # All of them are marked before anybody asks where the content lies now.
            contents = [await self._relocate(object_id, entry) for object_id in damaged]
            if contents[-1] is None:
                raise corrupt(entry, damaged[0])
            entry = relocated(entry, contents[-1])

    async def _fetch_chunks(self, entry: Entry) -> list[str]:
        """The objects that gave wrong bytes; if there is none, the file is published."""
        plan.chunk_ranges(entry)  # refuses nonsense before anything is allocated
        if self._link == "hardlink" and await self._share(entry):
            return []
        begin = functools.partial(
            self._threads.run, self._target.begin, entry.path, entry.size, entry.digest.hex()
        )
        begun: list[Partial] = []
        try:
            await settled(begin, begun.append)
            damaged = await self._fill(entry, begun[0])
            if damaged:
                begun[0].keep()
            return damaged
        except Exception:
            for partial in begun:
                partial.keep()
            raise
        except BaseException:
            for partial in begun:
                partial.discard()
            raise

    async def _fill(self, entry: Entry, partial: Partial) -> list[str]:
        wanted = None
        if partial.was_there or await self._threads.run(self._clone, entry, partial):
            wanted = await self._threads.run(_wanted, entry, partial)
            kept = sum(c.length for c, w in zip(entry.chunks, wanted, strict=True) if not w)
            self._tally.add(0, kept, kept, 0)
        damaged: set[str] = set()
        async with task_group() as group:
            for piece in plan.chunk_ranges(entry, wanted):
                await self._slots.acquire()
                group.start_soon(self._fetch_chunk_range, entry, piece, partial, damaged)
        if not damaged:
            st = await self._threads.run(partial.publish, entry.executable)
            self._present.wrote(entry, st)
        return sorted(damaged)

    def _clone(self, entry: Entry, partial: Partial) -> bool:
        """Let the file share the store's blocks, if it is a whole object there; not verified yet."""
        source = self._whole_object(entry)
        if source is None:
            return False
        with open(source, "rb", buffering=0) as file:
            return clone_fd(file.fileno(), partial.fileno())

    async def _share(self, entry: Entry) -> bool:
        """Publish the store's own file under a second name, once it is verified."""
        source = self._whole_object(entry)
        if (
            source is None
            or entry.executable
            or await find_damaged(self._store, self._threads, [entry])
        ):
            return False
        st = await self._threads.run(self._target.link_file, entry.path, source)
        if st is not None:
            self._present.wrote(entry, st)
            self._tally.add(0, entry.size, 0, entry.size)
        return st is not None

    def _whole_object(self, entry: Entry) -> str | None:
        """The local file that holds exactly the entry's bytes, if there is one."""
        if len(entry.extents) != 1 or entry.extents[0].offset:
            return None
        path = self._store.local_path(object_key(entry.extents[0].object_id))
        try:
            return path if path is not None and os.path.getsize(path) == entry.size else None
        except OSError:
            return None

    async def _fetch_chunk_range(
        self, entry: Entry, piece: plan.ChunkRange, partial: Partial, damaged: set[str]
    ) -> None:
        """What is damaged is noted, not raised: the other ranges need not be fetched again then."""
        try:
            async with self._budget.lease(piece.length) as buffer:
                once = functools.partial(self._fetch_chunks_once, entry, piece, partial, buffer)
                is_right = await is_right_at_last(self._store, piece.object_id, once)
        finally:
            self._slots.release()
        if is_right:
            self._tally.add(0, piece.length, 0, piece.length)
        else:
            damaged.add(piece.object_id)

    async def _fetch_chunks_once(
        self, entry: Entry, piece: plan.ChunkRange, partial: Partial, buffer: memoryview
    ) -> bool:
        """False if the bytes are wrong or gone; nothing is written then."""
        try:
            await self._store.read_into(object_key(piece.object_id), piece.offset, buffer)
        except (NotFound, Corrupt):
            return False
        return await self._threads.run(_write_verified, entry, piece, partial, buffer)


def _wanted(entry: Entry, partial: Partial) -> list[bool]:
    """Which chunks the partial file of an earlier attempt does not hold."""
    wanted = []
    offset = 0
    buffer = memoryview(bytearray(max(chunk.length for chunk in entry.chunks)))
    for chunk in entry.chunks:
        data = buffer[: chunk.length]
        partial.read_into(offset, data)
        wanted.append(blake3(data).digest() != chunk.digest)
        offset += chunk.length
        check_cancelled()
    return wanted


def _write_verified(
    entry: Entry, piece: plan.ChunkRange, partial: Partial, data: memoryview
) -> bool:
    if bad_chunk(entry, piece, data) is not None:
        return False
    partial.write(piece.file_offset, data)
    return True


class Present:
    """What of an artifact is in a folder already; remembers the digests of what is written there."""

    def __init__(self, target: Target, cache: StatCache) -> None:
        self._target = target
        self._cache = cache
        self._folder_path = ""
        self._folder: Folder | None = None
        self._news: dict[str, dict[str, Known]] = {}
        self._news_count = 0
        self._devices: dict[str, int] = {}
        self._lock = threading.Lock()  # worker threads note what they wrote

    def missing(self, entries: Sequence[Entry]) -> list[Entry]:
        """Those that are not there with their content (the executable bit is set right on the way)."""
        found = []
        for start in range(0, len(entries), CHECK_FILES):
            check_cancelled()
            found += [e for e in entries[start : start + CHECK_FILES] if not self.holds(e)]
        if self._news_count > FLUSH_FILES:
            self.save()
        return found

    def holds(self, entry: Entry) -> bool:
        """Whether the file is there with the entry's content: by its stat, or else by reading it."""
        st = self._target.stat(entry.path)
        if st is None or not stat.S_ISREG(st.st_mode) or st.st_size != entry.size:
            return False
        head, _, name = entry.path.rpartition("/")
        if self._folder is None or head != self._folder_path:
            self._folder_path, self._folder = head, self._cache.load(self._local(head))
        stamp = Stamp.of(st)
        digest = self._folder.digest(name, st.st_dev, stamp)
        if digest is None:
            before_ns = time.time_ns()
            digest = file_digest(f"{self._local(head)}/{name}")
            if max(stamp.mtime_ns, stamp.ctime_ns) < before_ns - RACY_NS:
                self._note(head, st.st_dev, Known(name, stamp, digest))
        if digest != entry.digest:
            return False
        # Another mode is another file for us: it is written anew, never changed under its reader.
        return bool(st.st_mode & stat.S_IXUSR) == entry.executable

    def wrote(self, entry: Entry, st: os.stat_result) -> None:
        """The file was just published by us; its stat is believed from now on.

        Nobody could have changed it before it had its name, so the racy rule is not needed.
        """
        head, _, name = entry.path.rpartition("/")
        object_id, offset = "", 0
        if len(entry.extents) == 1 and not entry.chunks:
            extent = entry.extents[0]
            object_id, offset = extent.object_id, extent.offset
        known = Known(name, Stamp.of(st), entry.digest, object_id, offset)
        self._note(head, st.st_dev, known)

    def _note(self, head: str, device: int, known: Known) -> None:
        with self._lock:
            self._news.setdefault(head, {})[known.name] = known
            self._devices[head] = device
            self._news_count += 1

    def save(self) -> None:
        """Write the news into the stat cache."""
        with self._lock:
            news, self._news, self._news_count = self._news, {}, 0
        rows = []
        for head, files in news.items():
            folder = self._local(head)
            rows.append((folder, self._cache.merged(folder, self._devices[head], files.values())))
        if rows:
            self._cache.save(rows)

    def _local(self, head: str) -> str:
        return f"{self._target.root}/{head}" if head else self._target.root
