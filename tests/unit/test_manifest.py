"""The manifest: what is written comes back, nothing else is believed, and few bytes find one entry."""

from __future__ import annotations

import json
import struct
import tracemalloc
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
from blake3 import blake3

from asyncart.engine import manifest, zstd
from asyncart.engine.manifest import (
    BLOCK_ENTRIES,
    MAGIC,
    TRAILER_BYTES,
    BlockInfo,
    ContentDigest,
    Footer,
    ManifestWriter,
    decode_block,
    encode_index,
)
from asyncart.engine.records import (
    MAX_BYTES,
    MAX_CHUNK_BYTES,
    PlainFiles,
    decode_record,
    encode_record,
)
from asyncart.errors import Corrupt, Invalid
from asyncart.model import Chunk, Entry, Extent, ManifestLocation, Reference

GOLDEN: dict[str, Any] = json.loads(
    (Path(__file__).parents[1] / "golden" / "manifest1.json").read_text()
)
OBJECT_ID = "0191d2c5a3b4" + "c0ffee0123456789abcd"
OTHER_ID = "0191d2c5a3b5" + "00112233445566778899"


def digest_of(text: str) -> bytes:
    return blake3(text.encode()).digest()


def plain(path: str, size: int = 10, offset: int = 0, *, executable: bool = False) -> Entry:
    extents = (Extent(OBJECT_ID, offset, size),) if size else ()
    return Entry(path, digest_of(path), size, extents, executable=executable)


def chunked(path: str, extents: Sequence[Extent], lengths: Sequence[int]) -> Entry:
    chunks = tuple(Chunk(digest_of(f"{path} {n}"), length) for n, length in enumerate(lengths))
    return Entry(path, digest_of(path), sum(lengths), tuple(extents), chunks)


def golden_entries() -> list[Entry]:
    """One of each kind, and names that only code-point order sorts like this."""
    return [
        plain("README.md", 1234, 0),
        plain("bin/tool", 20_000, 1234, executable=True),
        Entry("data/empty", digest_of(""), 0),
        plain("data/ä", 5, 21_234),
        Entry("data/ﬀ.bin", digest_of("z"), 7, (Extent(OTHER_ID, MAX_BYTES, 7),)),
        plain("data/🚲.png", 77, 21_239),
        chunked("model.bin", [Extent(OTHER_ID, 0, 3 << 20)], [1 << 20, (2 << 20) - 1, 1]),
        chunked(
            "model2.bin",
            [Extent(OTHER_ID, 1 << 20, 2 << 20), Extent(OBJECT_ID, 0, 300_000)],
            [(2 << 20) - 1, 1, 300_000],
        ),
        Entry(
            "ref/http",
            digest_of("x"),
            99,
            reference=Reference("https://example.org/ü", etag='"abc"'),
        ),
        Entry(
            "ref/local",
            digest_of("y"),
            3,
            executable=True,
            reference=Reference("file:///data/x", etag="", digest_is_content=True),
        ),
        Entry("ref/s3", digest_of("s3"), 0, reference=Reference("s3://bucket/key")),
        Entry("two", digest_of("two"), 30, (Extent(OBJECT_ID, 0, 10), Extent(OBJECT_ID, 50, 20))),
    ]


def written(
    entries: Iterable[Entry], *, block_entries: int = BLOCK_ENTRIES
) -> tuple[ManifestLocation, bytes]:
    writer = ManifestWriter(block_entries=block_entries)
    pieces = writer.append(entries)
    data = b"".join([*pieces, writer.finish()])
    assert writer.size == len(data)
    return writer.location(OBJECT_ID), data


def footer_of(location: ManifestLocation, data: bytes) -> Footer:
    return Footer.decode(location, data[location.size - location.footer_bytes :])


def read_block(info: BlockInfo, data: bytes) -> list[Entry]:
    return decode_block(info, memoryview(data)[info.offset : info.offset + info.length])


def read_all(location: ManifestLocation, data: bytes) -> list[Entry]:
    return [
        entry for info in footer_of(location, data).blocks() for entry in read_block(info, data)
    ]


# --- round trip ------------------------------------------------------------------------------------


@pytest.mark.parametrize("block_entries", [1, 2, 3, BLOCK_ENTRIES])
def test_every_kind_of_entry_comes_back(block_entries: int) -> None:
    entries = golden_entries()
    location, data = written(entries, block_entries=block_entries)
    assert read_all(location, data) == entries
    footer = footer_of(location, data)
    assert footer.location == location
    assert footer.entry_count == len(entries)
    assert footer.total_size == sum(entry.size for entry in entries)


@pytest.mark.parametrize("number", range(len(golden_entries())))
def test_every_kind_of_entry_comes_back_alone(number: int) -> None:
    entries = golden_entries()[number : number + 1]
    assert read_all(*written(entries)) == entries


def test_a_manifest_without_entries() -> None:
    location, data = written([])
    assert location.size == location.footer_bytes == len(data)
    footer = footer_of(location, data)
    assert (footer.entry_count, footer.total_size, footer.blocks()) == (0, 0, [])
    assert footer.find("a") is None
    assert footer.blocks("a") == []


