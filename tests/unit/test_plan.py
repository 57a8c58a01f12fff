"""Where bytes go and which are fetched: arithmetic, at every boundary."""

from __future__ import annotations

import itertools

import pytest

from asyncart.engine import plan
from asyncart.errors import Corrupt
from asyncart.model import Chunk, Entry, Extent

MIB = 1 << 20


# --- parts and kinds of files -------------------------------------------------------------------


@pytest.mark.parametrize("smallest", [1, 5 * MIB, 8 * MIB])
@pytest.mark.parametrize("size", [0, 1, MIB, 48 << 30, (48 << 30) + 1, 1 << 40, 5 << 40])
def test_an_object_of_any_size_fits_into_the_parts_that_s3_allows(size: int, smallest: int) -> None:
    part = plan.part_bytes(size, smallest)
    assert part >= smallest
    assert -(-size // part) <= plan.MAX_PARTS <= 10_000
    assert (
        part == smallest or part * plan.MAX_PARTS < size + plan.MAX_PARTS
    )  # not larger than needed


@pytest.mark.parametrize(
    ("size", "is_large"),
    [(0, False), (plan.PACK_FILE_BYTES - 1, False), (plan.PACK_FILE_BYTES, True), (1 << 40, True)],
)
def test_files_from_8_mib_on_get_an_object_of_their_own(size: int, is_large: bool) -> None:
    assert plan.is_large(size) is is_large


# --- batches and groups -------------------------------------------------------------------------


SIZES = [
    [],
    [0],
    [0] * (plan.BATCH_FILES + 1),
    [1] * plan.BATCH_FILES,
    [1] * (3 * plan.BATCH_FILES + 5),
    [plan.BATCH_BYTES],
    [plan.BATCH_BYTES, 0, 1],
    [plan.BATCH_BYTES - 1, 1, 1],
    [plan.PACK_FILE_BYTES - 1] * 5,
    [10_000] * 5000,
    [0, plan.BATCH_BYTES, 0, plan.BATCH_BYTES, 0],
]


@pytest.mark.parametrize("sizes", SIZES)
def test_batches_hold_every_file_once_in_order_and_within_both_limits(sizes: list[int]) -> None:
    batches = list(plan.batches(range(len(sizes)), sizes))
    assert list(itertools.chain(*batches)) == list(range(len(sizes)))
    for batch in batches:
        assert 0 < len(batch) <= plan.BATCH_FILES
        assert sum(sizes[row] for row in batch) <= plan.BATCH_BYTES or len(batch) == 1
    for batch, following in itertools.pairwise(batches):  # none ended too early
        too_long = len(batch) == plan.BATCH_FILES
        too_large = sum(sizes[r] for r in batch) + sizes[following[0]] > plan.BATCH_BYTES
        assert too_long or too_large


@pytest.mark.parametrize("workers", [1, 2, 16])
@pytest.mark.parametrize("count", [0, 1, 2, 7, 8, 9, 31, 32, 33, 1000])
def test_groups_hold_every_batch_once_in_order_and_fill_no_more_than_a_pack(
    count: int, workers: int
) -> None:
    batches = [[n] for n in range(count)]
    groups = plan.groups(batches, workers)
    assert list(itertools.chain(*groups)) == batches
    assert all(0 < len(group) <= plan.PACK_BYTES // plan.BATCH_BYTES for group in groups)
    if count >= 2 * workers:
        assert len(groups) >= 2 * workers or len(groups[0]) * plan.BATCH_BYTES == plan.PACK_BYTES


def test_groups_of_tiny_files_fill_a_pack_too() -> None:
    """1,024 files of 1 KB are a batch of 1 MiB: 64 of those make a pack, where there are enough."""
    batches = [[n] for n in range(1000)]
    assert {len(group) for group in plan.groups(batches, 2, 1 << 20)[:-1]} == {64}
    assert {len(group) for group in plan.groups(batches, 50, 1 << 20)} == {10}
    assert plan.groups(batches, 2, 2 * plan.BATCH_BYTES) == plan.groups(batches, 2)


# --- ranges of small files ----------------------------------------------------------------------


def small(path: str, object_id: str, offset: int, length: int) -> Entry:
    return Entry(path, bytes(32), length, (Extent(object_id, offset, length),))


def check_ranges(entries: list[Entry]) -> list[plan.Range]:
    """Every entry is brought once, by a read that holds it and is not too large."""
    found = plan.ranges(entries)
    pieces = [piece for each in found for piece in each.pieces]
    assert sorted(p.entry.path for p in pieces) == sorted(e.path for e in entries)
    for each in found:
        for piece in each.pieces:
            extent = piece.entry.extents[0]
            assert extent.object_id == each.object_id
            assert each.offset + piece.start == extent.offset
            assert piece.length == extent.length
            assert piece.start + piece.length <= each.length
        assert each.pieces[0].start == 0
        assert [p.start for p in each.pieces] == sorted(p.start for p in each.pieces)
        assert each.length <= plan.RANGE_BYTES or len(each.pieces) == 1
    return found


def test_no_entries_need_no_reads() -> None:
    assert plan.ranges([]) == []


@pytest.mark.parametrize(
    ("gap", "reads"),
    [(0, 1), (1, 1), (plan.GAP_BYTES, 1), (plan.GAP_BYTES + 1, 2), (100 * MIB, 2)],
)
def test_a_small_gap_is_read_over_and_a_large_one_is_not(gap: int, reads: int) -> None:
    entries = [small("a", "o", 10, 100), small("b", "o", 110 + gap, 100)]
    assert len(check_ranges(entries)) == reads
    assert len(check_ranges(entries[::-1])) == reads


@pytest.mark.parametrize(
    ("second", "reads"), [(plan.RANGE_BYTES - 100, 1), (plan.RANGE_BYTES - 99, 2)]
)
def test_a_read_ends_before_it_gets_too_large(second: int, reads: int) -> None:
    entries = [small("a", "o", 0, 100), small("b", "o", 100, second)]
    assert len(check_ranges(entries)) == reads


def test_objects_are_read_apart() -> None:
    entries = [small("a", "o", 0, 10), small("b", "p", 10, 10), small("c", "o", 10, 10)]
    found = check_ranges(entries)
    assert [(r.object_id, r.offset, r.length) for r in found] == [("o", 0, 20), ("p", 10, 10)]


def test_files_may_share_bytes() -> None:
    """Duplicates point to the same extent; another manifest may even overlap."""
    entries = [
        small("a", "o", 0, 10),
        small("b", "o", 0, 10),
        small("c", "o", 5, 3),
        small("d", "o", 4, 20),
    ]
    [only] = check_ranges(entries)
    assert (only.offset, only.length) == (0, 24)


def test_a_file_as_large_as_a_pack_is_one_read() -> None:
    assert [r.length for r in check_ranges([small("a", "o", 0, plan.PACK_BYTES)])] == [
        plan.PACK_BYTES
    ]


@pytest.mark.parametrize(
    "entry",
    [
        Entry("a", bytes(32), 10),
        Entry("a", bytes(32), 10, (Extent("o", 0, 5), Extent("o", 5, 5))),
        Entry("a", bytes(32), plan.PACK_BYTES + 1, (Extent("o", 0, plan.PACK_BYTES + 1),)),
    ],
)
def test_a_file_that_cannot_be_verified_in_one_piece_is_corrupt(entry: Entry) -> None:
    with pytest.raises(Corrupt, match="a: its manifest entry"):
        plan.ranges([entry])


# --- ranges of large files ----------------------------------------------------------------------


def large(chunks: list[int], extents: list[tuple[str, int, int]]) -> Entry:
    return Entry(
        "a",
        bytes(32),
        sum(chunks),
        tuple(Extent(*extent) for extent in extents),
        tuple(Chunk(bytes([n % 256]) * 32, length) for n, length in enumerate(chunks)),
    )


def check_chunks(entry: Entry, wanted: list[bool] | None = None) -> list[plan.ChunkRange]:
    """Every wanted chunk is brought once, from where it lies; no other is."""
    found = plan.chunk_ranges(entry, wanted)
    where = []  # (object, offset) of each byte run, per chunk
    offsets = list(itertools.accumulate((c.length for c in entry.chunks), initial=0))
    for each in found:
        assert each.last > each.first
        assert each.file_offset == offsets[each.first]
        assert each.length == offsets[each.last] - offsets[each.first]
        assert each.length <= plan.RANGE_BYTES or each.last == each.first + 1
        where += list(range(each.first, each.last))
    assert where == [n for n in range(len(entry.chunks)) if wanted is None or wanted[n]]
    return found


def test_a_file_of_one_extent_is_read_in_few_pieces() -> None:
    entry = large([MIB] * 40, [("o", 7, 40 * MIB)])
    found = check_chunks(entry)
    assert [(r.offset, r.length) for r in found] == [
        (7, 16 * MIB),
        (7 + 16 * MIB, 16 * MIB),
        (7 + 32 * MIB, 8 * MIB),
    ]


def test_a_read_never_spans_two_extents() -> None:
    entry = large([10, 20, 30], [("o", 0, 30), ("p", 5, 30)])
    assert [(r.object_id, r.offset, r.length) for r in check_chunks(entry)] == [
        ("o", 0, 30),
        ("p", 5, 30),
    ]


@pytest.mark.parametrize("wanted", list(itertools.product([False, True], repeat=5)))
def test_only_the_wanted_chunks_are_read(wanted: tuple[bool, ...]) -> None:
    """All 32 choices; neighbours are read together, across gaps they are not."""
    entry = large([1, 2, 3, 4, 5], [("o", 100, 3), ("p", 0, 12)])
    found = check_chunks(entry, list(wanted))
    for each in found:
        start = sum(c.length for c in entry.chunks[: each.first])
        expected = ("o", 100 + start) if start < 3 else ("p", start - 3)
        assert (each.object_id, each.offset) == expected


def test_an_empty_list_of_extents_and_chunks_needs_nothing() -> None:
    assert plan.chunk_ranges(large([], [])) == []


def test_a_chunk_larger_than_a_read_is_one_read() -> None:
    assert (
        len(check_chunks(large([plan.RANGE_BYTES + 1, 5], [("o", 0, plan.RANGE_BYTES + 6)]))) == 2
    )


@pytest.mark.parametrize(
    ("chunks", "extents"),
    [
        ([10, 10], [("o", 0, 15), ("o", 15, 5)]),  # an extent ends within a chunk
        ([10], [("o", 0, 9)]),
        ([10], [("o", 0, 11)]),
        ([10], []),
        ([10, 10], [("o", 0, 10)]),
        ([], [("o", 0, 10)]),
        ([10, 10], [("o", 0, 5), ("o", 5, 15)]),
    ],
)
@pytest.mark.parametrize("wants", ["all", "none", "default"])
def test_extents_that_do_not_fit_the_chunks_are_corrupt(
    chunks: list[int], extents: list[tuple[str, int, int]], wants: str
) -> None:
    wanted = None if wants == "default" else [wants == "all"] * len(chunks)
    with pytest.raises(Corrupt, match="a: its extents and chunks do not fit together"):
        plan.chunk_ranges(large(chunks, extents), wanted)


@pytest.mark.parametrize("offset", range(8))
@pytest.mark.parametrize("length", range(8))
def test_chunks_between_are_those_that_hold_a_byte_of_the_range(offset: int, length: int) -> None:
    """Every range of a file of 1 + 2 + 3 bytes, and beyond its end."""
    entry = large([1, 2, 3], [("o", 0, 6)])
    spans = [(0, 1), (1, 3), (3, 6)]
    expected = [start < offset + length and offset < end for start, end in spans]
    if length == 0:
        expected = [False] * 3
    assert plan.chunks_between(entry, offset, length) == expected
