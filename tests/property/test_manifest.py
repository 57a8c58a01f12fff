"""Any tree comes back; a reader written from the documentation alone reads the same."""

from __future__ import annotations

import struct
from typing import Any

import msgspec
from blake3 import blake3
from hypothesis import example, given, settings
from hypothesis import strategies as st

from asyncart.engine import zstd
from asyncart.engine.manifest import (
    MAGIC,
    BlockInfo,
    ContentDigest,
    Footer,
    ManifestWriter,
    decode_block,
    encode_index,
)
from asyncart.engine.records import MAX_BYTES, MAX_CHUNK_BYTES, encode_record
from asyncart.errors import Corrupt
from asyncart.model import Chunk, Entry, Extent, ManifestLocation, Reference
from asyncart.names import is_safe_entry_path

OBJECT_ID = "ab" * 16

# Characters around '/' and beyond the first plane: where other orders than that of code points differ.
NAMES = st.text("a0-./ ~éﬀ\U0001f6b2\uffff", min_size=1, max_size=8) | st.text(max_size=20)
PATHS = NAMES.filter(is_safe_entry_path)
DIGESTS = st.binary(min_size=32, max_size=32)
OBJECT_IDS = st.sampled_from([f"{number:032x}" for number in range(3)]) | st.binary(
    min_size=16, max_size=16
).map(bytes.hex)
SIZES = st.integers(1, 1000) | st.integers(1, MAX_BYTES // 1000)
OFFSETS = st.integers(0, 1000) | st.integers(0, MAX_BYTES)
URIS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=30)


@st.composite
def plain(draw: st.DrawFn, path: str) -> Entry:
    size = draw(SIZES)
    extent = Extent(draw(OBJECT_IDS), draw(OFFSETS), size)
    return Entry(path, draw(DIGESTS), size, (extent,), executable=draw(st.booleans()))


@st.composite
def empty(draw: st.DrawFn, path: str) -> Entry:
    return Entry(path, draw(DIGESTS), 0, executable=draw(st.booleans()))


@st.composite
def scattered(draw: st.DrawFn, path: str) -> Entry:
    lengths = draw(st.lists(SIZES, min_size=2, max_size=4))
    extents = tuple(Extent(draw(OBJECT_IDS), draw(OFFSETS), length) for length in lengths)
    return Entry(path, draw(DIGESTS), sum(lengths), extents, executable=draw(st.booleans()))


@st.composite
def chunked(draw: st.DrawFn, path: str) -> Entry:
    """Extents that cover runs of whole chunks."""
    runs = draw(
        st.lists(
            st.lists(st.integers(1, MAX_CHUNK_BYTES), min_size=1, max_size=4),
            min_size=1,
            max_size=3,
        )
    )
    chunks = tuple(Chunk(draw(DIGESTS), length) for run in runs for length in run)
    extents = tuple(Extent(draw(OBJECT_IDS), draw(OFFSETS), sum(run)) for run in runs)
    size = sum(extent.length for extent in extents)
    return Entry(path, draw(DIGESTS), size, extents, chunks, draw(st.booleans()))


@st.composite
def reference(draw: st.DrawFn, path: str) -> Entry:
    target = Reference(draw(URIS), draw(st.none() | st.just("") | URIS), draw(st.booleans()))
    size = draw(st.just(0) | SIZES)
    return Entry(path, draw(DIGESTS), size, executable=draw(st.booleans()), reference=target)


@st.composite
def trees(draw: st.DrawFn) -> list[Entry]:
    paths = sorted(draw(st.sets(PATHS, max_size=12)))
    kinds = st.sampled_from([plain, plain, empty, scattered, chunked, reference])
    return [draw(draw(kinds)(path)) for path in paths]


def write(entries: list[Entry], block_entries: int) -> tuple[ManifestLocation, bytes]:
    writer = ManifestWriter(block_entries=block_entries)
    pieces = [piece for entry in entries for piece in writer.append([entry])]
    data = b"".join([*pieces, writer.finish()])
    return writer.location(OBJECT_ID), data


def read(location: ManifestLocation, data: bytes, prefix: str = "") -> list[Entry]:
    footer = Footer.decode(location, data[location.size - location.footer_bytes :])
    return [
        entry
        for info in footer.blocks(prefix)
        for entry in decode_block(info, data[info.offset : info.offset + info.length])
        if entry.path.startswith(prefix)
    ]