@pytest.mark.parametrize("count", [1, 2, 511, 512, 513, 1023, 1024, 1025])
def test_blocks_are_full_but_for_the_last(count: int) -> None:
    entries = [plain(f"{number:06d}", 10, number * 10) for number in range(count)]
    location, data = written(entries)
    counts = [info.entry_count for info in footer_of(location, data).blocks()]
    full, rest = divmod(count, 512)
    assert counts == [512] * full + [rest] * (rest > 0)
    assert read_all(location, data) == entries


def test_it_does_not_matter_how_entries_are_appended() -> None:
    entries = [plain(f"{number:04d}") for number in range(1300)]
    expected = written(entries)
    for step in (1, 511, 512, 1000):
        writer = ManifestWriter()
        pieces = [
            piece
            for start in range(0, len(entries), step)
            for piece in writer.append(entries[start : start + step])
        ]
        pieces.append(writer.finish())
        assert (writer.location(OBJECT_ID), b"".join(pieces)) == expected


def test_totals_and_objects_of_the_writer() -> None:
    writer = ManifestWriter(block_entries=2)
    entries = golden_entries()
    writer.append(entries)
    writer.finish()
    assert writer.entry_count == len(entries)
    assert writer.total_size == sum(entry.size for entry in entries)
    named = {extent.object_id for entry in entries for extent in entry.extents}
    assert writer.object_ids == named == {OBJECT_ID, OTHER_ID}


def test_a_finished_writer_takes_nothing_more() -> None:
    writer = ManifestWriter()
    with pytest.raises(Invalid, match="before it is finished"):
        writer.location(OBJECT_ID)
    writer.finish()
    with pytest.raises(Invalid, match="finished"):
        writer.append([plain("a")])
    with pytest.raises(Invalid, match="finished"):
        writer.finish()


def test_a_large_file_does_not_burden_the_block_of_its_neighbours() -> None:
    """10 GB are 8,000 chunks and 290 KB of manifest: small files beside it must not cost that much."""
    lengths = [1 << 20] * 8000
    large = chunked("m", [Extent(OTHER_ID, 0, sum(lengths))], lengths)
    entries = (
        [plain(f"a{n:03}") for n in range(200)] + [large] + [plain(f"z{n:03}") for n in range(200)]
    )
    location, data = written(entries)
    blocks = footer_of(location, data).blocks()
    assert [info.entry_count for info in blocks] == [200, 1, 200]
    assert blocks[1].length > 250_000
    assert max(blocks[0].length, blocks[2].length) < 10_000
    assert read_all(location, data) == entries


def test_long_paths_make_shorter_blocks() -> None:
    folder = "/".join(["d" * 200] * 15)
    entries = [plain(f"{folder}/{number:04d}") for number in range(100)]
    location, data = written(entries)
    assert max(info.record_bytes for info in footer_of(location, data).blocks()) <= 130 << 10
    assert read_all(location, data) == entries


def test_writing_holds_one_block() -> None:
    """Peak memory does not grow with the number of entries but for the index."""
    writer = ManifestWriter()
    tracemalloc.start()
    try:
        for number in range(60):
            batch = [plain(f"{number:03d}/{item:04d}", 1000, item * 1000) for item in range(512)]
            writer.append(batch)
            if number == 2:
                tracemalloc.reset_peak()
                base = tracemalloc.get_traced_memory()[0]
        assert tracemalloc.get_traced_memory()[1] - base < 1 << 20
    finally:
        tracemalloc.stop()


# --- finding ---------------------------------------------------------------------------------------


def test_find_gives_the_block_of_every_path_and_none_before_the_first() -> None:
    paths = [f"d{a}/f{b}" for a in range(1, 10) for b in range(7)]
    location, data = written(map(plain, paths), block_entries=5)
    footer = footer_of(location, data)
    for path in paths:
        info = footer.find(path)
        assert info is not None
        assert path in [entry.path for entry in read_block(info, data)]
        assert info.first_path <= path
        assert info.end_path is None or path < info.end_path
    assert footer.find("a") is None
    assert footer.find("d1/f") is None  # precedes d1/f0
    for missing in ("d1/f00", "d4/", "zzz"):
        info = footer.find(missing)
        assert info is not None
        assert missing not in [entry.path for entry in read_block(info, data)]


def test_a_prefix_reads_all_of_its_blocks_and_no_others() -> None:
    paths = sorted(
        f"{a}{b}/{c}" for a in "abc" for b in ["", "-", "0", "\U0010ffff"] for c in range(3)
    )
    location, data = written(map(plain, paths), block_entries=2)
    footer = footer_of(location, data)
    content = [(info, [entry.path for entry in read_block(info, data)]) for info in footer.blocks()]
    prefixes = {path[:length] for path in paths for length in range(len(path) + 1)}
    for prefix in sorted(prefixes | {"A", "a/9", "a1", "b/00", "c\U0010ffff0", "d", "\U0010ffff"}):
        blocks = footer.blocks(prefix)
        needed = [info for info, held in content if any(p.startswith(prefix) for p in held)]
        assert [info for info in blocks if info in needed] == needed
        # The first one may hold none: only its last path, which the index does not know, would tell.
        assert blocks[1:] == [info for info in blocks[1:] if info in needed]


