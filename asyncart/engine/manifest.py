r"""The manifest: every entry of a version, in one immutable object that is read in pieces.

Promised: any entry out of 1,000,000 is found with two small reads (the footer, then one block); a
prefix is listed by reading only the blocks that can hold it; writing and reading hold one block in
memory at a time; nothing that a manifest says is believed before it was checked: a hostile one gives
`Corrupt`, never a path outside the target, a duplicate, or a length that does not add up.
Refused: entries that are unsorted, repeated or unsafe (`Invalid` when written, `Corrupt` when read).
Everything here is synchronous arithmetic on bytes; who reads and writes them is not its business.

Format 1
========

All integers are little-endian and unsigned; `u32[n]` is n of them side by side. *Packed strings* are
strings in UTF-8, each followed by one NUL byte (none of them contains one). *Compressed* means one
zstd frame (RFC 8878) whose window needs no more than 8 MiB or its content's size. *Maps* are
MessagePack maps from names (str) to byte strings (bin), with exactly the keys listed here.

    object  = block*, footer
    block   = compressed record
    footer  = compressed index, trailer
    trailer = u32 uncompressed bytes of the index, u32 compressed bytes of the index,
              "asyncart manifest 1\n" (20 bytes: the magic)

Blocks lie side by side from the object's beginning to the footer. Whoever reads knows where the footer
begins and what its BLAKE3-256 is from the catalog (`ManifestLocation`); without a catalog, the trailer
at the object's end says where it begins. The magic stands there, and not at the beginning, so that no
byte of the object is outside of a digest.

**Index**: a map of columns with one value for each of the b blocks.

    first_paths    packed strings: the path of the block's first entry
    entry_counts   u32[b], at least 1
    entry_bytes    u64[b]: sum of the sizes of the block's entries
    lengths        u32[b]: bytes of the block as stored (compressed)
    record_bytes   u32[b]: bytes of its record (uncompressed)
    digests        16 bytes each: BLAKE3 of the block as stored, cut to 128 bits. Enough, because an
                   attacker would need a second preimage; a collision helps only who wrote both, and
                   such a writer might as well have written what he liked.

**Record**: a map of columns. n is the block's number of entries, in ascending order of their paths'
code points (equal to the order of their UTF-8 bytes) across all blocks, each path once.

    objects        16 bytes each: the ids of all objects that the block names
    paths          packed strings[n]
    digests        32 bytes each, n of them: BLAKE3-256 of the entry's content
    sizes          u64[n]
    flags          u8[n]: 1 executable, 2 listed, 4 reference, 8 has an etag, 16 digest is of content
    object_indexes u32[n] \ where a *plain* entry (neither listed nor reference) of size > 0 lies: its
    offsets        u64[n] / only extent is (objects[index], offset, size). Zero for all other entries.
    extent_counts  u32[l], for the l listed entries, in order
    extents        (u32 object index, u64 offset, u64 length) for each extent of the listed entries
    chunk_counts   u32[l]
    chunk_digests  32 bytes each: BLAKE3-256 of each chunk of the listed entries
    chunk_lengths  u32 for each of the same chunks
    uris           packed strings, one for each reference
    etags          packed strings, one for each reference that has one

What a reader must check, beside digests and lengths: paths are safe (`asyncart.names`) and ascending,
also from block to block; the first one is the index's; the sizes add up to the index's `entry_bytes`;
sizes and offsets are below 2^62, and so is the total; extents are not
empty and add up to the size; chunks are 1 byte to 64 MiB and add up to
the size; where a chunked entry has several extents, each ends at the end of a chunk; an entry of size 0
has neither; a reference has neither, and only references have the flags 8 and 16.

Limits: a record of several entries is at most 1 MiB, that of a single entry (a file with very many
chunks) at most 256 MiB, which is about 7 TiB of file; the index is at most 64 MiB.

A reader refuses other magics and unknown keys and flags; a format that needs more has another magic.
The version's digest (`ContentDigest`) does not depend on any of this.

Why columns: they compress better than rows (no keys, equal bytes side by side) and are read and
written by a few calls in C per block. 100,000 files of 1-19 KB in packs (one busy core of two, Python
3.11, medians): 104 ms to write, 116 ms to read and check (41 of them for the paths), 4.0 MB, of which
3.2 MB are digests; one entry costs a footer of 6 KB, a block of 21 KB and 0.5 ms.
"""

