"""Cuts are frozen: golden vectors, and a second implementation written from the module's docstring."""

from __future__ import annotations

import hashlib
import json
import struct
from pathlib import Path
from typing import Any

import pytest
from blake3 import blake3
from pyfastcdc import FastCDC

from asyncart.engine import chunking
from asyncart.engine.chunking import (
    AVERAGE_BYTES,
    MASK_EASY,
    MASK_HARD,
    MAX_BYTES,
    MIN_BYTES,
    cut,
    hash_chunks,
    merge_extents,
    select_runs,
)
from asyncart.errors import Invalid
from asyncart.model import Extent

MIB = 1 << 20
GOLDEN: dict[str, Any] = json.loads(
    (Path(__file__).parents[1] / "golden" / "chunking1.json").read_text()
)
GEAR = [int.from_bytes(hashlib.md5(bytes([b]) * 64).digest()[:8], "big") for b in range(256)]


def golden_input(name: str, size: int) -> bytes:
    """Deterministic bytes: the output of BLAKE3 for the name, of that length, and variations of it."""
    data = bytearray(blake3(name.encode()).digest(length=size))
    if name == "zeros":
        data[:] = bytes(size)
    elif name == "hole":
        data[size // 4 : size * 3 // 4] = bytes(size * 3 // 4 - size // 4)
    elif name == "text":
        data = data.translate(bytes(b"abcdefgh \n"[b % 10] for b in range(256)))
    return bytes(data)


def reference_cut(
    data: bytes, minimum: int, average: int, maximum: int, hard: int, easy: int
) -> list[int]:
    """The lengths of all chunks, by the words of the docstring of `engine.chunking`."""
    lengths = []
    start = 0
    while start < len(data):
        left = len(data) - start
        length = min(left, maximum)
        if left > minimum:
            rolling = 0
            for p in range(minimum, length // 2 * 2):
                rolling = (rolling * 2 + GEAR[data[start + p]]) & 0xFFFFFFFFFFFFFFFF
                if not rolling & (hard if p < average else easy):
                    length = p
                    break
        lengths.append(length)
        start += length
    return lengths


def frozen_reference(data: bytes) -> list[int]:
    return reference_cut(data, MIN_BYTES, AVERAGE_BYTES, MAX_BYTES, MASK_HARD, MASK_EASY)


# --- cut -------------------------------------------------------------------------------------------


def test_parameters_are_frozen() -> None:
    assert (MIN_BYTES, AVERAGE_BYTES, MAX_BYTES) == (262_144, 1_048_576, 4_194_304)
    assert (MASK_HARD, MASK_EASY) == (0x0000D91767537000, 0x0000D91707537000)


def test_gear_table_is_frozen() -> None:
    """Also the library's own table, where it can be seen."""
    from pyfastcdc.py.constants import GEAR as LIBRARY_GEAR

    assert blake3(struct.pack("<256Q", *GEAR)).hexdigest() == GOLDEN["gear_blake3"]
    assert list(LIBRARY_GEAR) == GEAR


@pytest.mark.parametrize("case", GOLDEN["cuts"], ids=lambda case: f"{case['input']}-{case['size']}")
def test_cuts_are_frozen(case: dict[str, Any]) -> None:
    data = golden_input(case["input"], case["size"])
    assert cut(memoryview(data), is_last=True) == case["lengths"]


@pytest.mark.parametrize(
    ("name", "size"),
    [("random", 5 * MIB + 1), ("hole", 6 * MIB), ("text", 4 * MIB), ("zeros", MIB + 3)],
)
def test_the_docstring_describes_the_library(name: str, size: int) -> None:
    data = golden_input(name, size)
    assert cut(memoryview(data), is_last=True) == frozen_reference(data)


@pytest.mark.parametrize("size", [0, 1, 2, MIN_BYTES - 1, MIN_BYTES, MIN_BYTES + 1])
def test_data_up_to_the_minimum_is_one_chunk(size: int) -> None:
    data = memoryview(bytes(size))
    assert cut(data, is_last=True) == [size] * (size > 0)
    assert cut(data, is_last=False) == []


@pytest.mark.parametrize("size", [MAX_BYTES - 1, MAX_BYTES, MAX_BYTES + 1, 2 * MAX_BYTES])
def test_data_without_cuts_falls_into_chunks_of_the_maximum(size: int) -> None:
    """And a full buffer always makes progress, whatever is in it."""
    data = memoryview(bytes(size))
    whole, rest = divmod(size, MAX_BYTES)
    assert cut(data, is_last=True) == [MAX_BYTES] * whole + [rest] * (rest > 0)
    assert cut(data, is_last=False) == [MAX_BYTES] * whole


def test_every_length_around_a_cut() -> None:
    """Held back is exactly the chunk that the end of the buffer may have cut short."""
    data = golden_input("random", 6 * MIB)
    lengths = cut(memoryview(data), is_last=True)
    assert len(lengths) > 3
    end = sum(lengths[:2])
    for size in range(end - 3, end + 4):
        buffer = memoryview(data)[:size]
        final = 1 if size <= end else 2
        assert cut(buffer, is_last=False) == lengths[:final], size
        assert sum(cut(buffer, is_last=True)) == size


def test_an_edit_moves_only_the_cuts_around_it() -> None:
    """What deduplication lives on: nearly all chunks are found again, wherever they have moved."""
    data = golden_input("random", 24 * MIB)
    before = set(digests(data))
    flipped = data[: 12 * MIB] + bytes([data[12 * MIB] ^ 1]) + data[12 * MIB + 1 :]
    inserted = golden_input("text", 1000) + data
    removed = data[: 8 * MIB] + data[8 * MIB + 1 :]
    appended = data + golden_input("text", 2 * MIB)
    for edited, most in ((flipped, 2), (inserted, 2), (removed, 2), (appended, 4)):
        assert 1 <= len(set(digests(edited)) - before) <= most


def test_the_buffer_is_free_after_the_call() -> None:
    buffer = bytearray(golden_input("random", 2 * MIB))
    with memoryview(buffer) as view:
        hash_chunks(view, cut(view, is_last=True))
    buffer.clear()  # BufferError if anything still looks at it


# --- hash_chunks -----------------------------------------------------------------------------------


def digests(data: bytes) -> list[bytes]:
    return hash_chunks(memoryview(data), cut(memoryview(data), is_last=True))


def test_hashes_are_those_of_the_slices() -> None:
    data = bytes(range(256)) * 10
    lengths = [1, 1000, 64, 1495]
    assert hash_chunks(memoryview(data), lengths) == [
        blake3(piece).digest() for piece in (data[:1], data[1:1001], data[1001:1065], data[1065:])
    ]
    assert hash_chunks(memoryview(data), []) == []


def test_chunks_may_end_before_the_buffer_but_not_behind_it() -> None:
    assert len(hash_chunks(memoryview(b"abc"), [1, 1])) == 2
    with pytest.raises(Invalid, match="4 bytes do not fit into a buffer of 3"):
        hash_chunks(memoryview(b"abc"), [3, 1])


# --- select_runs -----------------------------------------------------------------------------------

A, B = "a" * 32, "b" * 32


def stored(object_id: str, offset: int, length: int) -> tuple[int, Extent | None]:
    return length, Extent(object_id, offset, length)


def new(length: int) -> tuple[int, Extent | None]:
    return length, None


@pytest.mark.parametrize(
    ("chunks", "expected"),
    [
        ([], []),
        ([new(500)], [False]),
        ([stored(A, 0, 99)], [False]),
        ([stored(A, 0, 100)], [True]),
        ([stored(A, 0, 50), stored(A, 50, 50)], [True, True]),
        ([stored(A, 0, 50), stored(A, 50, 49)], [False, False]),
        ([stored(A, 0, 50), stored(A, 51, 50)], [False, False]),  # a gap
        ([stored(A, 50, 50), stored(A, 0, 50)], [False, False]),  # in the wrong order
        ([stored(A, 0, 50), stored(B, 50, 50)], [False, False]),  # in two objects
        ([stored(A, 0, 50), new(1), stored(A, 50, 50)], [False, False, False]),
        ([stored(A, 0, 100), new(900), stored(A, 900, 99)], [True, False, False]),
        ([stored(A, 7, 200), stored(B, 0, 99), stored(A, 207, 100)], [True, False, True]),
        ([new(5), stored(B, 40, 60), stored(B, 100, 60), new(5)], [False, True, True, False]),
        ([(100, Extent(A, 0, 101))], [False]),  # the catalog contradicts itself
        ([stored(A, 0, 60), (60, Extent(A, 60, 61)), stored(A, 121, 60)], [False] * 3),
    ],
)
def test_only_long_runs_are_pointed_to(
    chunks: list[tuple[int, Extent | None]], expected: list[bool]
) -> None:
    assert select_runs(chunks, min_run_bytes=100) == expected


def test_a_short_run_that_continues_the_last_block_is_pointed_to() -> None:
    """A run is not broken by the border between two blocks; a later short run is another one."""
    chunks = [stored(A, 40, 10), stored(A, 50, 10), new(1), stored(A, 61, 10)]
    assert select_runs(chunks, True, min_run_bytes=100) == [True, True, False, False]
    assert select_runs(chunks, False, min_run_bytes=100) == [False] * 4


def test_a_run_that_begins_after_a_new_chunk_continues_nothing() -> None:
    assert select_runs([new(1), stored(A, 40, 10)], True, 100) == [False, False]
    assert select_runs([stored(B, 0, 10), stored(A, 40, 10)], True, 100) == [True, False]


def test_a_mebibyte_is_worth_pointing_to() -> None:
    assert chunking.MIN_RUN_BYTES == MIB
    assert select_runs([stored(A, 0, MIB)]) == [True]
    assert select_runs([stored(A, 0, MIB - 1)]) == [False]


# --- merge_extents ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("extents", "expected"),
    [
        ([], ()),
        ([Extent(A, 5, 5)], (Extent(A, 5, 5),)),
        ([Extent(A, 5, 5), Extent(A, 10, 1), Extent(A, 11, 9)], (Extent(A, 5, 15),)),
        ([Extent(A, 5, 5), Extent(A, 11, 1)], (Extent(A, 5, 5), Extent(A, 11, 1))),
        ([Extent(A, 5, 5), Extent(A, 0, 5)], (Extent(A, 5, 5), Extent(A, 0, 5))),
        ([Extent(A, 5, 5), Extent(A, 5, 5)], (Extent(A, 5, 5), Extent(A, 5, 5))),
        ([Extent(A, 5, 5), Extent(B, 10, 5)], (Extent(A, 5, 5), Extent(B, 10, 5))),
        (
            [Extent(A, 0, 5), Extent(B, 5, 5), Extent(A, 5, 5)],
            (Extent(A, 0, 5), Extent(B, 5, 5), Extent(A, 5, 5)),
        ),
    ],
)
def test_neighbours_merge(extents: list[Extent], expected: tuple[Extent, ...]) -> None:
    assert merge_extents(extents) == expected
    assert merge_extents(iter(extents)) == expected


def test_the_library_has_its_fast_form() -> None:
    """Its pure Python fallback gives the same cuts two hundred times slower."""
    assert FastCDC.__module__.startswith("pyfastcdc.cy")