def test_one_entry_of_100_000_costs_30_kb_and_two_reads() -> None:
    """Random digests and sizes, as in life; the promise is 200 KB."""
    stream = blake3(b"sizes").digest(length=400_000)
    sizes = [size % 18_000 + 1000 for size in struct.unpack("<100000I", stream)]
    offset = 0

    def entries() -> Iterable[Entry]:
        nonlocal offset
        for number, size in enumerate(sizes):
            path = f"images/{number // 100:04d}/img_{number:06d}.png"
            yield plain(path, size, offset)
            offset += size

    location, data = written(entries())
    footer = footer_of(location, data)
    info = footer.find("images/0777/img_077777.png")
    assert info is not None
    assert len(read_block(info, data)) == 512
    assert location.footer_bytes + max(block.length for block in footer.blocks()) < 30_000
    assert len(data) < 45 * 100_000


def test_the_footer_of_1_000_000_entries_is_small() -> None:
    count = 1_000_000 // 512 + 1
    digests = blake3(b"digests").digest(length=16 * count)
    lengths = struct.unpack(f"<{count}H", blake3(b"lengths").digest(length=2 * count))
    blocks = [
        BlockInfo(
            OBJECT_ID,
            f"images/{row * 512 // 100:04d}/img_{row * 512:07d}.png",
            None,
            512,
            5_000_000 + length,
            0,
            20_000 + length % 2048,
            41_000,
            digests[16 * row : 16 * row + 16],
        )
        for row, length in enumerate(lengths)
    ]
    assert len(zstd.compress(encode_index(blocks))) < 70_000


# --- what cannot be written ------------------------------------------------------------------------

BAD_ENTRIES: dict[str, Entry] = {
    "absolute path": plain("/etc/passwd"),
    "parent": plain("a/../b"),
    "empty path": plain(""),
    "NUL": plain("a\0b"),
    "not UTF-8": Entry("a\udc80", bytes(32), 0),
    "short digest": Entry("a", bytes(31), 0),
    "long digest": Entry("a", bytes(33), 0),
    "negative size": Entry("a", bytes(32), -1),
    "huge size": plain("a", MAX_BYTES + 1),
    "huge offset": plain("a", 1, MAX_BYTES + 1),
    "negative offset": plain("a", 1, -1),
    "no extents": Entry("a", bytes(32), 1),
    "extent too short": Entry("a", bytes(32), 10, (Extent(OBJECT_ID, 0, 9),)),
    "extent of an empty file": Entry("a", bytes(32), 0, (Extent(OBJECT_ID, 0, 0),)),
    "bad object id": Entry("a", bytes(32), 1, (Extent("xyz", 0, 1),)),
    "short object id": Entry("a", bytes(32), 1, (Extent(OBJECT_ID[:30], 0, 1),)),
    "object id in capitals": Entry("a", bytes(32), 1, (Extent(OBJECT_ID.upper(), 0, 1),)),
    "extents too short": Entry(
        "a", bytes(32), 9, (Extent(OBJECT_ID, 0, 4), Extent(OBJECT_ID, 9, 4))
    ),
    "an empty extent": Entry("a", bytes(32), 9, (Extent(OBJECT_ID, 0, 9), Extent(OBJECT_ID, 9, 0))),
    "negative extent": Entry(
        "a", bytes(32), 9, (Extent(OBJECT_ID, 0, 18), Extent(OBJECT_ID, 0, -9))
    ),
    "extents out of range": Entry(
        "a", bytes(32), 9, (Extent(OBJECT_ID, -1, 8), Extent(OBJECT_ID, 9, 1))
    ),
    "chunks too short": Entry(
        "a", bytes(32), 10, (Extent(OBJECT_ID, 0, 10),), (Chunk(bytes(32), 9),)
    ),
    "chunks too long": chunked("a", [Extent(OBJECT_ID, 0, 10)], [5, 6]),
    "chunk without digest": Entry(
        "a", bytes(32), 10, (Extent(OBJECT_ID, 0, 10),), (Chunk(b"", 10),)
    ),
    "an empty chunk": chunked("a", [Extent(OBJECT_ID, 0, 10)], [10, 0]),
    "a huge chunk": chunked(
        "a", [Extent(OBJECT_ID, 0, MAX_CHUNK_BYTES + 1)], [MAX_CHUNK_BYTES + 1]
    ),
    "extent ends inside a chunk": chunked(
        "a", [Extent(OBJECT_ID, 0, 4), Extent(OTHER_ID, 0, 6)], [5, 5]
    ),
    "chunks of an empty file": Entry("a", bytes(32), 0, (), (Chunk(bytes(32), 1),)),
    "reference with extents": Entry(
        "a", bytes(32), 1, (Extent(OBJECT_ID, 0, 1),), reference=Reference("s3://a")
    ),
    "reference with chunks": Entry(
        "a", bytes(32), 1, (), (Chunk(bytes(32), 1),), reference=Reference("s3://a")
    ),
    "reference without URI": Entry("a", bytes(32), 1, reference=Reference("")),
    "NUL in a URI": Entry("a", bytes(32), 1, reference=Reference("s3://a\0b")),
    "NUL in an ETag": Entry("a", bytes(32), 1, reference=Reference("s3://a", etag="\0")),
    "URI that is not UTF-8": Entry("a", bytes(32), 1, reference=Reference("s3://\udc80")),
}