@settings(max_examples=300, deadline=None)
@given(trees(), st.integers(1, 5))
def test_any_tree_comes_back(entries: list[Entry], block_entries: int) -> None:
    location, data = write(entries, block_entries)
    assert read(location, data) == entries
    footer = Footer.decode(location, data[-location.footer_bytes :])
    assert footer.entry_count == len(entries)
    assert footer.total_size == sum(entry.size for entry in entries)


@settings(max_examples=200, deadline=None)
@given(st.sets(PATHS, max_size=20), st.integers(1, 4), st.text("a0-./ ~é", max_size=4))
def test_paths_and_prefixes_are_found(paths: set[str], block_entries: int, prefix: str) -> None:
    entries = [Entry(path, bytes(32), 0) for path in sorted(paths)]
    location, data = write(entries, block_entries)
    footer = Footer.decode(location, data[-location.footer_bytes :])
    for entry in entries:
        info = footer.find(entry.path)
        assert info is not None
        assert entry in decode_block(info, data[info.offset : info.offset + info.length])
        assert entry in read(location, data, entry.path)
    expected = [entry for entry in entries if entry.path.startswith(prefix)]
    assert read(location, data, prefix) == expected


# --- a second reader, from the docstring of engine.manifest ----------------------------------------


def documented_read(data: bytes) -> list[Entry]:
    """Everything in a manifest, found by its trailer."""
    index_bytes, stored_bytes = struct.unpack_from("<II", data, len(data) - 28)
    assert data[-20:] == b"asyncart manifest 1\n" == MAGIC
    footer_at = len(data) - 28 - stored_bytes
    index = msgspec.msgpack.decode(zstd.decompress(data[footer_at:-28], index_bytes))
    assert set(index) == {
        "first_paths",
        "entry_counts",
        "entry_bytes",
        "lengths",
        "record_bytes",
        "digests",
    }
    entries: list[Entry] = []
    position = 0
    for row, first_path in enumerate(strings(index["first_paths"])):
        length = u32(index["lengths"])[row]
        block = data[position : position + length]
        assert blake3(block).digest()[:16] == pieces(index["digests"], 16)[row]
        record = msgspec.msgpack.decode(zstd.decompress(block, u32(index["record_bytes"])[row]))
        found = documented_record(record)
        assert len(found) == u32(index["entry_counts"])[row]
        assert sum(entry.size for entry in found) == u64(index["entry_bytes"])[row]
        assert found[0].path == first_path
        entries += found
        position += length
    assert position == footer_at
    return entries


def documented_record(record: dict[str, bytes]) -> list[Entry]:
    objects = [piece.hex() for piece in pieces(record["objects"], 16)]
    extent_counts, chunk_counts = u32(record["extent_counts"]), u32(record["chunk_counts"])
    extents = [
        Extent(objects[index], offset, length)
        for index, offset, length in struct.iter_unpack("<IQQ", record["extents"])
    ]
    chunks = [
        Chunk(digest, length)
        for digest, length in zip(
            pieces(record["chunk_digests"], 32), u32(record["chunk_lengths"]), strict=True
        )
    ]
    uris, etags = strings(record["uris"]), strings(record["etags"])
    entries = []
    for row, path in enumerate(strings(record["paths"])):
        flags = record["flags"][row]
        size = u64(record["sizes"])[row]
        entry: dict[str, Any] = {
            "path": path,
            "digest": record["digests"][32 * row : 32 * row + 32],
            "size": size,
            "executable": flags & 1 == 1,
        }
        where = u32(record["object_indexes"])[row], u64(record["offsets"])[row]
        if flags & 2:
            count, chunk_count = extent_counts.pop(0), chunk_counts.pop(0)
            entry["extents"], extents = tuple(extents[:count]), extents[count:]
            entry["chunks"], chunks = tuple(chunks[:chunk_count]), chunks[chunk_count:]
        elif flags & 4:
            etag = etags.pop(0) if flags & 8 else None
            entry["reference"] = Reference(uris.pop(0), etag, flags & 16 == 16)
        elif size:
            entry["extents"] = (Extent(objects[where[0]], where[1], size),)
        if flags & 6 or not size:
            assert where == (0, 0)
        entries.append(Entry(**entry))
    assert not any([extents, chunks, uris, etags, extent_counts, chunk_counts])
    return entries


