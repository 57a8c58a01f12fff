"""Columns of bytes: what the records and the index of a manifest are made of.

Numbers are unsigned and little-endian, side by side; strings are in UTF-8, each followed by a NUL.
Counts are compared with lengths before anything is made of them, so that hostile bytes cannot ask for
more memory than they occupy (times a small constant).
"""

from __future__ import annotations

import operator
import struct
from collections.abc import Sequence
from itertools import islice

from asyncart.errors import Corrupt
from asyncart.names import are_safe_entry_paths, is_safe_entry_path


def pack_strings(texts: Sequence[str]) -> bytes:
    return "\0".join([*texts, ""]).encode()


def unpack_numbers(column: bytes, count: int, kind: str) -> tuple[int, ...]:
    """`kind` is "I" for u32 and "Q" for u64."""
    if len(column) != count * (4 if kind == "I" else 8):
        raise Corrupt("a column of numbers has the wrong length")
    return struct.unpack(f"<{count}{kind}", column)


def unpack_slices(column: bytes, count: int, width: int) -> list[bytes]:
    if len(column) != count * width:
        raise Corrupt(f"a column of {width}-byte values has the wrong length")
    return [column[start : start + width] for start in range(0, len(column), width)]


def unpack_strings(column: bytes, count: int) -> list[str]:
    """Packed strings. Counted before they are made, so that no length is believed."""
    if column.count(0) != count or (column and column[-1]):
        raise Corrupt("a column of strings has the wrong number of them")
    return column.decode().split("\0")[:-1]


def is_ascending(values: Sequence[str]) -> bool:
    return all(map(operator.lt, values, islice(values, 1, None)))


def check_paths(paths: Sequence[str]) -> None:
    if not is_ascending(paths):
        raise Corrupt("its paths are not in ascending order, each once")
    if not are_safe_entry_paths(paths):
        unsafe = next(path for path in paths if not is_safe_entry_path(path))
        raise Corrupt(f"it holds the unsafe path {unsafe[:200]!r}")