@pytest.mark.parametrize("entry", BAD_ENTRIES.values(), ids=BAD_ENTRIES.keys())
def test_entries_that_no_reader_would_accept_are_refused(entry: Entry) -> None:
    with pytest.raises(Invalid):
        written([entry])


@pytest.mark.parametrize("block_entries", [1, 3])
@pytest.mark.parametrize("paths", [["b", "a"], ["a", "a"], ["a/b", "a-b"], ["a", "b", "c", "b"]])
def test_unsorted_and_repeated_paths_are_refused(paths: list[str], block_entries: int) -> None:
    """Inside of a block and from one block to the next."""
    with pytest.raises(Invalid, match=r"follows .* sorted, each path once"):
        written(map(plain, paths), block_entries=block_entries)


def test_sizes_that_add_up_to_too_much_are_refused() -> None:
    entries = [
        Entry("a", bytes(32), MAX_BYTES, reference=Reference("s3://a")),
        Entry("b", bytes(32), 1, reference=Reference("s3://b")),
    ]
    for block_entries in (1, 2):
        with pytest.raises(Invalid, match="add up"):
            written(entries, block_entries=block_entries)
    location, data = written(entries[:1])
    assert footer_of(location, data).total_size == MAX_BYTES


def test_a_file_with_too_many_chunks_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manifest, "MAX_ENTRY_RECORD_BYTES", 40_000)
    fits = chunked("fits", [Extent(OBJECT_ID, 0, 1000)], [1] * 1000)
    assert read_all(*written([fits])) == [fits]
    with pytest.raises(Invalid, match=r"large: its record takes 4.*split the file"):
        written([chunked("large", [Extent(OBJECT_ID, 0, 1200)], [1] * 1200)])


def test_an_index_that_is_too_large_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manifest, "MAX_INDEX_BYTES", 200)
    with pytest.raises(Invalid, match="log fewer files"):
        written(golden_entries(), block_entries=1)


# --- what is not believed --------------------------------------------------------------------------


def test_every_flipped_bit_is_noticed() -> None:
    """No byte of the object is outside of a digest; the error names the manifest."""
    location, data = written(golden_entries(), block_entries=4)
    for position in range(len(data)):
        damaged = bytearray(data)
        damaged[position] ^= 1 << position % 8
        with pytest.raises(Corrupt, match=OBJECT_ID):
            read_all(location, bytes(damaged))


def test_truncated_and_longer_reads_are_noticed() -> None:
    location, data = written(golden_entries())
    info = footer_of(location, data).blocks()[0]
    for wrong in (b"", data[: info.length - 1], data[: info.length + 1]):
        with pytest.raises(Corrupt, match="not those that were written"):
            decode_block(info, wrong)
    tail = data[-location.footer_bytes :]
    for wrong in (b"", tail[1:], tail[:-1], tail + b"\0"):
        with pytest.raises(Corrupt, match="not the one that was written"):
            Footer.decode(location, wrong)


def forged_footer(
    index: bytes, size: int, trailer: bytes | None = None
) -> tuple[ManifestLocation, bytes]:
    """A footer whose digest is right, as who writes a hostile catalog or manifest would have it."""
    frame = zstd.compress(index)
    if trailer is None:
        trailer = struct.pack("<II", len(index), len(frame)) + MAGIC
    data = frame + trailer
    location = ManifestLocation(OBJECT_ID, size + len(data), len(data), blake3(data).digest())
    return location, data


def forged_block(
    record: bytes, count: int, entry_bytes: int, first_path: str
) -> Callable[[], list[Entry]]:
    """Reads the record as the only block of a manifest in which all digests are right."""
    block = zstd.compress(record)
    digest = blake3(block).digest(length=16)
    info = BlockInfo(
        OBJECT_ID, first_path, None, count, entry_bytes, 0, len(block), len(record), digest
    )

    def read() -> list[Entry]:
        footer = Footer.decode(*forged_footer(encode_index([info]), len(block)))
        return decode_block(footer.blocks()[0], block)

    return read


def u32(*values: int) -> bytes:
    return struct.pack(f"<{len(values)}I", *values)


def u64(*values: int) -> bytes:
    return struct.pack(f"<{len(values)}Q", *values)


HONEST = [
    plain("a", 5),
    Entry("b", digest_of("b"), 0),
    chunked("c", [Extent(OBJECT_ID, 0, 10), Extent(OTHER_ID, 5, 20)], [4, 6, 20]),
    Entry("d", digest_of("d"), 7, reference=Reference("s3://bucket/d", etag="e")),
]

