"""What stores on a network have in common: how bytes get there, and what can be told from an answer."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence

from asyncart.errors import AsyncartError, Corrupt
from asyncart.net.pace import Rate
from asyncart.net.plane import AttemptError
from asyncart.net.retry import Transfer
from asyncart.net.stream_plane import StreamPlane

_TOTAL = re.compile(r"bytes\s+(?:\d+-\d+|\*)/(\d+)\s*\Z", re.IGNORECASE)


def own_transfer(stall_timeout_s: float, limit_rate_bytes: int) -> Transfer:
    """For a store that shares none with others. `limit_rate_bytes`: per second, 0 is no limit."""
    rate = Rate(limit_rate_bytes) if limit_rate_bytes else None
    return Transfer(StreamPlane(stall_s=stall_timeout_s), rate=rate)


def whole_size(headers: Mapping[str, str]) -> int | None:
    """The size of the object of which a range was asked, in bytes, if the answer tells it."""
    total = _TOTAL.match(headers.get("content-range", ""))
    return int(total[1]) if total else None


def too_short(error: AsyncartError, what: str, offset: int, length: int) -> Corrupt | None:
    """The same failure, if it came of an object that ends before the range that was wanted."""
    if not length or not isinstance(error.__cause__, AttemptError):
        return None
    size = whole_size(error.__cause__.headers)
    if size is None or size >= offset + length:
        return None
    return Corrupt(f"{what}: ends at {size}: {length} bytes wanted from {offset} on")


def is_etag_of(etag: str, size: int, buffers: Sequence[memoryview]) -> bool:
    """Whether it is certain that a part of that size and ETag has these bytes: where the ETag is their MD5."""
    if size != sum(buffer.nbytes for buffer in buffers):
        return False
    md5 = hashlib.md5(usedforsecurity=False)
    for buffer in buffers:
        md5.update(buffer)
    return etag.strip('"') == md5.hexdigest()
