"""Cutting is a pure function of the bytes; pointing to stored chunks never changes the content."""

from __future__ import annotations

import hashlib
from itertools import pairwise

from blake3 import blake3
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pyfastcdc import FastCDC

from asyncart.engine.chunking import MAX_BYTES, MIN_BYTES, cut, merge_extents, select_runs
from asyncart.model import Extent

MIB = 1 << 20
GEAR = [int.from_bytes(hashlib.md5(bytes([b]) * 64).digest()[:8], "big") for b in range(256)]

# The same algorithm on a small scale, where thousands of cuts can be compared: the masks are those that
# FastCDC uses for an average of 256 B at normalisation level 1.
SMALL_MIN, SMALL_AVERAGE, SMALL_MAX = 64, 256, 1024
SMALL_HARD, SMALL_EASY = 0x0000019000353000, 0x0000000018035100


def small_library(data: bytes) -> list[int]:
    chunker = FastCDC(SMALL_AVERAGE, min_size=SMALL_MIN, max_size=SMALL_MAX, normalized_chunking=1)
    return [chunk.length for chunk in chunker.cut_buf(data)]


def small_reference(data: bytes) -> list[int]:
    """The words of the docstring of `engine.chunking`, with other parameters."""
    lengths = []
    while data:
        length = min(len(data), SMALL_MAX)
        rolling = 0
        for p in range(SMALL_MIN, length // 2 * 2):
            rolling = (rolling * 2 + GEAR[data[p]]) % (1 << 64)
            if rolling & (SMALL_HARD if p < SMALL_AVERAGE else SMALL_EASY) == 0:
                length = p
                break
        lengths.append(length)
        data = data[length:]
    return lengths


@settings(max_examples=200, deadline=None)
@given(
    st.binary(max_size=400)
    | st.tuples(st.binary(min_size=1, max_size=8), st.integers(0, 3000)).map(
        lambda case: blake3(case[0]).digest(length=case[1])
    )
    | st.tuples(st.binary(min_size=1, max_size=8), st.integers(0, 600)).map(
        lambda case: case[0] * case[1]
    )
)
@example(b"")
@example(bytes(SMALL_MIN + 1))
@example(bytes(SMALL_MAX + 1))
def test_library_agrees_with_the_written_algorithm(data: bytes) -> None:
    assert small_library(data) == small_reference(data)


def made_of(seed: int, size: int, hole_at: float, hole_bytes: int) -> bytes:
    """Random bytes with a hole of zeros in it, which only the maximum cuts."""
    data = bytearray(blake3(seed.to_bytes(8, "little")).digest(length=size))
    start = int(size * hole_at)
    data[start : start + hole_bytes] = bytes(max(0, min(hole_bytes, size - start)))
    return bytes(data)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 1 << 32),
    size=st.integers(0, 20 * MIB),
    hole_at=st.floats(0, 1),
    hole_bytes=st.sampled_from([0, MIN_BYTES, 4 * MIB, 10 * MIB]),
    block_bytes=st.lists(
        st.integers(MAX_BYTES, 3 * MAX_BYTES) | st.just(MAX_BYTES), min_size=1, max_size=4
    ),
)
@example(seed=1, size=20 * MIB, hole_at=0.4, hole_bytes=5 * MIB, block_bytes=[MAX_BYTES])
@example(seed=2, size=20 * MIB + 1, hole_at=0, hole_bytes=0, block_bytes=[MAX_BYTES + 1, 7 * MIB])
@example(seed=3, size=12 * MIB, hole_at=0, hole_bytes=12 * MIB, block_bytes=[MAX_BYTES, 9 * MIB])
def test_block_by_block_gives_the_same_cuts_as_at_once(
    seed: int, size: int, hole_at: float, hole_bytes: int, block_bytes: list[int]
) -> None:
    """Whatever the blocks' sizes, from MAX_BYTES on; reading goes on where the last whole chunk ended."""
    data = memoryview(made_of(seed, size, hole_at, hole_bytes))
    whole = cut(data, is_last=True)
    lengths: list[int] = []
    offset = turn = 0
    while offset < size:
        block = data[offset : offset + block_bytes[turn % len(block_bytes)]]
        found = cut(block, is_last=offset + len(block) == size)
        assert found, "a block of MAX_BYTES always gives a chunk"
        lengths += found
        offset += sum(found)
        turn += 1
    assert lengths == whole
    assert sum(whole) == size
    assert all(length <= MAX_BYTES for length in whole)
    assert all(length >= MIN_BYTES for length in whole[:-1])


CHUNKS = st.lists(
    st.tuples(
        st.integers(1, 3), st.integers(0, 1), st.integers(0, 8), st.booleans(), st.booleans()
    ),
    max_size=12,
)


def placed(cases: list[tuple[int, int, int, bool, bool]]) -> list[tuple[int, Extent | None]]:
    """Chunks, often side by side with the one before, some of them not stored."""
    chunks: list[tuple[int, Extent | None]] = []
    last = Extent("0" * 32, 0, 0)
    for length, name, offset, is_stored, is_next in cases:
        if is_next:
            last = Extent(last.object_id, last.offset + last.length, length)
        else:
            last = Extent(f"{name:032x}", offset, length)
        chunks.append((length, last if is_stored else None))
    return chunks


def are_side_by_side(left: Extent | None, right: Extent | None) -> bool:
    return (
        left is not None
        and right is not None
        and left.object_id == right.object_id
        and left.offset + left.length == right.offset
    )


@settings(max_examples=400)
@given(CHUNKS, st.booleans())
def test_runs_are_judged_as_a_whole(
    cases: list[tuple[int, int, int, bool, bool]], after_stored_run: bool
) -> None:
    """Chunk by chunk: look as far as the run goes in both directions, and measure it."""
    chunks = placed(cases)
    extents = [extent for _, extent in chunks]
    selected = select_runs(chunks, after_stored_run, min_run_bytes=5)
    assert len(selected) == len(chunks)
    for index, is_selected in enumerate(selected):
        first = last = index
        while first > 0 and are_side_by_side(extents[first - 1], extents[first]):
            first -= 1
        while last + 1 < len(extents) and are_side_by_side(extents[last], extents[last + 1]):
            last += 1
        run_bytes = sum(length for length, _ in chunks[first : last + 1])
        continues = first == 0 and after_stored_run
        expected = extents[index] is not None and (run_bytes >= 5 or continues)
        assert is_selected == expected


@settings(max_examples=400)
@given(CHUNKS)
def test_merging_keeps_every_byte_in_its_place(
    cases: list[tuple[int, int, int, bool, bool]],
) -> None:
    extents = [extent for _, extent in placed(cases) if extent is not None]
    merged = merge_extents(extents)

    def positions(of: list[Extent]) -> list[tuple[str, int]]:
        return [(e.object_id, e.offset + step) for e in of for step in range(e.length)]

    assert positions(list(merged)) == positions(extents)
    assert not any(are_side_by_side(left, right) for left, right in pairwise(merged))
    assert merge_extents(merged) == merged