def strings(column: bytes) -> list[str]:
    assert column[-1:] in (b"", b"\0")
    return [text.decode() for text in column.split(b"\0")[:-1]]


def pieces(column: bytes, width: int) -> list[bytes]:
    return [column[at : at + width] for at in range(0, len(column), width)]


def u32(column: bytes) -> list[int]:
    return [int.from_bytes(piece, "little") for piece in pieces(column, 4)]


def u64(column: bytes) -> list[int]:
    return [int.from_bytes(piece, "little") for piece in pieces(column, 8)]


@settings(max_examples=200, deadline=None)
@given(trees(), st.integers(1, 5))
def test_the_documentation_is_enough_to_read_it(entries: list[Entry], block_entries: int) -> None:
    assert documented_read(write(entries, block_entries)[1]) == entries


# --- hostile bytes ---------------------------------------------------------------------------------


@settings(max_examples=400, deadline=None)
@given(trees().filter(bool), st.data())
def test_damaged_records_are_corrupt_or_still_sane(
    entries: list[Entry], data: st.DataObject
) -> None:
    """Bytes changed behind the digests' back: never another exception, never an entry that is not safe."""
    record = bytearray(encode_record(entries)[0])
    for _ in range(data.draw(st.integers(1, 3))):
        record[data.draw(st.integers(0, len(record) - 1))] = data.draw(st.integers(0, 255))
    block = zstd.compress(bytes(record))
    size = sum(entry.size for entry in entries)
    digest = blake3(block).digest(length=16)
    info = BlockInfo(
        OBJECT_ID, entries[0].path, None, len(entries), size, 0, len(block), len(record), digest
    )
    try:
        found = decode_block(info, block)
    except Corrupt:
        return
    assert sum(entry.size for entry in found) == size
    assert [entry.path for entry in found] == sorted({entry.path for entry in found})
    for entry in found:
        assert is_safe_entry_path(entry.path)
        assert entry.size <= MAX_BYTES
        assert all(extent.length > 0 and extent.offset >= 0 for extent in entry.extents)
        if entry.reference is None:
            assert sum(extent.length for extent in entry.extents) == entry.size
        else:
            assert not entry.extents
        if entry.chunks:
            assert sum(chunk.length for chunk in entry.chunks) == entry.size
    assert write(found, 5)  # what is believed can also be written


@settings(max_examples=300, deadline=None)
@given(trees(), st.integers(1, 3), st.data())
def test_damaged_indexes_are_corrupt_or_still_sane(
    entries: list[Entry], block_entries: int, data: st.DataObject
) -> None:
    location, manifest = write(entries, block_entries)
    footer = Footer.decode(location, manifest[-location.footer_bytes :])
    index = bytearray(encode_index(footer.blocks()))
    index[data.draw(st.integers(0, len(index) - 1))] = data.draw(st.integers(0, 255))
    frame = zstd.compress(bytes(index))
    forged = frame + struct.pack("<II", len(index), len(frame)) + MAGIC
    size = location.size - location.footer_bytes + len(forged)
    try:
        found = Footer.decode(
            ManifestLocation(OBJECT_ID, size, len(forged), blake3(forged).digest()), forged
        )
    except Corrupt:
        return
    blocks = found.blocks()
    assert sum(block.length for block in blocks) == size - len(forged)
    assert [block.first_path for block in blocks] == sorted({block.first_path for block in blocks})


# --- the version's digest --------------------------------------------------------------------------

PAIRS = st.dictionaries(PATHS, DIGESTS, max_size=8).map(lambda found: sorted(found.items()))


def content_digest(pairs: list[tuple[str, bytes]]) -> bytes:
    digest = ContentDigest()
    digest.update_many([path for path, _ in pairs], [content for _, content in pairs])
    return digest.digest()


@settings(max_examples=300)
@given(PAIRS, PAIRS)
@example([("a", bytes(32)), ("ab", bytes(32))], [("aab", bytes(32)), ("b", bytes(32))])
def test_content_digests_are_equal_only_for_equal_trees(
    one: list[tuple[str, bytes]], two: list[tuple[str, bytes]]
) -> None:
    assert (content_digest(one) == content_digest(two)) == (one == two)
    stepwise = ContentDigest()
    for path, content in one:
        stepwise.update_many([path], [content])
    assert stepwise.digest() == content_digest(one)
