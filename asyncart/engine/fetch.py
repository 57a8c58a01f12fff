"""Read verified bytes of single entries: what `open`, `cat` and integrations use.

Nothing is handed out before its digest was checked: a small file is read whole, of a large one the
chunks that hold the range.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

from blake3 import blake3

from ..errors import Corrupt, Invalid
from ..model import Entry, object_key
from ..stores.protocol import Store
from . import plan
from .tasks import Threads


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
        data = bytearray(extent.length)
        await store.read_into(object_key(extent.object_id), extent.offset, memoryview(data))
        if blake3(data).digest() != entry.digest:
            raise corrupt(entry, extent.object_id)
        yield bytes(memoryview(data)[start:stop])
        return
    wanted = plan.chunks_between(entry, start, stop - start)
    for piece in plan.chunk_ranges(entry, wanted):
        data = bytearray(piece.length)
        await store.read_into(object_key(piece.object_id), piece.offset, memoryview(data))
        if await threads.run(bad_chunk, entry, piece, memoryview(data)) is not None:
            raise corrupt(entry, piece.object_id)
        low = max(0, start - piece.file_offset)
        high = min(piece.length, stop - piece.file_offset)
        yield bytes(memoryview(data)[low:high])


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


def corrupt(entry: Entry, object_id: str) -> Damaged:
    return Damaged(
        f"{entry.path}: the stored bytes (object {object_id}) are not those that were logged; log the same content again to heal it",
        object_id,
    )
