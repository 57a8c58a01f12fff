"""One cached object in one file: a header that says which ranges are there, then the bytes.

    0        magic, 32 bytes
    32       records, 20 bytes each: start, stop (of the range, in the object), CRC32 of the two
    16384    the object's bytes, sparse: byte N of the object is at 16384 + N

A range is recorded after its bytes were written, so what a killed process leaves are bytes that nobody
reads, never a record of bytes that are not there. Each record is true on its own: a header torn between
two versions of it says less than it could, or fails a checksum, but says nothing wrong. Both parts are in
one file, so that removing it is atomic, and whoever still has it open goes on with the old one.

After a power cut the system may have kept the header and lost the bytes: like any other damage of the
disk that is found by the reader, who verifies every byte.
"""

from __future__ import annotations

import bisect
import errno
import os
import struct
import zlib
from collections.abc import Sequence
from typing import TypeAlias

from .. import disk

MAGIC = b"asyncart cached object 1\n".ljust(32, b"\0")
HEADER_BYTES = 16 << 10  # a multiple of the page, so that the bytes can be shared with other files
RECORD = struct.Struct("<QQI")
MAX_RECORDS = (HEADER_BYTES - len(MAGIC)) // RECORD.size  # 817; neighbours are merged into one

Span: TypeAlias = tuple[int, int]  # start and stop in the object


def merged(spans: Sequence[Span]) -> list[Span]:
    """The same bytes as disjoint spans in order; those that touch become one."""
    found: list[Span] = []
    for start, stop in sorted(spans):
        if found and start <= found[-1][1]:
            found[-1] = found[-1][0], max(found[-1][1], stop)
        else:
            found.append((start, stop))
    return found


def missing(spans: Sequence[Span], start: int, stop: int) -> Span | None:
    """From the first to the last byte between `start` and `stop` that no span has; None if all are there.

    One span, though there may be present bytes inside: one request costs less than two.
    """
    first = bisect.bisect_right(spans, start, key=_start) - 1
    if first >= 0 and spans[first][1] > start:
        start = spans[first][1]
    last = bisect.bisect_left(spans, stop, key=_start) - 1
    if last >= 0 and spans[last][1] >= stop:
        stop = spans[last][0]
    return (start, stop) if start < stop else None


def _start(span: Span) -> int:
    return span[0]


def read_spans(fd: int) -> list[Span]:
    """What is there, merged; nothing for a file that is not in this format."""
    header = bytearray(HEADER_BYTES)
    got = disk.read_at(fd, 0, memoryview(header))
    if got < HEADER_BYTES or not header.startswith(MAGIC):
        return []
    spans = []
    area = memoryview(header)[len(MAGIC) : len(MAGIC) + MAX_RECORDS * RECORD.size]
    for start, stop, checksum in RECORD.iter_unpack(area):
        if not stop:
            break
        if start < stop and checksum == _checksum(start, stop):
            spans.append((start, stop))
    return merged(spans)


def record(fd: int, span: Span) -> None:
    """Say that the bytes of the span are there. One writer at a time (the caller holds a lock)."""
    spans = merged([*read_spans(fd), span])
    if len(spans) > MAX_RECORDS:
        # Hundreds of single files from one pack: the smallest are forgotten, and fetched again.
        spans = sorted(sorted(spans, key=_length)[-MAX_RECORDS:])
    records = b"".join(RECORD.pack(start, stop, _checksum(start, stop)) for start, stop in spans)
    put(fd, (MAGIC + records).ljust(HEADER_BYTES, b"\0"))


def put(fd: int, data: bytes) -> None:
    """Write a few bytes at the file's beginning; the system may take its time to bring them to the disk."""
    if hasattr(os, "pwrite"):
        written = os.pwrite(fd, data, 0)
    else:
        os.lseek(fd, 0, os.SEEK_SET)
        written = os.write(fd, data)
    if written < len(data):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def read(fd: int, start: int, buffer: memoryview) -> bool:
    """Fill the buffer with the object's bytes from `start` on; False if the file ends before."""
    return disk.read_at(fd, HEADER_BYTES + start, buffer) == buffer.nbytes


def write(fd: int, start: int, data: memoryview) -> None:
    """Put bytes of the object in their place; nobody reads them before they are recorded."""
    disk.write_at(fd, HEADER_BYTES + start, [data])


def occupied_bytes(facts: os.stat_result) -> int:
    """What the file takes from the disk: holes take nothing."""
    blocks: int | None = getattr(facts, "st_blocks", None)  # Windows does not say
    return facts.st_size if blocks is None else blocks * 512


def _length(span: Span) -> int:
    return span[1] - span[0]


def _checksum(start: int, stop: int) -> int:
    return zlib.crc32(struct.pack("<QQ", start, stop))
