"""One block of a manifest as columns: entries to bytes, and bytes to entries that may be trusted.

The format is written down in `engine.manifest`. The same rules hold in both directions: an entry that a
reader would not believe is not written (`Invalid`), and one that no writer would write is not believed
(`Corrupt`). Nothing here compresses, hashes or knows where a block lies.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from itertools import accumulate, islice, pairwise, repeat
from typing import NamedTuple, NoReturn

import msgspec

from asyncart.engine.columns import (
    check_paths,
    is_ascending,
    pack_strings,
    unpack_numbers,
    unpack_slices,
    unpack_strings,
)
from asyncart.errors import Corrupt, Invalid
from asyncart.model import DIGEST_BYTES, Chunk, Entry, Extent, Reference
from asyncart.names import are_safe_entry_paths, is_safe_entry_path

MAX_CHUNK_BYTES = 64 << 20  # readers hold a chunk in memory; ours are at most 4 MiB
MAX_BYTES = (1 << 62) - 1  # sizes, offsets, totals: two of them still add up in 63 bits

_EXECUTABLE = 1
_LISTED = 2
_REFERENCE = 4
_HAS_ETAG = 8
_DIGEST_IS_CONTENT = 16
_REFERENCE_FLAGS = _REFERENCE | _HAS_ETAG | _DIGEST_IS_CONTENT

_OBJECT_ID_BYTES = 16
_EXTENT = struct.Struct("<IQQ")


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


_RECORD = msgspec.msgpack.Decoder(_Record)


# --- writing ---


class PlainFiles(NamedTuple):
    """Consecutive files that are empty or one extent each, as columns: what nearly every block holds.

    An empty file has index 0 and offset 0, whatever object that is. `flags` is 1 for executables.
    """

    paths: list[str]
    digests: bytes
    sizes: Sequence[int]
    flags: bytes
    object_ids: list[str]
    indexes: Sequence[int]
    offsets: Sequence[int]


def encode_plain(files: PlainFiles, after: str = "") -> bytes:
    """The same record as `encode_record` makes of these files, without an object for each of them."""
    count = len(files.paths)
    _check_paths(files.paths, after)
    _check_numbers(files.paths, files.sizes, files.offsets)
    if len(files.digests) != count * DIGEST_BYTES:
        raise Invalid(
            f"{files.paths[0]}: {count} files need {count * DIGEST_BYTES} bytes of digests"
        )
    record = _Record(
        objects=b"".join([_object_id_bytes(object_id) for object_id in files.object_ids]),
        paths=pack_strings(files.paths),
        digests=files.digests,
        sizes=struct.pack(f"<{count}Q", *files.sizes),
        flags=files.flags,
        object_indexes=struct.pack(f"<{count}I", *files.indexes),
        offsets=struct.pack(f"<{count}Q", *files.offsets),
        **_encode_special((), bytearray(), {}),
    )
    return msgspec.msgpack.encode(record)


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
        paths=pack_strings(paths),
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
    _check_paths(paths, after)
    if set(map(len, digests)) != {DIGEST_BYTES}:
        path = next(p for p, d in zip(paths, digests, strict=True) if len(d) != DIGEST_BYTES)
        _refuse(path, f"its digest is not {DIGEST_BYTES} bytes long")
    _check_numbers(paths, sizes, offsets)


def _check_paths(paths: Sequence[str], after: str) -> None:
    if not after < paths[0] or not is_ascending(paths):
        for earlier, later in pairwise([after, *paths]):
            if not earlier < later:
                raise Invalid(
                    f"{later}: follows {earlier!r}: entries must be sorted, each path once"
                )
    if not are_safe_entry_paths(paths):
        unsafe = next(path for path in paths if not is_safe_entry_path(path))
        raise Invalid(f"{unsafe!r} is not a safe path for an entry")


def _check_numbers(paths: Sequence[str], sizes: Sequence[int], offsets: Sequence[int]) -> None:
    if min(sizes) < 0 or max(sizes) > MAX_BYTES or min(offsets) < 0 or max(offsets) > MAX_BYTES:
        for path, size, offset in zip(paths, sizes, offsets, strict=True):
            if not (0 <= size <= MAX_BYTES and 0 <= offset <= MAX_BYTES):
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
        "uris": pack_strings([reference.uri for reference in references]),
        "etags": pack_strings([item.etag for item in references if item.etag is not None]),
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


def _object_id_bytes(object_id: str) -> bytes:
    try:
        raw = bytes.fromhex(object_id)
    except ValueError:
        raw = b""
    if len(raw) != _OBJECT_ID_BYTES or raw.hex() != object_id:
        raise Invalid(f"{object_id!r} is not the id of an object (32 lower-case hex digits)")
    return raw


# --- reading ---


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
    raw_ids = unpack_slices(
        record.objects, len(record.objects) // _OBJECT_ID_BYTES, _OBJECT_ID_BYTES
    )
    columns = _Columns(
        object_ids=[raw_id.hex() for raw_id in raw_ids],
        paths=unpack_strings(record.paths, count),
        digests=unpack_slices(record.digests, count, DIGEST_BYTES),
        sizes=unpack_numbers(record.sizes, count, "Q"),
        flags=unpack_slices(record.flags, 1, count)[0],
        indexes=unpack_numbers(record.object_indexes, count, "I"),
        offsets=unpack_numbers(record.offsets, count, "Q"),
    )
    check_paths(columns.paths)
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
    extent_counts = unpack_numbers(record.extent_counts, count, "I")
    chunk_counts = unpack_numbers(record.chunk_counts, count, "I")
    if len(record.extents) != sum(extent_counts) * _EXTENT.size:
        raise Corrupt("the column of extents has the wrong length")
    digests = unpack_slices(record.chunk_digests, sum(chunk_counts), DIGEST_BYTES)
    lengths = unpack_numbers(record.chunk_lengths, sum(chunk_counts), "I")
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
    uris = unpack_strings(record.uris, len(flags))
    etags = iter(
        unpack_strings(record.etags, sum([flag & _HAS_ETAG for flag in flags]) // _HAS_ETAG)
    )
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