HOSTILE_COLUMNS: dict[str, dict[str, Any]] = {
    "too few paths": {"paths": b"a\0b\0c\0"},
    "too many paths": {"paths": b"a\0b\0c\0d\0e\0"},
    "unterminated path": {"paths": b"a\0b\0c\0\0d"},
    "unsorted paths": {"paths": b"a\0c\0b\0d\0"},
    "repeated paths": {"paths": b"a\0b\0b\0d\0"},
    "path not UTF-8": {"paths": b"a\0b\0c\xff\0d\0"},
    "surrogate path": {"paths": b"a\0b\0c\xed\xa0\x80\0d\0"},
    "path escapes": {"paths": b"a\0b\0c/../../x\0d\0"},
    "absolute path": {"paths": b"/a\0b\0c\0d\0"},
    "empty path": {"paths": b"\0b\0c\0d\0"},
    "drive letter": {"paths": b"C:\0b\0c\0d\0"},
    "backslash": {"paths": b"a\0b\0c\\..\\x\0d\0"},
    "device": {"paths": b"NUL\0b\0c\0d\0"},
    "digests too short": {"digests": bytes(127)},
    "digests too long": {"digests": bytes(129)},
    "sizes too short": {"sizes": u64(5, 0, 30)},
    "sizes too long": {"sizes": u64(5, 0, 30, 7, 0)},
    "size not of its extents": {"sizes": u64(5, 0, 31, 6)},
    "huge size": {"sizes": u64(MAX_BYTES + 1, 0, 30, 7)},
    "size does not add up": {"sizes": u64(6, 0, 30, 7)},
    "extents of an empty file": {"sizes": u64(35, 0, 0, 7)},
    "flags too short": {"flags": b"\0\0\2"},
    "flags too long": {"flags": b"\0\0\2\14\0"},
    "unknown flag": {"flags": b"\x20\0\2\14"},
    "listed reference": {"flags": b"\0\0\2\16"},
    "etag without reference": {"flags": b"\x08\0\2\14"},
    "content digest without reference": {"flags": b"\x10\0\2\14"},
    "reference less": {"flags": b"\0\0\2\0"},
    "reference more": {"flags": b"\4\0\2\14"},
    "etag less": {"flags": b"\0\0\2\4"},
    "listed less": {"flags": b"\0\0\0\14"},
    "listed more": {"flags": b"\2\0\2\14"},
    "objects of a wrong length": {"objects": bytes(31)},
    "no objects": {"objects": b""},
    "index of no object": {"object_indexes": u32(2, 0, 0, 0)},
    "index of an empty file is of no object": {"object_indexes": u32(0, 2, 0, 0)},
    "indexes too short": {"object_indexes": u32(0, 0, 0)},
    "offsets too short": {"offsets": u64(0, 0, 0)},
    "huge offset": {"offsets": u64(MAX_BYTES + 1, 0, 0, 0)},
    "no extent counts": {"extent_counts": b""},
    "extent counts too large": {"extent_counts": u32(3)},
    "extent counts too small": {"extent_counts": u32(1)},
    "extent counts beyond memory": {"extent_counts": u32(0xFFFFFFFF)},
    "no extents": {"extent_counts": u32(0), "extents": b""},
    "extents too short": {"extents": bytes(39)},
    "extent of no object": {"extents": u32(2) + u64(0, 10) + u32(1) + u64(5, 20)},
    "extents not of the size": {"extents": u32(0) + u64(0, 10) + u32(1) + u64(5, 21)},
    "an empty extent": {"extents": u32(0) + u64(0, 0) + u32(1) + u64(5, 30)},
    "extent wraps around": {"extents": u32(0) + u64(0, (1 << 64) - 10) + u32(1) + u64(5, 40)},
    "extent beyond range": {"extents": u32(0) + u64(1 << 63, 10) + u32(1) + u64(5, 20)},
    "extent inside a chunk": {"extents": u32(0) + u64(0, 9) + u32(1) + u64(5, 21)},
    "chunk counts too large": {"chunk_counts": u32(4)},
    "chunk counts beyond memory": {"chunk_counts": u32(0xFFFFFFFF)},
    "chunk counts too small": {"chunk_counts": u32(2)},
    "chunk digests too short": {"chunk_digests": bytes(95)},
    "chunk lengths too short": {"chunk_lengths": u32(4, 6)},
    "chunks not of the size": {"chunk_lengths": u32(4, 6, 21)},
    "an empty chunk": {"chunk_lengths": u32(10, 0, 20)},
    "a huge chunk": {
        "sizes": u64(5, 0, 10 + MAX_CHUNK_BYTES + 1, 7),
        "extents": u32(0) + u64(0, 10) + u32(1) + u64(5, MAX_CHUNK_BYTES + 1),
        "chunk_lengths": u32(4, 6, MAX_CHUNK_BYTES + 1),
    },
    "no URI": {"uris": b""},
    "empty URI": {"uris": b"\0"},
    "URI not UTF-8": {"uris": b"\xff\0"},
    "two URIs": {"uris": b"s3://a\0s3://b\0"},
    "no etag": {"etags": b""},
    "two etags": {"etags": b"e\0f\0"},
    "a column that is text": {"digests": "x" * 128},
    "a column that is a list": {"sizes": [5, 0, 30, 7]},
    "a column that is nil": {"etags": None},
    "an unknown column": {"extra": b""},
}


