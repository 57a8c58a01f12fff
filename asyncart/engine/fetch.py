"""Read verified bytes of single entries: what `open`, `cat` and integrations use.

Nothing is handed out before its digest was checked: a small file is read whole, of a large one the
chunks that hold the range. Wrong bytes from a remote store are read once more before they count as the
object's fault: a bit that flipped on the way is survived, and told in the log.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from functools import partial

import msgspec
from blake3 import blake3

from ..errors import Corrupt, Invalid, NotFound
from ..model import Content, Entry, object_key
from ..stores.protocol import Store, is_worth_rereading
from . import plan
from .tasks import Threads

logger = logging.getLogger("asyncart.transfer")


async def is_right_at_last(
    store: Store, object_id: str, attempt: Callable[[], Awaitable[bool]]
) -> bool:
    """Whether the object's bytes are right, be it after reading them again.

    `attempt` reads and verifies them. It is called again as long as that makes sense.
    """
    reads = 1
    while not await attempt():
        if not await is_worth_rereading(store, object_key(object_id), reads):
            return False
        reads += 1
    if reads > 1:
        logger.warning(
            "object %s: wrong bytes arrived; read again, they are right: a cached copy, or the way here, was to blame",
            object_id,
        )
    return True


async def read_range(
    store: Store, threads: Threads, entry: Entry, offset: int = 0, length: int | None = None
) -> bytes:
    """`length` bytes of the entry (default: to its end) from `offset`, verified."""
    if offset < 0 or (length is not None and length < 0):
        raise Invalid(f"{entry.path}: offset {offset} and length {length} must not be negative")
    stop = entry.size if length is None else min(entry.size, offset + length)
    if offset >= stop:
        return b""
    return b"".join([piece async for piece in pieces(store, threads, entry, offset, stop)])


async def pieces(
    store: Store, threads: Threads, entry: Entry, start: int, stop: int
) -> AsyncIterator[bytes]:
    """The bytes from `start` to `stop`, verified, at most 16 MiB at a time."""
    if not entry.size:
        return
    if not entry.chunks:
        plan.check_small(entry)
        extent = entry.extents[0]
        where = extent.object_id, extent.offset, extent.length
        data = await _verified(store, threads, entry, *where, partial(_is_whole, entry))
        yield bytes(data[start:stop])
        return
    # 29 ms for a file of 100 GiB, which has 80,000 chunks: not on the loop.
    for piece in await threads.run(_ranges_between, entry, start, stop):
        where = piece.object_id, piece.offset, piece.length
        data = await _verified(store, threads, entry, *where, partial(_are_chunks, entry, piece))
        low = max(0, start - piece.file_offset)
        high = min(piece.length, stop - piece.file_offset)
        yield bytes(data[low:high])


def _ranges_between(entry: Entry, start: int, stop: int) -> list[plan.ChunkRange]:
    return plan.chunk_ranges(entry, plan.chunks_between(entry, start, stop - start))


async def find_damaged(
    store: Store, threads: Threads, entries: Sequence[Entry]
) -> list[tuple[Entry, str]]:
    """Read every stored byte of these entries; those that are wrong or gone, with the object's id."""
    found: list[tuple[Entry, str]] = []
    for piece in plan.ranges(entry for entry in entries if entry.size and not entry.chunks):
        bad = await _damaged_in(store, threads, piece)
        found += [(entry, piece.object_id) for entry in bad]
    for entry in entries:
        if entry.chunks:
            try:
                async for _ in pieces(store, threads, entry, 0, entry.size):
                    pass
            except Damaged as error:
                found.append((entry, error.object_id))
    return found


async def _damaged_in(store: Store, threads: Threads, piece: plan.Range) -> list[Entry]:
    todo = [piece]

    async def attempt() -> bool:
        nonlocal todo
        bad = [entry for some in todo for entry in await _damaged_once(store, threads, some)]
        todo = plan.ranges(bad)
        return not bad

    await is_right_at_last(store, piece.object_id, attempt)
    return [item.entry for some in todo for item in some.pieces]


async def _damaged_once(store: Store, threads: Threads, piece: plan.Range) -> list[Entry]:
    entries = [item.entry for item in piece.pieces]
    try:
        data = await _read(store, entries[0], piece.object_id, piece.offset, piece.length)
    except Damaged as error:
        if len(entries) == 1 or isinstance(error.__cause__, NotFound):
            return entries
        # The object is shorter than the range: most of the files in it may be whole.
        singly = [plan.ranges([entry])[0] for entry in entries]
        return [bad for single in singly for bad in await _damaged_once(store, threads, single)]
    return await threads.run(_bad_pieces, piece, data)


def _bad_pieces(piece: plan.Range, data: memoryview) -> list[Entry]:
    return [
        item.entry
        for item in piece.pieces
        if blake3(data[item.start : item.start + item.length]).digest() != item.entry.digest
    ]


async def _verified(
    store: Store,
    threads: Threads,
    entry: Entry,
    object_id: str,
    offset: int,
    length: int,
    is_right: Callable[[memoryview], bool],
) -> memoryview:
    """Bytes that passed the test."""
    data = memoryview(b"")

    async def attempt() -> bool:
        nonlocal data
        data = await _read(store, entry, object_id, offset, length)
        return await threads.run(is_right, data)

    if not await is_right_at_last(store, object_id, attempt):
        raise corrupt(entry, object_id)
    return data


def _is_whole(entry: Entry, data: memoryview) -> bool:
    return blake3(data).digest() == entry.digest


def _are_chunks(entry: Entry, piece: plan.ChunkRange, data: memoryview) -> bool:
    return bad_chunk(entry, piece, data) is None


async def _read(store: Store, entry: Entry, object_id: str, offset: int, length: int) -> memoryview:
    data = memoryview(bytearray(length))
    try:
        await store.read_into(object_key(object_id), offset, data)
    except (NotFound, Corrupt) as error:
        raise corrupt(entry, object_id) from error
    return data


def bad_chunk(entry: Entry, piece: plan.ChunkRange, data: memoryview) -> int | None:
    """The first chunk of the range whose bytes are wrong, or None."""
    offset = 0
    for index in range(piece.first, piece.last):
        chunk = entry.chunks[index]
        if blake3(data[offset : offset + chunk.length]).digest() != chunk.digest:
            return index
        offset += chunk.length
    return None


class Damaged(Corrupt):
    """Corrupt, and which object it was: the one error that looking elsewhere may mend."""

    def __init__(self, message: str, object_id: str) -> None:
        super().__init__(message)
        self.object_id = object_id


def relocated(entry: Entry, content: Content) -> Entry:
    """The same entry, with its bytes somewhere else."""
    return msgspec.structs.replace(entry, extents=content.extents, chunks=content.chunks)


def corrupt(entry: Entry, object_id: str) -> Damaged:
    return Damaged(
        f"{entry.path}: the stored bytes (object {object_id}) are not those that were logged; log the same content again to heal it",
        object_id,
    )
