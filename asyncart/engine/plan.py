"""Decide where bytes go and which bytes to fetch.

Everything here is arithmetic on sizes and extents: no await, no clock, no disk. The same inputs give
the same plan on every machine, so a failed transfer can be replayed from its manifest alone. Doing the
work is `upload`'s and `download`'s business.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import msgspec

from ..errors import Corrupt
from ..model import Entry

PACK_FILE_BYTES = 8 << 20  # smaller files share a pack: stores are capped by requests, not by bytes
PACK_BYTES = 64 << 20  # 100,000 files of 10 KB in 16 objects
BATCH_BYTES = 8 << 20  # read, hashed and sent at once; larger gained nothing (warm, 2 cores)
BATCH_FILES = 1024  # one worker-thread hop costs 60 us, one file about 12 us
BLOCK_BYTES = (
    16 << 20
)  # a large file's step: the held-back chunk at its end costs 3-6 % of re-reading
MAX_PARTS = 9_000  # S3 allows 10,000
RANGE_BYTES = 16 << 20
GAP_BYTES = 1 << 20  # reading over a gap of 1 MiB is cheaper than another request


def part_bytes(size: int, smallest: int) -> int:
    """How long the parts of an object of `size` bytes must be at least."""
    return max(smallest, -(-size // MAX_PARTS))


def is_large(size: int) -> bool:
    """Whether a file gets an object of its own, and chunks."""
    return size >= PACK_FILE_BYTES


def by_kind(rows: Sequence[int], sizes: Sequence[int]) -> tuple[list[int], Sequence[int]]:
    """The rows of large files, and those of small ones."""
    large = [row for row in rows if sizes[row] >= PACK_FILE_BYTES]
    if not large:
        return large, rows
    return large, [row for row in rows if sizes[row] < PACK_FILE_BYTES]


def batches(rows: Iterable[int], sizes: Sequence[int]) -> Iterator[list[int]]:
    """Consecutive small files, in batches for one worker thread."""
    batch: list[int] = []
    total = 0
    for row in rows:
        size = sizes[row]
        if batch and (total + size > BATCH_BYTES or len(batch) == BATCH_FILES):
            yield batch
            batch, total = [], 0
        batch.append(row)
        total += size
    if batch:
        yield batch


def groups(
    batched: Sequence[list[int]], workers: int, batch_bytes: int = 0
) -> list[list[list[int]]]:
    """Runs of consecutive batches, each for one worker, so that neighbours end up in one pack.

    A run fills a pack; fewer batches are spread evenly so that no worker is idle. `batch_bytes`: of a
    batch on average, which is less than BATCH_BYTES where files are tiny.
    """
    length = PACK_BYTES // (min(batch_bytes, BATCH_BYTES) or BATCH_BYTES)
    length = min(length, max(1, len(batched) // (2 * workers)))
    return [list(batched[i : i + length]) for i in range(0, len(batched), length)]


class Piece(msgspec.Struct, frozen=True, gc=False):
    """One entry's bytes inside a range: `start` counts from the range's beginning."""

    entry: Entry
    start: int
    length: int


class Range(NamedTuple):
    """One read of one object, and what it brings. Pieces are in order of their start."""

    object_id: str
    offset: int
    length: int
    pieces: list[Piece]


def ranges(entries: Iterable[Entry]) -> list[Range]:
    """Few large reads that bring all these small files (each of one extent)."""
    by_object: dict[str, list[Entry]] = {}
    for entry in entries:
        check_small(entry)
        by_object.setdefault(entry.extents[0].object_id, []).append(entry)
    merged: list[Range] = []
    for object_id, members in by_object.items():
        members.sort(key=_offset)
        spans = [(entry.extents[0].offset, entry.extents[0].length) for entry in members]
        for offset, length, first, last in reads(spans):
            pieces = [
                Piece(entry, at - offset, nbytes)
                for entry, (at, nbytes) in zip(members[first:last], spans[first:last], strict=True)
            ]
            merged.append(Range(object_id, offset, length, pieces))
    return merged


def reads(spans: Sequence[tuple[int, int]]) -> Iterator[tuple[int, int, int, int]]:
    """Few large reads of one object that bring these (offset, length), which are sorted by their offsets:
    each read's offset and length, and the first and last (exclusive) of what it brings."""
    first = start = end = 0
    for index, (offset, length) in enumerate(spans):
        stop = offset + length
        if index > first and (offset > end + GAP_BYTES or max(stop, end) - start > RANGE_BYTES):
            yield start, end - start, first, index
            first = index
        if index == first:
            start, end = offset, stop
        end = max(end, stop)
    if spans:
        yield start, end - start, first, len(spans)


def _offset(entry: Entry) -> int:
    return entry.extents[0].offset


def check_small(entry: Entry) -> None:
    """A file without chunks is verified in one piece, so it must be one extent of a bounded size."""
    if len(entry.extents) != 1 or entry.size > PACK_BYTES:
        raise Corrupt(
            f"{entry.path}: its manifest entry ({entry.size} bytes, {len(entry.extents)} extents, no chunks) cannot be verified; log the content again"
        )


def misfit(entry: Entry) -> Corrupt:
    return Corrupt(
        f"{entry.path}: its extents and chunks do not fit together; log the content again"
    )


class ChunkRange(NamedTuple):
    """One read of one object that brings whole chunks `first`..`last` (exclusive) of a large file."""

    object_id: str
    offset: int
    length: int
    first: int
    last: int
    file_offset: int


def chunk_ranges(entry: Entry, wanted: Sequence[bool] | None = None) -> list[ChunkRange]:
    """Reads of up to 16 MiB that bring the wanted chunks (default: all) of a large file.

    Extents cover runs of whole chunks in order; anything else is Corrupt.
    """
    found: list[ChunkRange] = []
    index = 0
    file_offset = 0
    for extent in entry.extents:
        offset, stop = extent.offset, extent.offset + extent.length
        while offset < stop:
            first, start, start_in_file = index, offset, file_offset
            while index < len(entry.chunks) and offset < stop:
                length = entry.chunks[index].length
                if index > first and offset + length - start > RANGE_BYTES:
                    break
                if wanted is not None and not wanted[index]:
                    break
                offset += length
                file_offset += length
                index += 1
            if offset > stop or (offset < stop and index == len(entry.chunks)):
                raise misfit(entry)
            if index > first:
                found.append(
                    ChunkRange(extent.object_id, start, offset - start, first, index, start_in_file)
                )
            else:
                length = entry.chunks[index].length
                offset += length
                file_offset += length
                index += 1
                if offset > stop:
                    raise misfit(entry)
    if index != len(entry.chunks):
        raise misfit(entry)
    return found


def chunks_between(entry: Entry, offset: int, length: int) -> list[bool]:
    """Which chunks of a large file hold bytes of the range."""
    ends = []
    total = 0
    for chunk in entry.chunks:
        total += chunk.length
        ends.append(total)
    first = bisect.bisect_right(ends, offset)
    last = bisect.bisect_left(ends, offset + length) if length else first - 1
    return [first <= i <= last for i in range(len(ends))]