def test_an_honest_record_is_believed() -> None:
    """The test of the tests below: the forger's work is fine but for what each of them changes."""
    record, _ = encode_record(HONEST)
    columns = msgspec.msgpack.decode(record)
    assert forged_block(msgspec.msgpack.encode(columns), 4, 42, "a")() == HONEST


@pytest.mark.parametrize("change", HOSTILE_COLUMNS.values(), ids=HOSTILE_COLUMNS.keys())
def test_a_hostile_record_is_not_believed(change: dict[str, Any]) -> None:
    """Although all digests are right. Its claimed total follows its sizes, so that the rest is seen."""
    record, _ = encode_record(HONEST)
    columns = msgspec.msgpack.decode(record)
    columns.update(change)
    total = 42
    if "sizes" in change and isinstance(change["sizes"], bytes) and change["sizes"][0] != 6:
        total = min(
            sum(struct.unpack(f"<{len(change['sizes']) // 8}Q", change["sizes"])), MAX_BYTES
        )
    first_path = columns["paths"].split(b"\0")[0].decode()
    with pytest.raises(Corrupt, match=OBJECT_ID):
        forged_block(msgspec.msgpack.encode(columns), 4, total, first_path)()


@pytest.mark.parametrize("missing", sorted(msgspec.msgpack.decode(encode_record(HONEST)[0])))
def test_a_record_without_one_of_its_columns_is_not_believed(missing: str) -> None:
    columns = msgspec.msgpack.decode(encode_record(HONEST)[0])
    del columns[missing]
    with pytest.raises(Corrupt, match=missing):
        forged_block(msgspec.msgpack.encode(columns), 4, 42, "a")()


@pytest.mark.parametrize("record", [b"\xc1" * 300, b"\x00" * 300, b"\xdf" + b"\xff" * 300])
def test_a_record_that_is_no_map_is_not_believed(record: bytes) -> None:
    with pytest.raises(Corrupt, match=OBJECT_ID):
        forged_block(record, 4, 42, "a")()


@pytest.mark.parametrize(
    ("count", "total", "first_path", "message"),
    [
        (3, 42, "a", "wrong number"),
        (5, 42, "a", "wrong number"),
        (4, 41, "a", "add up"),
        (4, 42, "A", "first path"),
        (4, 42, "a0", "first path"),
    ],
)
def test_a_record_that_contradicts_the_index_is_not_believed(
    count: int, total: int, first_path: str, message: str
) -> None:
    record, _ = encode_record(HONEST)
    with pytest.raises(Corrupt, match=message):
        forged_block(record, count, total, first_path)()


def test_plain_files_need_an_object() -> None:
    """The fast way through plain entries checks what the slow one does."""
    columns = msgspec.msgpack.decode(encode_record([plain("a", 5), plain("b", 5)])[0])
    assert len(forged_block(msgspec.msgpack.encode(columns), 2, 10, "a")()) == 2
    for change in (
        {"objects": b""},
        {"object_indexes": u32(0, 1)},
        {"uris": b"s3://x\0"},
        {"etags": b"x\0"},
        {"extent_counts": u32(0)},
        {"chunk_lengths": u32(1)},
    ):
        with pytest.raises(Corrupt):
            forged_block(msgspec.msgpack.encode({**columns, **change}), 2, 10, "a")()


def test_blocks_must_not_overlap_in_their_paths() -> None:
    """Or one path would appear twice, and each reader would see another file."""
    records = [encode_record(list(map(plain, paths)))[0] for paths in ("ac", "bd")]
    blocks = [zstd.compress(record) for record in records]
    infos = [
        BlockInfo(
            OBJECT_ID,
            path,
            None,
            2,
            20,
            0,
            len(block),
            len(record),
            blake3(block).digest(length=16),
        )
        for path, record, block in zip("ab", records, blocks, strict=True)
    ]
    footer = Footer.decode(*forged_footer(encode_index(infos), sum(map(len, blocks))))
    with pytest.raises(Corrupt, match="precede"):
        decode_block(footer.blocks()[0], blocks[0])
    assert [entry.path for entry in decode_block(footer.blocks()[1], blocks[1])] == ["b", "d"]


def test_a_block_that_is_a_bomb_is_given_up_early() -> None:
    record, _ = encode_record(HONEST)
    bomb = zstd.compress(bytes(32 << 20))
    digest = blake3(bomb).digest(length=16)
    info = BlockInfo(OBJECT_ID, "a", None, 4, 42, 0, len(bomb), len(record), digest)
    tracemalloc.start()
    try:
        with pytest.raises(Corrupt, match="exactly"):
            decode_block(info, bomb)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


INDEX: dict[str, bytes] = {
    "first_paths": b"a\0b\0",
    "entry_counts": u32(2, 1),
    "entry_bytes": u64(20, 10),
    "lengths": u32(100, 50),
    "record_bytes": u32(400, 300),
    "digests": bytes(32),
}