from __future__ import annotations

import operator
import struct
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate, islice, pairwise, repeat
from typing import ClassVar, NoReturn

import msgspec
from blake3 import blake3

from asyncart.engine import zstd
from asyncart.errors import Corrupt, Invalid
from asyncart.model import DIGEST_BYTES, Chunk, Entry, Extent, ManifestLocation, Reference
from asyncart.names import is_safe_entry_path

MAGIC = b"asyncart manifest 1\n"
TRAILER_BYTES = 28

BLOCK_ENTRIES = 512  # 21 KB to fetch for one entry; the footer of 1,000,000 entries stays at 60 KB
BLOCK_BYTES = 128 << 10  # estimate of the record; a longer one only if a single entry needs it

MAX_RECORD_BYTES = 1 << 20  # several entries: BLOCK_BYTES with room for other writers
MAX_ENTRY_RECORD_BYTES = 256 << 20  # a single entry: 36 bytes per chunk
MAX_INDEX_BYTES = 64 << 20  # some 250,000,000 entries
MAX_CHUNK_BYTES = 64 << 20  # readers hold a chunk in memory; ours are at most 4 MiB
DIGEST_BATCH = 4096  # pairs hashed at once by ContentDigest: some 300 KB

MAX_BYTES = (1 << 62) - 1  # sizes, offsets, totals: two of them still add up in 63 bits

_EXECUTABLE = 1
_LISTED = 2
_REFERENCE = 4
_HAS_ETAG = 8
_DIGEST_IS_CONTENT = 16
_REFERENCE_FLAGS = _REFERENCE | _HAS_ETAG | _DIGEST_IS_CONTENT

_BLOCK_DIGEST_BYTES = 16
_OBJECT_ID_BYTES = 16
_TRAILER = struct.Struct("<II20s")
_EXTENT = struct.Struct("<IQQ")
_U32 = struct.Struct("<I")
_LEVEL = 1  # level 3 saves 4 % (digests do not compress) and takes twice the time


