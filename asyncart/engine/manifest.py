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
sizes, offsets and their total are below 2^62; extents are not empty and add up to the size; chunks are
1 byte to 64 MiB long and add up to the size; where a chunked entry has several extents, each ends at
the end of a chunk; an entry of size 0 has neither; a reference has neither, and only references have
the flags 8 and 16.

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

import struct
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from typing import ClassVar

import msgspec
from blake3 import blake3

from asyncart.engine import zstd
from asyncart.engine.columns import (
    check_paths,
    is_ascending,
    pack_strings,
    unpack_numbers,
    unpack_slices,
    unpack_strings,
)
from asyncart.engine.records import (
    MAX_BYTES,
    PlainFiles,
    decode_record,
    encode_plain,
    encode_record,
)
from asyncart.errors import Corrupt, Invalid
from asyncart.model import DIGEST_BYTES, Entry, ManifestLocation

MAGIC = b"asyncart manifest 1\n"
TRAILER_BYTES = 28

BLOCK_ENTRIES = 512  # 21 KB to fetch for one entry; the footer of 1,000,000 entries stays at 60 KB
BLOCK_BYTES = 128 << 10  # estimate of the record; a longer one only if a single entry needs it

MAX_RECORD_BYTES = 1 << 20  # several entries: BLOCK_BYTES with room for other writers
MAX_ENTRY_RECORD_BYTES = 256 << 20  # a single entry: 36 bytes per chunk
MAX_INDEX_BYTES = 64 << 20  # some 250,000,000 entries

DIGEST_BATCH = 4096  # pairs hashed at once by ContentDigest: some 300 KB

_BLOCK_DIGEST_BYTES = 16
_TRAILER = struct.Struct("<II20s")
_U32 = struct.Struct("<I")
_LEVEL = 1  # level 3 saves 4 % (digests do not compress) and takes twice the time


class _Index(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The columns of the footer; the names are those of the format."""

    first_paths: bytes
    entry_counts: bytes
    entry_bytes: bytes
    lengths: bytes
    record_bytes: bytes
    digests: bytes


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

    Write out, in order, what `append` returns (often nothing), then what `finish` returns. It keeps at
    most one block of entries, the index of those written (about 1 KB each) and the set of object ids;
    so append a bounded number of entries at a time. After an exception the writer is of no use.
    """

    def __init__(self, *, block_entries: int = BLOCK_ENTRIES) -> None:
        self.entry_count = 0
        self.total_size = 0
        self.object_ids: set[str] = set()  # every object that an extent names
        self.size = 0  # bytes returned so far
        self._block_entries = block_entries
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
                len(self._pending) >= self._block_entries or self._pending_cost + cost > BLOCK_BYTES
            ):
                finished.append(self._close_block())
            self._pending.append(entry)
            self._pending_cost += cost
        return finished

    def append_plain(self, files: PlainFiles) -> list[bytes]:
        """The same for up to `block_entries` plain files, which become a block of their own."""
        if self._footer is not None:
            raise Invalid("the manifest is finished: begin a new one")
        finished = [self._close_block()] if self._pending else []
        record = encode_plain(files, self._last_path)
        size = sum(files.sizes)
        finished.append(self._add_block(record, files.paths, size, files.object_ids))
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
        paths = [entry.path for entry in entries]
        self._pending = []
        self._pending_cost = 0
        return self._add_block(record, paths, sum([entry.size for entry in entries]), object_ids)

    def _add_block(
        self, record: bytes, paths: Sequence[str], entry_bytes: int, object_ids: Sequence[str]
    ) -> bytes:
        limit = MAX_ENTRY_RECORD_BYTES if len(paths) == 1 else MAX_RECORD_BYTES
        if len(record) > limit:
            raise Invalid(
                f"{paths[0]}: its record takes {len(record):,} bytes in the manifest, more than "
                f"{limit:,}: split the file"
            )
        if self.total_size + entry_bytes > MAX_BYTES:
            raise Invalid(f"{paths[-1]}: the sizes add up to more than {MAX_BYTES:,} bytes")
        block = zstd.compress(record, _LEVEL)
        info = BlockInfo(
            object_id="",
            first_path=paths[0],
            end_path=None,
            entry_count=len(paths),
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
        self._last_path = paths[-1]
        return block


def _cost(entry: Entry) -> int:
    """About how many bytes the entry adds to its record.

    Characters count as one byte, so it may be up to four times too low, which leaves a block of several
    entries well below MAX_RECORD_BYTES.
    """
    cost = 64 + len(entry.path)
    if entry.chunks or len(entry.extents) > 1:
        cost += 36 * len(entry.chunks) + 36 * len(entry.extents)
    if entry.reference is not None:
        cost += len(entry.reference.uri) + len(entry.reference.etag or "")
    return cost


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
        first_paths=pack_strings([block.first_path for block in blocks]),
        entry_counts=struct.pack(f"<{count}I", *[block.entry_count for block in blocks]),
        entry_bytes=struct.pack(f"<{count}Q", *[block.entry_bytes for block in blocks]),
        lengths=struct.pack(f"<{count}I", *[block.length for block in blocks]),
        record_bytes=struct.pack(f"<{count}I", *[block.record_bytes for block in blocks]),
        digests=b"".join([block.digest for block in blocks]),
    )
    return msgspec.msgpack.encode(index)


# --- reading ---------------------------------------------------------------------------------------


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
    first_paths = unpack_strings(index.first_paths, count)
    entry_counts = unpack_numbers(index.entry_counts, count, "I")
    entry_bytes = unpack_numbers(index.entry_bytes, count, "Q")
    lengths = unpack_numbers(index.lengths, count, "I")
    record_bytes = unpack_numbers(index.record_bytes, count, "I")
    digests = unpack_slices(index.digests, count, _BLOCK_DIGEST_BYTES)
    check_paths(first_paths)
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


# --- the version's digest --------------------------------------------------------------------------


class ContentDigest:
    """The digest of a version: BLAKE3-256 over its paths and their contents, and nothing else.

    The bytes that are hashed: the header "asyncart content 1\\n", then for each entry, in ascending
    order of the paths' code points: u32 (little-endian) length of the path in UTF-8, the path, the 32
    bytes of the content's digest. Frozen for ever: two versions are the same if this is.

    `update_many` takes 23 ms for 100,000 pairs; in one call or in batches gives the same.
    """

    HEADER: ClassVar[bytes] = b"asyncart content 1\n"

    def __init__(self) -> None:
        self._hasher = blake3(self.HEADER)
        self._last_path = ""

    def update_many(self, paths: Sequence[str], digests: Sequence[bytes]) -> None:
        """The next entries as two columns of equal length. Raises Invalid if a path does not follow the one
        before."""
        if not paths and not digests:
            return
        if len(paths) != len(digests) or set(map(len, digests)) != {DIGEST_BYTES}:
            raise Invalid(f"each path needs one digest of {DIGEST_BYTES} bytes")
        if not self._last_path < paths[0] or not is_ascending(paths):
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