HOSTILE_INDEX: dict[str, dict[str, Any]] = {
    "one path": {"first_paths": b"a\0"},
    "unsorted paths": {"first_paths": b"b\0a\0"},
    "repeated path": {"first_paths": b"a\0a\0"},
    "unsafe path": {"first_paths": b"../a\0b\0"},
    "path not UTF-8": {"first_paths": b"a\0\xff\0"},
    "counts too short": {"entry_counts": u32(3)},
    "odd counts": {"entry_counts": u32(2, 1) + b"\0"},
    "an empty block": {"entry_counts": u32(2, 0)},
    "more entries than their record can hold": {"entry_counts": u32(8, 1)},
    "sizes out of range": {"entry_bytes": u64(MAX_BYTES, 1)},
    "sizes too short": {"entry_bytes": u64(30)},
    "lengths do not fill the object": {"lengths": u32(100, 49)},
    "lengths overrun the object": {"lengths": u32(100, 51)},
    "lengths too short": {"lengths": u32(150)},
    "a record of several that is too large": {"record_bytes": u32((1 << 20) + 1, 300)},
    "a record of one that is too large": {"record_bytes": u32(400, (256 << 20) + 1)},
    "records too short": {"record_bytes": u32(400)},
    "digests too short": {"digests": bytes(31)},
    "text": {"digests": "x" * 32},
    "an unknown column": {"extra": b""},
}


def test_an_honest_index_is_believed() -> None:
    footer = Footer.decode(*forged_footer(msgspec.msgpack.encode(INDEX), 150))
    assert (footer.entry_count, footer.total_size) == (3, 30)
    limits = {**INDEX, "record_bytes": u32(1 << 20, 256 << 20)}
    assert len(Footer.decode(*forged_footer(msgspec.msgpack.encode(limits), 150)).blocks()) == 2


@pytest.mark.parametrize("change", HOSTILE_INDEX.values(), ids=HOSTILE_INDEX.keys())
def test_a_hostile_index_is_not_believed(change: dict[str, Any]) -> None:
    with pytest.raises(Corrupt, match=f"{OBJECT_ID}: its footer is malformed"):
        Footer.decode(*forged_footer(msgspec.msgpack.encode({**INDEX, **change}), 150))


@pytest.mark.parametrize(
    "trailer",
    [
        b"",
        MAGIC,
        u32(10, 10) + b"asyncart manifest 2\n",
        u32(10, 10_000) + MAGIC,
        u32((64 << 20) + 1, 0) + MAGIC,
    ],
)
def test_a_hostile_trailer_is_not_believed(trailer: bytes) -> None:
    with pytest.raises(Corrupt, match="malformed"):
        Footer.decode(*forged_footer(msgspec.msgpack.encode(INDEX), 150, trailer))


def test_another_format_is_not_read() -> None:
    """The magic alone is different: everything else is as this format has it."""
    index = msgspec.msgpack.encode(INDEX)
    trailer = u32(len(index), len(zstd.compress(index))) + b"asyncart manifest 2\n"
    with pytest.raises(Corrupt, match="trailer"):
        Footer.decode(*forged_footer(index, 150, trailer))


@pytest.mark.parametrize("length", [0, 1, TRAILER_BYTES - 1, TRAILER_BYTES])
def test_a_footer_shorter_than_its_trailer_is_not_believed(length: int) -> None:
    data = (u32(0, 0) + MAGIC)[-length:] if length else b""
    location = ManifestLocation(OBJECT_ID, length, length, blake3(data).digest())
    with pytest.raises(Corrupt, match="malformed"):
        Footer.decode(location, data)


def test_an_index_larger_than_allowed_is_not_decompressed() -> None:
    index = bytes((64 << 20) + 1)
    with pytest.raises(Corrupt, match="too large"):
        Footer.decode(*forged_footer(index, 0))


# --- without a catalog -----------------------------------------------------------------------------


def test_the_trailer_says_where_the_footer_begins() -> None:
    """Who knows nothing but the object makes a location of it, which `Footer.decode` believes or not."""
    location, data = written(golden_entries(), block_entries=5)
    _, frame_bytes, magic = struct.unpack("<II20s", data[-TRAILER_BYTES:])
    assert magic == MAGIC
    footer_bytes = frame_bytes + TRAILER_BYTES
    footer = data[-footer_bytes:]
    found = ManifestLocation(OBJECT_ID, len(data), footer_bytes, blake3(footer).digest())
    assert found == location
    assert read_all(found, data) == golden_entries()


# --- frozen ----------------------------------------------------------------------------------------


def test_records_are_frozen() -> None:
    record, _ = encode_record(golden_entries())
    assert record.hex() == GOLDEN["record"]
    assert decode_record(bytes.fromhex(GOLDEN["record"]), len(golden_entries())) == golden_entries()


def test_the_index_is_frozen() -> None:
    blocks = [
        BlockInfo(OBJECT_ID, "a/ä", "b", 512, 1 << 40, 0, 20_000, 41_000, bytes(range(16))),
        BlockInfo(OBJECT_ID, "b", None, 1, 0, 20_000, 70, 100, bytes(range(16, 32))),
    ]
    assert encode_index(blocks).hex() == GOLDEN["index"]