class _Record(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The columns of a block; the names are those of the format."""

    objects: bytes
    paths: bytes
    digests: bytes
    sizes: bytes
    flags: bytes
    object_indexes: bytes
    offsets: bytes
    extent_counts: bytes
    extents: bytes
    chunk_counts: bytes
    chunk_digests: bytes
    chunk_lengths: bytes
    uris: bytes
    etags: bytes


class _Index(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The columns of the footer; the names are those of the format."""

    first_paths: bytes
    entry_counts: bytes
    entry_bytes: bytes
    lengths: bytes
    record_bytes: bytes
    digests: bytes


_RECORD = msgspec.msgpack.Decoder(_Record)
_INDEX = msgspec.msgpack.Decoder(_Index)


class BlockInfo(msgspec.Struct, frozen=True):
    """One block: where it lies in the manifest object, what it holds, what proves it.

    Its paths are at least `first_path` and below `end_path` (None: no bound). `entry_bytes` is the sum
    of its entries' sizes; `length` its bytes as stored, `record_bytes` those after decompression.
    """

    object_id: str
    first_path: str
    end_path: str | None
    entry_count: int
    entry_bytes: int
    offset: int
    length: int
    record_bytes: int
    digest: bytes


# --- writing ---------------------------------------------------------------------------------------


class ManifestWriter:
    """Turns sorted entries into the bytes of a manifest object, block by block.

    Write out, in order, what `append` returns (often nothing), then what `finish` returns. It holds
    at most one block of entries, and some 100 bytes for every 512 entries written. After an exception
    the writer is of no use.
    """

    def __init__(self) -> None:
        self.entry_count = 0
        self.total_size = 0
        self.object_ids: set[str] = set()  # every object that an extent names
        self.size = 0  # bytes returned so far
        self._pending: list[Entry] = []
        self._pending_cost = 0
        self._last_path = ""
        self._blocks: list[BlockInfo] = []
        self._footer: bytes | None = None

    def append(self, entries: Iterable[Entry]) -> list[bytes]:
        """Take entries whose paths all follow those before; return the pieces that are finished.

        Raises Invalid for a path that is unsafe, repeated or out of order, and for sizes, extents and
        chunks that contradict each other.
        """
        if self._footer is not None:
            raise Invalid("the manifest is finished: begin a new one")
        finished: list[bytes] = []
        for entry in entries:
            cost = _cost(entry)
            if self._pending and (
                len(self._pending) >= BLOCK_ENTRIES or self._pending_cost + cost > BLOCK_BYTES
            ):
                finished.append(self._close_block())
            self._pending.append(entry)
            self._pending_cost += cost
        return finished

    def finish(self) -> bytes:
        """The rest of the object: the last block and the footer."""
        if self._footer is not None:
            raise Invalid("the manifest is finished already")
        last_block = self._close_block() if self._pending else b""
        self._footer = _encode_footer(self._blocks)
        self.size += len(self._footer)
        return last_block + self._footer

    def location(self, object_id: str) -> ManifestLocation:
        """What the catalog keeps, once `finish` was called and the object has its id."""
        if self._footer is None:
            raise Invalid(f"manifest {object_id} has no location before it is finished")
        return ManifestLocation(
            object_id, self.size, len(self._footer), blake3(self._footer).digest()
        )

    def _close_block(self) -> bytes:
        entries = self._pending
        record, object_ids = encode_record(entries, self._last_path)
        limit = MAX_ENTRY_RECORD_BYTES if len(entries) == 1 else MAX_RECORD_BYTES
        if len(record) > limit:
            raise Invalid(
                f"{entries[0].path}: its record takes {len(record):,} bytes in the manifest, more than "
                f"{limit:,}: split the file"
            )
        entry_bytes = sum([entry.size for entry in entries])
        if self.total_size + entry_bytes > MAX_BYTES:
            raise Invalid(f"{entries[-1].path}: the sizes add up to more than {MAX_BYTES:,} bytes")
        block = zstd.compress(record, _LEVEL)
        info = BlockInfo(
            object_id="",
            first_path=entries[0].path,
            end_path=None,
            entry_count=len(entries),
            entry_bytes=entry_bytes,
            offset=self.size,
            length=len(block),
            record_bytes=len(record),
            digest=_block_digest(block),
        )
        self._blocks.append(info)
        self.size += len(block)
        self.entry_count += info.entry_count
        self.total_size += info.entry_bytes
        self.object_ids.update(object_ids)
        self._last_path = entries[-1].path
        self._pending = []
        self._pending_cost = 0
        return block


def _cost(entry: Entry) -> int:
    """About how many bytes the entry adds to its record; never less than half of the truth."""
    cost = 64 + len(entry.path)
    if entry.chunks or len(entry.extents) > 1:
        cost += 36 * len(entry.chunks) + 36 * len(entry.extents)
    if entry.reference is not None:
        cost += len(entry.reference.uri) + len(entry.reference.etag or "")
    return cost


def encode_record(entries: Sequence[Entry], after: str = "") -> tuple[bytes, list[str]]:
    """The uncompressed record of one block, and the ids of the objects that it names.

    Raises Invalid for entries that no reader would accept; `after` is the path in front of the first.
    """
    paths = [entry.path for entry in entries]
    digests = [entry.digest for entry in entries]
    sizes = [entry.size for entry in entries]
    flags = bytearray(len(entries))
    object_ids: dict[str, int] = {}
    indexes: list[int] = []
    offsets: list[int] = []
    special: list[tuple[int, Entry]] = []
    for row, entry in enumerate(entries):
        extents = entry.extents
        if entry.executable:
            flags[row] = _EXECUTABLE
        if entry.reference is None and not entry.chunks and len(extents) == 1:
            object_id, offset, length = extents[0].object_id, extents[0].offset, extents[0].length
            if length != entry.size or not length or offset < 0:
                _refuse(entry.path, "its only extent does not cover the file")
            indexes.append(object_ids.setdefault(object_id, len(object_ids)))
            offsets.append(offset)
        else:
            indexes.append(0)
            offsets.append(0)
            if entry.size or extents or entry.chunks or entry.reference is not None:
                special.append((row, entry))
    _check_plain_columns(paths, digests, sizes, offsets, after)
    side = _encode_special(special, flags, object_ids)
    count = len(entries)
    record = _Record(
        objects=b"".join([_object_id_bytes(object_id) for object_id in object_ids]),
        paths=_packed(paths),
        digests=b"".join(digests),
        sizes=struct.pack(f"<{count}Q", *sizes),
        flags=bytes(flags),
        object_indexes=struct.pack(f"<{count}I", *indexes),
        offsets=struct.pack(f"<{count}Q", *offsets),
        **side,
    )
    return msgspec.msgpack.encode(record), list(object_ids)


def _check_plain_columns(
    paths: Sequence[str],
    digests: Sequence[bytes],
    sizes: Sequence[int],
    offsets: Sequence[int],
    after: str,
) -> None:
    if not after < paths[0] or not _is_ascending(paths):
        for earlier, later in pairwise([after, *paths]):
            if not earlier < later:
                raise Invalid(
                    f"{later}: follows {earlier!r}: entries must be sorted, each path once"
                )
    if not all(map(is_safe_entry_path, paths)):
        unsafe = next(path for path in paths if not is_safe_entry_path(path))
        raise Invalid(f"{unsafe!r} is not a safe path for an entry")
    if set(map(len, digests)) != {DIGEST_BYTES}:
        path = next(p for p, d in zip(paths, digests, strict=True) if len(d) != DIGEST_BYTES)
        _refuse(path, f"its digest is not {DIGEST_BYTES} bytes long")
    if min(sizes) < 0 or max(sizes) > MAX_BYTES or max(offsets) > MAX_BYTES:
        for path, size, offset in zip(paths, sizes, offsets, strict=True):
            if not 0 <= size <= MAX_BYTES or offset > MAX_BYTES:
                _refuse(path, "its size or offset is out of range")


def _encode_special(
    special: Sequence[tuple[int, Entry]], flags: bytearray, object_ids: dict[str, int]
) -> dict[str, bytes]:
    """The columns for listed entries and references; sets their flags."""
    listed: list[Entry] = []
    references: list[Reference] = []
    for row, entry in special:
        if entry.reference is None:
            if problem := _listing_problem(entry):
                _refuse(entry.path, problem)
            flags[row] |= _LISTED
            listed.append(entry)
            continue
        if problem := _reference_problem(entry):
            _refuse(entry.path, problem)
        flags[row] |= _REFERENCE
        flags[row] |= _HAS_ETAG * (entry.reference.etag is not None)
        flags[row] |= _DIGEST_IS_CONTENT * entry.reference.digest_is_content
        references.append(entry.reference)
    extents = [
        _EXTENT.pack(
            object_ids.setdefault(extent.object_id, len(object_ids)), extent.offset, extent.length
        )
        for entry in listed
        for extent in entry.extents
    ]
    chunks = [chunk for entry in listed for chunk in entry.chunks]
    return {
        "extent_counts": struct.pack(f"<{len(listed)}I", *[len(entry.extents) for entry in listed]),
        "extents": b"".join(extents),
        "chunk_counts": struct.pack(f"<{len(listed)}I", *[len(entry.chunks) for entry in listed]),
        "chunk_digests": b"".join([chunk.digest for chunk in chunks]),
        "chunk_lengths": struct.pack(f"<{len(chunks)}I", *[chunk.length for chunk in chunks]),
        "uris": _packed([reference.uri for reference in references]),
        "etags": _packed([item.etag for item in references if item.etag is not None]),
    }


def _listing_problem(entry: Entry) -> str | None:
    """What is wrong with an entry's extents and chunks; the same rules for writing and reading."""
    extents, chunks = entry.extents, entry.chunks
    if not entry.size:
        return "it is empty but has extents or chunks" if extents or chunks else None
    for extent in extents:
        if not 0 < extent.length <= MAX_BYTES or not 0 <= extent.offset <= MAX_BYTES:
            return "an extent is empty or out of range"
    ends = list(accumulate([extent.length for extent in extents]))
    if not ends or ends[-1] != entry.size:
        return "its extents do not cover the file"
    if not chunks:
        return None
    for chunk in chunks:
        if not 0 < chunk.length <= MAX_CHUNK_BYTES or len(chunk.digest) != DIGEST_BYTES:
            return "a chunk is empty, too long, or has no digest"
    chunk_ends = list(accumulate([chunk.length for chunk in chunks]))
    if chunk_ends[-1] != entry.size:
        return "its chunks do not cover the file"
    if len(ends) > 1 and not set(chunk_ends).issuperset(ends):
        return "an extent ends inside a chunk"
    return None


def _reference_problem(entry: Entry) -> str | None:
    reference = entry.reference
    if reference is None:
        return None
    if entry.extents or entry.chunks:
        return "a reference has no stored bytes"
    for text in (reference.uri, reference.etag or ""):
        if "\0" in text:
            return "its URI or ETag contains a NUL byte"
        try:
            text.encode()
        except UnicodeEncodeError:
            return "its URI or ETag is not valid UTF-8"
    return None if reference.uri else "its URI is empty"


def _refuse(path: str, problem: str) -> NoReturn:
    raise Invalid(f"{path}: cannot be written to a manifest: {problem}")


def _packed(texts: Sequence[str]) -> bytes:
    return "\0".join([*texts, ""]).encode()


def _object_id_bytes(object_id: str) -> bytes:
    try:
        raw = bytes.fromhex(object_id)
    except ValueError:
        raw = b""
    if len(raw) != _OBJECT_ID_BYTES or raw.hex() != object_id:
        raise Invalid(f"{object_id!r} is not the id of an object (32 lower-case hex digits)")
    return raw


def _block_digest(block: bytes | memoryview) -> bytes:
    return blake3(block).digest(length=_BLOCK_DIGEST_BYTES)


def _encode_footer(blocks: Sequence[BlockInfo]) -> bytes:
    raw = encode_index(blocks)
    if len(raw) > MAX_INDEX_BYTES:
        raise Invalid(f"the manifest's index takes {len(raw):,} bytes: log fewer files at once")
    frame = zstd.compress(raw, _LEVEL)
    return frame + _TRAILER.pack(len(raw), len(frame), MAGIC)


def encode_index(blocks: Sequence[BlockInfo]) -> bytes:
    """The uncompressed index. The blocks lie side by side, in this order."""
    count = len(blocks)
    index = _Index(
        first_paths=_packed([block.first_path for block in blocks]),
        entry_counts=struct.pack(f"<{count}I", *[block.entry_count for block in blocks]),
        entry_bytes=struct.pack(f"<{count}Q", *[block.entry_bytes for block in blocks]),
        lengths=struct.pack(f"<{count}I", *[block.length for block in blocks]),
        record_bytes=struct.pack(f"<{count}I", *[block.record_bytes for block in blocks]),
        digests=b"".join([block.digest for block in blocks]),
    )
    return msgspec.msgpack.encode(index)


# --- reading ---------------------------------------------------------------------------------------


def locate(object_id: str, size: int, tail: bytes) -> tuple[int, int]:
    """(offset, bytes) of the footer, from the object's last `TRAILER_BYTES` bytes.

    For rebuilding without a catalog. Nothing proves the trailer itself: hash the footer, make a
    `ManifestLocation` of it, and let `Footer.decode` find out whether it makes sense.
    """
    if len(tail) != TRAILER_BYTES or not tail.endswith(MAGIC):
        raise Corrupt(f"object {object_id} does not end like a manifest")
    _, frame_bytes, _ = _TRAILER.unpack(tail)
    footer_bytes = frame_bytes + TRAILER_BYTES
    if size < footer_bytes:
        raise Corrupt(f"manifest {object_id} is shorter than its footer")
    return size - footer_bytes, footer_bytes


class Footer:
    """The index of a manifest: which block to read for a path or a prefix."""

    def __init__(self, location: ManifestLocation, blocks: Sequence[BlockInfo]) -> None:
        self.location = location
        self.entry_count = sum(block.entry_count for block in blocks)
        self.total_size = sum(block.entry_bytes for block in blocks)
        self._blocks = list(blocks)
        self._first_paths = [block.first_path for block in blocks]

    @classmethod
    def decode(cls, location: ManifestLocation, data: bytes | memoryview) -> Footer:
        """Read the last `location.footer_bytes` bytes of the object. Raises Corrupt."""
        name = f"manifest {location.object_id}"
        if len(data) != location.footer_bytes or blake3(data).digest() != location.footer_digest:
            raise Corrupt(f"{name}: its footer is not the one that was written")
        try:
            return cls(location, list(_decode_index(location, data)))
        except (Corrupt, msgspec.DecodeError, UnicodeDecodeError) as error:
            raise Corrupt(f"{name}: its footer is malformed: {error}") from error

    def find(self, path: str) -> BlockInfo | None:
        """The only block that can hold the path; None if no block can."""
        index = bisect_right(self._first_paths, path) - 1
        return self._blocks[index] if index >= 0 else None

    def blocks(self, prefix: str = "") -> list[BlockInfo]:
        """The blocks, in order, that can hold paths which start with `prefix` (any string)."""
        if not prefix:
            return list(self._blocks)
        start = max(bisect_right(self._first_paths, prefix) - 1, 0)
        end = bisect_left(
            self._first_paths,
            True,
            key=lambda first: first > prefix and not first.startswith(prefix),
        )
        return self._blocks[start:end]


def _decode_index(location: ManifestLocation, data: bytes | memoryview) -> Iterator[BlockInfo]:
    if len(data) < TRAILER_BYTES:
        raise Corrupt("it is too short")
    raw_bytes, frame_bytes, magic = _TRAILER.unpack_from(data, len(data) - TRAILER_BYTES)
    if magic != MAGIC or frame_bytes + TRAILER_BYTES != len(data):
        raise Corrupt("its trailer does not fit")
    if raw_bytes > MAX_INDEX_BYTES:
        raise Corrupt(f"an index of {raw_bytes:,} bytes is too large")
    index = _INDEX.decode(zstd.decompress(memoryview(data)[:frame_bytes], raw_bytes))
    count = len(index.entry_counts) // 4
    first_paths = _unpacked(index.first_paths, count)
    entry_counts = _numbers(index.entry_counts, count, "I")
    entry_bytes = _numbers(index.entry_bytes, count, "Q")
    lengths = _numbers(index.lengths, count, "I")
    record_bytes = _numbers(index.record_bytes, count, "I")
    digests = _slices(index.digests, count, _BLOCK_DIGEST_BYTES)
    _check_paths(first_paths)
    if sum(entry_bytes) > MAX_BYTES:
        raise Corrupt("its sizes are out of range")
    offset = 0
    for row in range(count):
        limit = MAX_ENTRY_RECORD_BYTES if entry_counts[row] == 1 else MAX_RECORD_BYTES
        # An entry takes 55 bytes or more of its record; so a count cannot promise what is not there.
        if record_bytes[row] > limit or not 0 < entry_counts[row] * 55 <= record_bytes[row]:
            raise Corrupt(f"block {row} has impossible lengths")
        yield BlockInfo(
            object_id=location.object_id,
            first_path=first_paths[row],
            end_path=first_paths[row + 1] if row + 1 < count else None,
            entry_count=entry_counts[row],
            entry_bytes=entry_bytes[row],
            offset=offset,
            length=lengths[row],
            record_bytes=record_bytes[row],
            digest=digests[row],
        )
        offset += lengths[row]
    if offset != location.size - location.footer_bytes:
        raise Corrupt("its blocks do not fill the object")


def decode_block(info: BlockInfo, data: bytes | memoryview) -> list[Entry]:
    """The entries of a block, checked. `data` is `info.length` bytes from `info.offset`. Raises Corrupt."""
    name = f"manifest {info.object_id}, block at {info.offset:,}"
    if len(data) != info.length or _block_digest(data) != info.digest:
        raise Corrupt(f"{name}: its bytes are not those that were written")
    try:
        entries = decode_record(zstd.decompress(data, info.record_bytes), info.entry_count)
        if entries[0].path != info.first_path:
            raise Corrupt("its first path is not that of the index")
        if info.end_path is not None and not entries[-1].path < info.end_path:
            raise Corrupt("its last path does not precede the next block")
        if sum([entry.size for entry in entries]) != info.entry_bytes:
            raise Corrupt("its sizes do not add up")
    except (Corrupt, msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Corrupt(f"{name}: {error}") from error
    return entries


class _Columns(msgspec.Struct, frozen=True):
    """The columns that have a value for every entry."""

    object_ids: list[str]
    paths: list[str]
    digests: list[bytes]
    sizes: tuple[int, ...]
    flags: bytes
    indexes: tuple[int, ...]
    offsets: tuple[int, ...]


def decode_record(raw: bytes, count: int) -> list[Entry]:
    """The entries of an uncompressed record. Raises Corrupt, msgspec.DecodeError, UnicodeDecodeError."""
    record = _RECORD.decode(raw)
    columns = _decode_columns(record, count)
    listings = _decode_listings(record, columns.object_ids)
    references = _decode_references(record)
    if columns.flags.strip(b"\0\1") or not all(columns.sizes):
        return list(_decode_rows(columns, listings, references))
    # All in C: this is what nearly every block of a tree of small files looks like.
    objects = [columns.object_ids[index] for index in columns.indexes]
    return list(
        map(
            Entry,
            columns.paths,
            columns.digests,
            columns.sizes,
            zip(map(Extent, objects, columns.offsets, columns.sizes), strict=True),
            repeat(()),
            map(bool, columns.flags),
        )
    )


def _decode_columns(record: _Record, count: int) -> _Columns:
    raw_ids = _slices(record.objects, len(record.objects) // _OBJECT_ID_BYTES, _OBJECT_ID_BYTES)
    columns = _Columns(
        object_ids=[raw_id.hex() for raw_id in raw_ids],
        paths=_unpacked(record.paths, count),
        digests=_slices(record.digests, count, DIGEST_BYTES),
        sizes=_numbers(record.sizes, count, "Q"),
        flags=_slices(record.flags, 1, count)[0],
        indexes=_numbers(record.object_indexes, count, "I"),
        offsets=_numbers(record.offsets, count, "Q"),
    )
    _check_paths(columns.paths)
    if max(columns.sizes) > MAX_BYTES or max(columns.offsets) > MAX_BYTES:
        raise Corrupt("a size or offset is out of range")
    if max(columns.indexes) >= len(raw_ids):
        # Without objects there is nothing to point to: then every index must be the unused zero.
        has_plain = any(
            size and not flag & (_LISTED | _REFERENCE)
            for size, flag in zip(columns.sizes, columns.flags, strict=True)
        )
        if raw_ids or has_plain or any(columns.indexes):
            raise Corrupt("an extent names an object that is not in the table")
    return columns


def _decode_listings(
    record: _Record, object_ids: Sequence[str]
) -> Iterator[tuple[tuple[Extent, ...], tuple[Chunk, ...]]]:
    """Extents and chunks of the listed entries, in order."""
    count = sum([flag & _LISTED for flag in record.flags]) // _LISTED
    extent_counts = _numbers(record.extent_counts, count, "I")
    chunk_counts = _numbers(record.chunk_counts, count, "I")
    if len(record.extents) != sum(extent_counts) * _EXTENT.size:
        raise Corrupt("the column of extents has the wrong length")
    digests = _slices(record.chunk_digests, sum(chunk_counts), DIGEST_BYTES)
    lengths = _numbers(record.chunk_lengths, sum(chunk_counts), "I")
    rows = list(_EXTENT.iter_unpack(record.extents))
    if any(row[0] >= len(object_ids) for row in rows):
        raise Corrupt("an extent names an object that is not in the table")
    extents = (Extent(object_ids[index], offset, length) for index, offset, length in rows)
    chunks = map(Chunk, digests, lengths)
    return (
        (tuple(islice(extents, extent_count)), tuple(islice(chunks, chunk_count)))
        for extent_count, chunk_count in zip(extent_counts, chunk_counts, strict=True)
    )


def _decode_references(record: _Record) -> Iterator[Reference]:
    """The references, in order of their entries."""
    flags = [flag for flag in record.flags if flag & _REFERENCE]
    uris = _unpacked(record.uris, len(flags))
    etags = iter(_unpacked(record.etags, sum([flag & _HAS_ETAG for flag in flags]) // _HAS_ETAG))
    if not all(uris):
        raise Corrupt("a reference has no URI")
    return (
        Reference(
            uri,
            next(etags) if flag & _HAS_ETAG else None,
            bool(flag & _DIGEST_IS_CONTENT),
        )
        for uri, flag in zip(uris, flags, strict=True)
    )


def _decode_rows(
    columns: _Columns,
    listings: Iterator[tuple[tuple[Extent, ...], tuple[Chunk, ...]]],
    references: Iterator[Reference],
) -> Iterator[Entry]:
    """For blocks that hold anything but plain files that are not empty."""
    for path, digest, size, flag, index, offset in zip(
        columns.paths,
        columns.digests,
        columns.sizes,
        columns.flags,
        columns.indexes,
        columns.offsets,
        strict=True,
    ):
        extents: tuple[Extent, ...] = ()
        chunks: tuple[Chunk, ...] = ()
        reference = None
        kind = flag & ~_EXECUTABLE
        if kind == _LISTED:
            extents, chunks = next(listings)
        elif kind & _REFERENCE and not kind & ~_REFERENCE_FLAGS:
            reference = next(references)
        elif kind:
            raise Corrupt(f"{path}: unknown flags {flag:#x}")
        elif size:
            extents = (Extent(columns.object_ids[index], offset, size),)
        entry = Entry(path, digest, size, extents, chunks, bool(flag & _EXECUTABLE), reference)
        if kind == _LISTED and (problem := _listing_problem(entry)):
            raise Corrupt(f"{path}: {problem}")
        yield entry


def _check_paths(paths: Sequence[str]) -> None:
    if not _is_ascending(paths):
        raise Corrupt("its paths are not in ascending order, each once")
    if not all(map(is_safe_entry_path, paths)):
        unsafe = next(path for path in paths if not is_safe_entry_path(path))
        raise Corrupt(f"it holds the unsafe path {unsafe[:200]!r}")


def _numbers(column: bytes, count: int, kind: str) -> tuple[int, ...]:
    """`kind` is "I" for u32 and "Q" for u64."""
    if len(column) != count * (4 if kind == "I" else 8):
        raise Corrupt("a column of numbers has the wrong length")
    return struct.unpack(f"<{count}{kind}", column)


def _slices(column: bytes, count: int, width: int) -> list[bytes]:
    if len(column) != count * width:
        raise Corrupt(f"a column of {width}-byte values has the wrong length")
    return [column[start : start + width] for start in range(0, len(column), width)]


def _unpacked(column: bytes, count: int) -> list[str]:
    """Packed strings. Counted before they are made, so that no length is believed."""
    if column.count(0) != count or (column and column[-1]):
        raise Corrupt("a column of strings has the wrong number of them")
    return column.decode().split("\0")[:-1]


def _is_ascending(values: Sequence[str]) -> bool:
    return all(map(operator.lt, values, islice(values, 1, None)))


# --- the version's digest --------------------------------------------------------------------------


class ContentDigest:
    """The digest of a version: BLAKE3-256 over its paths and their contents, and nothing else.

    The bytes that are hashed: the header "asyncart content 1\\n", then for each entry, in ascending
    order of the paths' code points: u32 (little-endian) length of the path in UTF-8, the path, the 32
    bytes of the content's digest. Frozen for ever: two versions are the same if this is.

    100,000 pairs by `update_many`: see DIGEST_BATCH.
    """

    HEADER: ClassVar[bytes] = b"asyncart content 1\n"

    def __init__(self) -> None:
        self._hasher = blake3(self.HEADER)
        self._last_path = ""

    def update(self, path: str, digest: bytes) -> None:
        """The next entry. Raises Invalid if its path does not follow the one before."""
        self.update_many([path], [digest])

    def update_many(self, paths: Sequence[str], digests: Sequence[bytes]) -> None:
        """The next entries, in ascending order, as two columns of equal length."""
        if not paths and not digests:
            return
        if len(paths) != len(digests) or set(map(len, digests)) != {DIGEST_BYTES}:
            raise Invalid(f"each path needs one digest of {DIGEST_BYTES} bytes")
        if not self._last_path < paths[0] or not _is_ascending(paths):
            raise Invalid(f"{paths[0]}: entries must be added in ascending order, each path once")
        for start in range(0, len(paths), DIGEST_BATCH):
            encoded = [path.encode() for path in paths[start : start + DIGEST_BATCH]]
            pieces = [b""] * (3 * len(encoded))
            pieces[0::3] = map(_U32.pack, map(len, encoded))
            pieces[1::3] = encoded
            pieces[2::3] = digests[start : start + DIGEST_BATCH]
            self._hasher.update(b"".join(pieces))
        self._last_path = paths[-1]

    def digest(self) -> bytes:
        """32 bytes, for the entries so far."""
        return self._hasher.digest()