def test_old_objects_stay_readable() -> None:
    data = bytes.fromhex(GOLDEN["object"])
    location = ManifestLocation(
        OBJECT_ID, len(data), GOLDEN["footer_bytes"], bytes.fromhex(GOLDEN["footer_digest"])
    )
    assert len(footer_of(location, data).blocks()) == 3
    assert read_all(location, data) == golden_entries()


# --- the version's digest --------------------------------------------------------------------------


def content_digest(pairs: Iterable[tuple[str, bytes]]) -> bytes:
    digest = ContentDigest()
    for path, content in pairs:
        digest.update_many([path], [content])
    return digest.digest()


def test_content_digests_are_frozen() -> None:
    pairs = [(entry.path, entry.digest) for entry in golden_entries()]
    assert content_digest([]).hex() == GOLDEN["content_digest_of_nothing"]
    assert content_digest(pairs).hex() == GOLDEN["content_digest"]
    by_hand = b"".join(
        [b"asyncart content 1\n"]
        + [u32(len(path.encode())) + path.encode() + content for path, content in pairs]
    )
    assert blake3(by_hand).hexdigest() == GOLDEN["content_digest"]


@pytest.mark.parametrize("step", [1, 4095, 4096, 4097, 9000])
def test_content_digest_in_batches(step: int) -> None:
    paths = [f"{number:05d}" for number in range(9000)]
    contents = [digest_of(path) for path in paths]
    expected = ContentDigest()
    expected.update_many(paths, contents)
    digest = ContentDigest()
    for start in range(0, len(paths), step):
        digest.update_many(paths[start : start + step], contents[start : start + step])
    digest.update_many([], [])
    assert digest.digest() == expected.digest()


def test_content_digest_can_be_looked_at_before_the_end() -> None:
    digest = ContentDigest()
    digest.update_many(["a"], [bytes(32)])
    assert digest.digest() == content_digest([("a", bytes(32))])
    digest.update_many(["b"], [bytes(32)])
    assert digest.digest() == content_digest([("a", bytes(32)), ("b", bytes(32))])


def test_content_digest_depends_on_every_path_and_content_alone() -> None:
    one, two = digest_of("1"), digest_of("2")
    different = [
        [],
        [("a", one)],
        [("a", two)],
        [("b", one)],
        [("a", one), ("b", two)],
        [("a", two), ("b", one)],
        [("a", one), ("ab", two)],
        [("ab", one), ("b", two)],
    ]
    assert len({content_digest(pairs) for pairs in different}) == len(different)


@pytest.mark.parametrize(
    ("paths", "contents"),
    [
        (["b", "a"], [bytes(32)] * 2),
        (["a", "a"], [bytes(32)] * 2),
        (["a", "b"], [bytes(32)]),
        (["a"], [bytes(32)] * 2),
        ([], [bytes(32)]),
        (["a", "b"], [bytes(31), bytes(33)]),
        ([""], [bytes(32)]),
    ],
)
def test_content_digest_refuses_what_is_not_sorted_pairs(
    paths: list[str], contents: list[bytes]
) -> None:
    digest = ContentDigest()
    before = digest.digest()
    with pytest.raises(Invalid):
        digest.update_many(paths, contents)
    assert digest.digest() == before


def test_content_digest_refuses_to_go_back_from_one_call_to_the_next() -> None:
    digest = ContentDigest()
    digest.update_many(["b"], [bytes(32)])
    for path in ("a", "b"):
        with pytest.raises(Invalid, match="ascending"):
            digest.update_many([path], [bytes(32)])


def test_plain_files_make_the_same_block_as_their_entries() -> None:
    """Whichever way the writer is fed, the object's bytes are the same."""
    ids = [f"{number:032x}" for number in range(2)]
    entries = [
        Entry(
            f"f{number:03}",
            bytes([number]) * 32,
            number,
            (Extent(ids[number % 2], 1000 + number, number),) if number else (),
            executable=number % 3 == 0,
        )
        for number in range(40)
    ]
    files = PlainFiles(
        [entry.path for entry in entries],
        b"".join(entry.digest for entry in entries),
        [entry.size for entry in entries],
        bytes(entry.executable for entry in entries),
        [ids[1], ids[0]],
        [0 if number == 0 else 1 - number % 2 for number in range(40)],
        [1000 + number if number else 0 for number in range(40)],
    )
    by_entries, by_columns = ManifestWriter(), ManifestWriter()
    first = b"".join(by_entries.append(entries)) + by_entries.finish()
    second = b"".join(by_columns.append_plain(files)) + by_columns.finish()
    assert first == second
    assert by_columns.object_ids == set(ids)


@pytest.mark.parametrize("number", [0, 1])
def test_plain_files_are_checked_like_entries(number: int) -> None:
    bad = [
        PlainFiles(["b", "a"], bytes(64), [1, 1], bytes(2), ["0" * 32], [0, 0], [0, 1]),
        PlainFiles(["../x"], bytes(32), [1], bytes(1), ["0" * 32], [0], [0]),
    ][number]
    with pytest.raises(Invalid):
        ManifestWriter().append_plain(bad)
